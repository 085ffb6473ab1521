"""What goes into the transforming process and what comes out of it. Standard library only: both sides import it."""

import dataclasses
import enum
import json
from dataclasses import dataclass

from openmcp_chain.executors.codes import Code, Refused

INPUT = "input"
"""The name of the input in the job's folder, and of the table that SQL sees."""
OUTPUT = "output"
"""The name of the artifact in the job's folder."""
_LONGEST = 2000
"""Characters of a message. The line of a reply has to fit what asyncio reads at once, 64 KiB, all of it escaped."""


class Format(enum.StrEnum):
    """How rows are written down."""

    JSON = "json"
    """In: an array of objects, one object, or objects one after the other. Out: an array of objects."""
    NDJSON = "ndjson"
    """One object a line. Read exactly as `JSON`."""
    CSV = "csv"
    """RFC 4180: commas, double quotes, UTF-8, a header line."""
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One transformation, in a folder that holds the input and is to hold the output."""

    input_format: Format
    output_format: Format
    sql: str | None
    """One SELECT over the table `input`; without it, every row goes through."""
    memory_bytes: int
    spill_bytes: int
    output_bytes: int
    output_rows: int
    threads: int

    def encode(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Job":
        fields = json.loads(line)
        for name in ("input_format", "output_format"):
            fields[name] = Format(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Done:
    """What a job that ended well counted."""

    rows_in: int
    rows: int
    columns: int


def encode_reply(reply: Done | Refused | str) -> bytes:
    """A job's end as one line: done, refused, or a fault of ours (its place in the code, without any value)."""
    match reply:
        case Done():
            body: dict[str, object] = {"done": dataclasses.asdict(reply)}
        case Refused():
            body = {"refused": [reply.code, _cut(reply.message)]}
        case str():
            body = {"fault": _cut(reply)}
    return json.dumps(body).encode() + b"\n"


def decode_reply(line: bytes) -> Done:
    """The reverse.

    Raises:
        Refused: The job was refused.
        RuntimeError: The transforming process met a fault of ours.
    """
    body = json.loads(line)
    if "done" in body:
        return Done(**body["done"])
    if "refused" in body:
        code, message = body["refused"]
        raise Refused(Code(code), message)
    raise RuntimeError(f"the transforming process met a fault: {body['fault']}")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
