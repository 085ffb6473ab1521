"""Loading the input into the table `input`, so that no value changes on the way in.

DuckDB's readers guess types, and a guess can lose something: `007` read as a number is 7, an upper-case UUID comes back
in lower case, `2024-01-01T00:00:00Z` comes back as `2024-01-01 00:00:00+00`. So here a JSON string stays a string, and
a CSV column gets a type only if every one of its values survives that type. And they take much that is neither JSON nor
CSV, so `strict_json` and `strict_csv` look at it before. `docs/data-pipeline.md` says what does not survive.
"""

import json
import pathlib
import re
import shutil
import sys
from collections.abc import Mapping, Sequence

import duckdb

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform import exact, strict_csv, strict_json
from openmcp_chain.executors.transform.job import INPUT, Format, Job
from openmcp_chain.executors.transform.tables import clash, columns, quoted, spelled

_BOM = b"\xef\xbb\xbf"
_SPARE = 1 << 10
"""Bytes that DuckDB may count to a record besides."""
_CSV_TYPES = ("BOOLEAN", "BIGINT", "DATE", "TIMESTAMP", "DOUBLE")
_FIRST_ROWS = 2048
_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_TWICE = re.compile(r'Duplicate name "(".*")" in struct')
"""DuckDB's word for it that of two fields in objects (in JSON, anywhere but at the top) only case tells one."""
_COLUMNS = 1000
"""Of a CSV file. To find the types of so many takes seconds, and of more far longer."""
_TESTS = 50
"""Of columns and types in one query: what a query costs grows faster than what is in it."""


def load(connection: duckdb.DuckDBPyConnection, job: Job) -> int | None:
    """Makes the table `input`. Returns its number of rows, or None if the input has no columns: no table can be made.

    Raises:
        Refused: INPUT_INVALID, saying what and where.
    """
    path = pathlib.Path(INPUT)
    try:
        if job.input_format is Format.PARQUET:
            _check_parquet_names(connection)
            connection.execute(f"CREATE TABLE \"{INPUT}\" AS FROM read_parquet('{INPUT}')")
        else:
            _drop_bom(path)
            found = _load_csv(connection, path) if job.input_format is Format.CSV else _load_json(connection, path, job)
            if not found:
                return None
    except duckdb.OutOfMemoryException:
        raise
    except (strict_json.Fault, strict_csv.Fault, exact.Fault) as fault:
        raise Refused(Code.INPUT_INVALID, str(fault)) from None
    except duckdb.Error as error:
        if twice := _TWICE.search(str(error)):
            what = f"a field {twice[1]} in objects, which only case tells from another"
            raise Refused(Code.INPUT_INVALID, what) from None
        raise Refused(Code.INPUT_INVALID, _explain(error, path, job.input_format)) from None
    (rows,) = connection.execute(f'SELECT count(*) FROM "{INPUT}"').fetchall()[0]
    return int(rows)


def _check_parquet_names(connection: duckdb.DuckDBPyConnection) -> None:
    """Looks at the names as they are in the file: `read_parquet` gives one that is there before another one."""
    # Each group before what is in it; the first is the whole file's.
    nodes = connection.execute(f"SELECT name, num_children FROM parquet_schema('{INPUT}')").fetchall()
    # The groups that a node is in, each with the number of its nodes, and the names of those that were met.
    inside: list[tuple[str, int, list[str]]] = []
    for name, size in nodes:
        if inside:
            inside[-1][2].append(name)
        inside.append((name, size or 0, []))
        while inside and len(inside[-1][2]) >= inside[-1][1]:
            path = [group for group, _, _ in inside[1:]]
            _, _, names = inside.pop()
            if same := clash(names):
                what = f"a field {same}, in {json.dumps('.'.join(path))}" if path else f"a column {same}"
                raise Refused(Code.INPUT_INVALID, f"has {what}")
            if not inside and "" in names:
                raise Refused(Code.INPUT_INVALID, "has a column without a name")


def _drop_bom(path: pathlib.Path) -> None:
    with path.open("rb") as old:
        if old.read(len(_BOM)) != _BOM:
            return
        with path.with_suffix(".plain").open("wb") as new:
            shutil.copyfileobj(old, new)
    path.with_suffix(".plain").replace(path)


def _load_json(connection: duckdb.DuckDBPyConnection, path: pathlib.Path, job: Job) -> bool:
    # Without SQL, and with no types to fill, each value goes through as it is written: depth 1 keeps it as JSON.
    as_written = job.sql is None and job.output_format is not Format.PARQUET
    found = strict_json.check(path, doubles=not as_written)
    if not found.records:
        return False
    if not found.fields:
        raise Refused(Code.INPUT_INVALID, "the records have no named fields")
    size = max(path.stat().st_size, 1)
    options = f"format = '{found.layout}', maximum_object_size = {min(size, strict_json.LARGEST + _SPARE)}"
    written = _guessed(options, depth=1)
    guess = written if as_written else _guessed(options, depth=-1)
    kinds = columns(connection, guess)
    strings = {name: spelled(kind, {"UUID": "VARCHAR"}) for name, kind in kinds.items()}
    if strings != {name: spelled(kind, {}) for name, kind in kinds.items()}:
        listed = ", ".join(f"{_literal(name)}: {_literal(kind)}" for name, kind in strings.items())
        guess = f"read_json('{INPUT}', columns = {{{listed}}}, {options})"
    connection.execute(f'CREATE TABLE "{INPUT}" AS FROM {guess}')
    if found.rounds:
        exact.check(connection, written)
    return True


def _guessed(options: str, depth: int) -> str:
    """The table function that reads JSON with types by its values, JSON for all that is nested deeper than `depth`."""
    return (
        f"read_json('{INPUT}', records = 'true', sample_size = -1, maximum_depth = {depth}, "
        # A format that no string has: strings that look like dates stay strings.
        f"dateformat = '%%', timestampformat = '%%', map_inference_threshold = -1, {options})"
    )


def _load_csv(connection: duckdb.DuckDBPyConnection, path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        if not file.read(4096).strip() and not file.read(1):
            return False
    header = strict_csv.check(path)
    if len(header) > _COLUMNS:
        raise Refused(Code.INPUT_INVALID, f"line 1: has {len(header)} columns; at most {_COLUMNS} are read")
    names = [text or f"column{position}" for position, text in enumerate(header)]
    if same := clash(names):
        raise Refused(Code.INPUT_INVALID, f"line 1: has a column {same}")
    listed = ", ".join(f"{_literal(name)}: 'VARCHAR'" for name in names)
    # One fixed dialect: a wrong guess would change the data without a word.
    connection.execute(
        f"CREATE TEMP TABLE text AS FROM read_csv('{INPUT}', columns = {{{listed}}}, auto_detect = false, "
        "header = true, delim = ',', quote = '\"', escape = '\"', comment = '', skip = 0, "
        "allow_quoted_nulls = false, strict_mode = true)"
    )
    kinds = _types(connection, names)
    typed = ", ".join(f"CAST({quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in kinds.items())
    connection.execute(f'CREATE TABLE "{INPUT}" AS SELECT {typed} FROM text')
    connection.execute("DROP TABLE text")
    return True


def _types(connection: duckdb.DuckDBPyConnection, names: list[str]) -> dict[str, str]:
    """For each column of `text`, the first type that loses none of its values."""
    # The first rows rule most types out, so that all rows are tested for few.
    undecided = _passing(connection, dict.fromkeys(names, _CSV_TYPES), f"(FROM text LIMIT {_FIRST_ROWS})", empty=True)
    decided = _passing(connection, undecided, "text", empty=False)
    return {name: next(iter(kinds), "VARCHAR") for name, kinds in decided.items()}


def _passing(
    connection: duckdb.DuckDBPyConnection, wanted: Mapping[str, Sequence[str]], source: str, *, empty: bool
) -> dict[str, list[str]]:
    """For each column, those of the wanted types that lose no value; `empty` says whether no value at all will do."""
    pairs = [(name, kind) for name, kinds in wanted.items() for kind in kinds]
    passing: dict[str, list[str]] = {name: [] for name in wanted}
    for some in (pairs[at : at + _TESTS] for at in range(0, len(pairs), _TESTS)):
        tests = ", ".join(
            f"bool_and(coalesce({_survives(quoted(name), kind)}, false)) FILTER ({quoted(name)} IS NOT NULL)"
            for name, kind in some
        )
        verdicts = connection.execute(f"SELECT {tests} FROM {source}").fetchall()[0]
        for (name, kind), verdict in zip(some, verdicts, strict=True):
            if verdict or (empty and verdict is None):
                passing[name].append(kind)
    return passing


def _survives(value: str, kind: str) -> str:
    """SQL that says whether the text is the same after it has been of this type."""
    if kind != "DOUBLE":
        return f"TRY_CAST({value} AS {kind})::VARCHAR = {value}"
    # A double holds every decimal number of 15 significant digits (IEEE 754), unless it is infinite or subnormal to it;
    # here `1.50` may come back as `1.5`.
    digits = f"length(regexp_replace(regexp_replace({value}, '[eE].*', ''), '^-?0+\\.?0*|[^0-9]', '', 'g'))"
    held = f"abs(TRY_CAST({value} AS DOUBLE)) BETWEEN {sys.float_info.min!r} AND {sys.float_info.max!r}"
    most = f"CASE WHEN {held} THEN 15 ELSE 0 END"
    return f"regexp_full_match({value}, '{_NUMBER}') AND {digits} <= {most}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _explain(error: duckdb.Error, path: pathlib.Path, kind: Format) -> str:
    """What is wrong with an input that passed our own checks."""
    if kind in (Format.JSON, Format.NDJSON):
        try:
            strict_json.check(path, walk=True)  # finds what is nested too deep
        except strict_json.Fault as fault:
            return str(fault)
    # DuckDB names its file, which is ours and not the tenant's.
    first = re.sub(r"(?i)( in)? file ['\"][^'\"]*['\"]", "", " " + str(error).splitlines()[0]).strip()
    first = first.removeprefix("Invalid Input Error: ")
    return f"not a Parquet file, or a damaged one: {first}" if kind is Format.PARQUET else first
