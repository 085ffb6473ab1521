"""How much one task may take of the worker."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one task. Whatever passes one of them ends FAILED, with an error that names the bound.

    The disk needs room for `input_bytes + spill_bytes + output_bytes` for each task at once, the memory for
    `memory_bytes`, and for an artifact on S3 for `output_bytes` more.
    """

    input_bytes: int = 256 << 20
    output_bytes: int = 256 << 20
    output_rows: int = 10_000_000
    memory_bytes: int = 512 << 20
    """DuckDB's limit. The process may have twice this and 1 GiB of address space."""
    spill_bytes: int = 1 << 30
    """Temporary files of a query that does not fit into memory."""
    threads: int = 2
    transform_seconds: float = 300.0
    """Reading, SQL and writing, together."""
    transfer_seconds: float = 300.0
    """Fetching the input, and again writing the artifact."""
    stall_seconds: float = 30.0
    """The longest silence of a host while it sends."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be more than 0")
        if self.output_bytes > 5 << 30:
            raise ValueError("output_bytes: S3 takes at most 5 GiB in one piece")
