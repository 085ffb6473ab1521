"""One job from beginning to end: open DuckDB, load `input`, lock the door, run the SQL, write `output`."""

import os
import pathlib

import duckdb

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform import guard, reading, tables, writing
from openmcp_chain.executors.transform.job import INPUT, OUTPUT, Done, Job

_RESULT = "result"
_LONGEST = 1000
"""Characters of DuckDB's message that are worth passing on."""


def run(job: Job) -> Done:
    """Does the job in the current folder.

    Raises:
        Refused: It can't be done.
        duckdb.OutOfMemoryException: Past the limits on memory or temporary space.
    """
    connection = _open(job)
    rows_in = reading.load(connection, job)
    _lock(connection)
    if rows_in is None:
        if job.sql is None:
            return writing.write_nothing(job.output_format)
        # DuckDB has no table without columns; the name of the only one is DuckDB's own for this case.
        connection.execute(f'CREATE TABLE "{INPUT}" ("json" JSON)')
    if job.sql is None:
        connection.execute(f'CREATE VIEW "{_RESULT}" AS FROM "{INPUT}"')
        blame = Code.OUTPUT_INVALID
    else:
        _select(connection, job.sql)
        blame = Code.SQL_INVALID
    try:
        rows, columns = writing.write(connection, _RESULT, OUTPUT, job)
    except duckdb.IOException:
        if pathlib.Path(OUTPUT).exists() and pathlib.Path(OUTPUT).stat().st_size >= job.output_bytes:
            raise Refused(Code.OUTPUT_TOO_LARGE, f"has more than {job.output_bytes} bytes") from None
        raise Refused(Code.LIMIT_EXCEEDED, "ran out of temporary space") from None
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        if writing.NOT_JSON in str(error):
            raise Refused(Code.OUTPUT_INVALID, writing.NOT_JSON) from None
        # What follows quotes a statement of ours, not the tenant's.
        raise Refused(blame, said(error).split("\n\nLINE ")[0]) from None
    return Done(rows_in or 0, rows, columns)


def said(error: duckdb.Error) -> str:
    """DuckDB's message, in bounds, without the folder."""
    text = str(error).split("\n\nPossible solutions")[0].replace(f"{pathlib.Path.cwd()}{os.sep}", "").strip()
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _open(job: Job) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        ":memory:",
        config={
            "threads": job.threads,
            "memory_limit": f"{job.memory_bytes}B",
            "temp_directory": "spill",
            "max_temp_directory_size": f"{job.spill_bytes}B",
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
            "allow_community_extensions": False,
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,  # else `FROM name` finds our own variables
            "home_directory": "none",
            "secret_directory": "none",
            "extension_directory": "none",
        },
    )


def _lock(connection: duckdb.DuckDBPyConnection) -> None:
    """From here on the connection reaches nothing but `output`, and no statement can change that."""
    connection.execute(f"SET allowed_paths = ['{OUTPUT}']")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Makes the view `result` from the tenant's SQL."""
    try:
        relation = connection.query(guard.check(connection, sql))
        if same := tables.clash(relation.columns):
            raise Refused(Code.SQL_INVALID, f"its result has a column {same}; name them apart with AS")
        relation.create_view(_RESULT, replace=True)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise Refused(Code.SQL_INVALID, said(error)) from None
