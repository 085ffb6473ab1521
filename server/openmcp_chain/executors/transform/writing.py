"""Writing the result, so that what a format can hold arrives unchanged, and what it can't is an error."""

import pathlib
import re

import duckdb
from duckdb.sqltypes import DuckDBPyType

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform import strict_json
from openmcp_chain.executors.transform.job import OUTPUT, Done, Format, Job
from openmcp_chain.executors.transform.tables import columns, quoted, spelled

_COPY = {
    Format.JSON: "FORMAT json, ARRAY true",
    Format.NDJSON: "FORMAT json",
    Format.CSV: "FORMAT csv, HEADER true",
    Format.PARQUET: "FORMAT parquet, COMPRESSION zstd",
}
_NESTED = re.compile(r"\[\d*\]$|^(STRUCT|MAP|UNION|VARIANT)\b")
_HOLDS_JSON = re.compile(r"(?<![\w\"])JSON\b")
NOT_JSON = "a JSON value holds NaN, an infinity or a comma too many"
"""What a query says that comes upon one in a column. To DuckDB they are JSON."""


def write(connection: duckdb.DuckDBPyConnection, source: str, target: str, job: Job) -> tuple[int, int]:
    """Writes the rows of `source` to `target`. Returns the number of rows and of columns.

    Raises:
        Refused: OUTPUT_TOO_LARGE, OUTPUT_INVALID.
        duckdb.Error: The query behind `source` fails.
    """
    kinds = columns(connection, source)
    listed = ", ".join(_expressible(name, kind, job.output_format) for name, kind in kinds.items())
    copy = f"{_COPY[job.output_format]}, USE_TMP_FILE false"
    _try_types(connection, f"COPY (SELECT {listed} FROM \"{source}\" LIMIT 0) TO '{target}' ({copy})")
    limited = f'SELECT {listed} FROM "{source}" LIMIT {job.output_rows + 1}'
    (rows,) = connection.execute(f"COPY ({limited}) TO '{target}' ({copy})").fetchall()[0]
    if rows > job.output_rows:
        raise Refused(Code.OUTPUT_TOO_LARGE, f"has more than {job.output_rows} rows")
    if pathlib.Path(OUTPUT).stat().st_size > job.output_bytes:
        raise Refused(Code.OUTPUT_TOO_LARGE, f"has more than {job.output_bytes} bytes")
    if job.output_format in (Format.JSON, Format.NDJSON) and not _carried(job):
        _check_json(pathlib.Path(OUTPUT))
    return rows, len(kinds)


def write_nothing(kind: Format) -> Done:
    """Writes the artifact of an input that has neither rows nor columns."""
    if kind is Format.PARQUET:
        raise Refused(Code.OUTPUT_INVALID, "has no columns, and a Parquet file needs one")
    pathlib.Path(OUTPUT).write_bytes(b"[]\n" if kind is Format.JSON else b"")
    return Done(0, 0, 0)


def _expressible(name: str, kind: DuckDBPyType, target: Format) -> str:
    """The column as an expression whose type the format can hold."""
    value = quoted(name)
    if target is Format.CSV and str(kind) == "JSON":
        return f"{_sound(value, value)} ->> '$' AS {value}"
    if target is Format.CSV and _NESTED.search(str(kind)):
        return f"{_sound(f'to_json({value})', f'to_json({value})')} AS {value}"
    if target is Format.PARQUET:
        # DuckDB would write these as doubles, and lose digits past 2^53.
        exact = spelled(kind, {"HUGEINT": "DECIMAL(38,0)", "UHUGEINT": "DECIMAL(38,0)"})
        cast = value if exact == spelled(kind, {}) else f"CAST({value} AS {exact})"
        if _HOLDS_JSON.search(str(kind)):
            cast = _sound(value if str(kind) == "JSON" else f"to_json({value})", cast)
        return f"{cast} AS {value}"
    return value


def _sound(text: str, value: str) -> str:
    """The value, as an expression that fails if the text, which DuckDB takes for JSON, is none."""
    # Outside of its strings: the only letters that JSON has are those of true, false, null and the exponent.
    bare = f"""regexp_replace({text}::VARCHAR, '"([^"\\\\]|\\\\.)*"', '""', 'g')"""
    return f"CASE WHEN regexp_matches({bare}, '(?i)nan|inf|,\\s*[\\]}}]') THEN error('{NOT_JSON}') ELSE {value} END"


def _try_types(connection: duckdb.DuckDBPyConnection, copy: str) -> None:
    """Finds out whether the format has all the types, which is not the query's fault, before any row is asked for."""
    try:
        connection.execute(copy)
    except duckdb.InvalidInputException as error:
        raise Refused(Code.OUTPUT_INVALID, str(error).removeprefix("Invalid Input Error: ")) from None


def _carried(job: Job) -> bool:
    """Whether all values of the result are those of an input that was found to be JSON, or of CSV."""
    return job.sql is None and job.input_format is not Format.PARQUET


def _check_json(path: pathlib.Path) -> None:
    """DuckDB writes NaN and infinities as they are, and SQL can make JSON values that are none, or have a key twice."""
    try:
        strict_json.check(path, largest=None)
    except strict_json.Fault as fault:
        raise Refused(Code.OUTPUT_INVALID, f"row {fault.record}: {fault.what}") from None
