"""What the tests of the transformation share."""

import io
import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform import query
from openmcp_chain.executors.transform.job import Done, Format, Job

Transform = Callable[..., tuple[Done, bytes]]


def run(
    data: bytes | str, source: str = "json", target: str = "json", sql: str | None = None, **limits: int
) -> tuple[Done, bytes]:
    """In the working directory."""
    pathlib.Path("input").write_bytes(data if isinstance(data, bytes) else data.encode())
    settings: dict[str, Any] = {
        "memory_bytes": 256 << 20,
        "spill_bytes": 64 << 20,
        "output_bytes": 16 << 20,
        "output_rows": 1000,
        "threads": 2,
    } | limits
    done = query.run(Job(input_format=Format(source), output_format=Format(target), sql=sql, **settings))
    return done, pathlib.Path("output").read_bytes()


def refusal(transform: Transform, *arguments: Any, **options: Any) -> tuple[Code, str]:
    with pytest.raises(Refused) as caught:
        transform(*arguments, **options)
    return caught.value.code, caught.value.message


def parquet(**columns: Any) -> bytes:
    """A file with these columns."""
    return written(pa.table(columns))


def written(table: pa.Table) -> bytes:
    """A Parquet file of this table, whose columns may have any names."""
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()
