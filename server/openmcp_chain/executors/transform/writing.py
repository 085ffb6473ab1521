"""Writing the result, so that what a format can hold arrives unchanged, and what it can't is an error."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Never

import duckdb

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform.job import OUTPUT, Done, Format, Job
from openmcp_chain.executors.transform.reading import columns, quoted, retype

_COPY = {
    Format.JSON: "FORMAT json, ARRAY true",
    Format.NDJSON: "FORMAT json",
    Format.CSV: "FORMAT csv, HEADER true",
    Format.PARQUET: "FORMAT parquet, COMPRESSION zstd",
}
_NESTED = re.compile(r"\[\d*\]$|^(STRUCT|MAP|UNION|VARIANT)\b")
_NO_JSON = re.compile(rb"\b(NaN|Infinity)\b")


def write(connection: duckdb.DuckDBPyConnection, source: str, target: str, job: Job) -> tuple[int, int]:
    """Writes the rows of `source` to `target`. Returns the number of rows and of columns.

    Raises:
        Refused: OUTPUT_TOO_LARGE, OUTPUT_INVALID.
        duckdb.Error: The query behind `source` fails.
    """
    kinds = columns(connection, source)
    listed = ", ".join(_expressible(name, kind, job.output_format) for name, kind in kinds.items())
    copy = f"{_COPY[job.output_format]}, USE_TMP_FILE false"
    limited = f'SELECT {listed} FROM "{source}" LIMIT {job.output_rows + 1}'
    (rows,) = connection.execute(f"COPY ({limited}) TO '{target}' ({copy})").fetchall()[0]
    if rows > job.output_rows:
        raise Refused(Code.OUTPUT_TOO_LARGE, f"has more than {job.output_rows} rows")
    if pathlib.Path(OUTPUT).stat().st_size > job.output_bytes:
        raise Refused(Code.OUTPUT_TOO_LARGE, f"has more than {job.output_bytes} bytes")
    if job.output_format in (Format.JSON, Format.NDJSON):
        _check_json(pathlib.Path(OUTPUT), first_row=2 if job.output_format is Format.JSON else 1)
    return rows, len(kinds)


def write_nothing(kind: Format) -> Done:
    """Writes the artifact of an input that has neither rows nor columns."""
    if kind is Format.PARQUET:
        raise Refused(Code.OUTPUT_INVALID, "has no columns, and a Parquet file needs one")
    pathlib.Path(OUTPUT).write_bytes(b"[]\n" if kind is Format.JSON else b"")
    return Done(0, 0, 0)


def _expressible(name: str, kind: str, target: Format) -> str:
    """The column as an expression whose type the format can hold."""
    value = quoted(name)
    if target is Format.CSV and kind == "JSON":
        return f"{value} ->> '$' AS {value}"
    if target is Format.CSV and _NESTED.search(kind):
        return f"to_json({value}) AS {value}"
    if target is Format.PARQUET:
        # DuckDB would write these as doubles, and lose digits past 2^53.
        exact = retype(kind, {"HUGEINT": "DECIMAL(38,0)", "UHUGEINT": "DECIMAL(38,0)"})
        if exact != kind:
            return f"CAST({value} AS {exact}) AS {value}"
    return value


def _check_json(path: pathlib.Path, first_row: int) -> None:
    """DuckDB writes NaN and infinities as they are, which is no JSON. It writes each row on a line of its own."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if _NO_JSON.search(line):
                json.loads(line.strip().rstrip(b","), parse_constant=_refuse(number - first_row + 1))


def _refuse(row: int) -> Callable[[str], Never]:
    def refuse(constant: str) -> Never:
        raise Refused(Code.OUTPUT_INVALID, f"row {row}: JSON has no {constant}")

    return refuse
