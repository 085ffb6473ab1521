"""What a payload or a result must be like, so that it can be kept and read back exactly, by gRPC and as JSON.

The server checks what it is sent; our client and worker check it before they send it, so that it is told where it was
made, and since a message that the server can't read at all would end a worker's stream.
"""

import math
from collections.abc import Iterable
from typing import TypeAlias

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from openmcp_chain.domain.errors import Violation

BYTES = 1024 * 1024
LEVELS = 32
TINY = 1e-100
TINY_NUMBERS = 10_000
"""How many numbers closer to 0 than `TINY` a Struct may have. 95,000 would fit in; but Envoy takes up to 32 us to write
one as JSON, some 20 times as long as others, and all its callers wait meanwhile (docs/decisions/0002-envoy.md)."""

_EMPTY = 2
"""Bytes of a Value that is a container with nothing in it, which need not be looked into."""

# A linked path, the innermost step first: it is written out only for the one fault that is reported. Written out for
# each value, a long key above many values would take gigabytes.
_Path: TypeAlias = tuple["_Path | None", str]


def fault(field: str, struct: Struct) -> Violation | None:
    """The first thing that is wrong with the Struct, or None. An own stack: depth comes from the caller."""
    size, tiny = struct.ByteSize(), 0
    if size > BYTES:
        return Violation(field, f"has {size} bytes; at most {BYTES} are allowed. Send larger data by URI.")
    stack: list[tuple[_Path, int, Struct | ListValue]] = [((None, field), 1, struct)]
    while stack:
        path, level, container = stack.pop()
        if level > LEVELS:
            return Violation(field, f"is nested deeper than {LEVELS} levels")
        values: Iterable[tuple[str | int, Value]]
        values = container.fields.items() if isinstance(container, Struct) else enumerate(container.values)
        for key, value in values:
            kind = value.WhichOneof("kind")
            if kind == "number_value":
                number = value.number_value
                if not number or TINY <= abs(number) < math.inf:
                    continue
                if not math.isfinite(number):
                    return Violation(_written((path, _step(key))), "is not a finite number, which JSON can't hold")
                tiny += 1
                if tiny > TINY_NUMBERS:
                    return Violation(field, f"has more than {TINY_NUMBERS} numbers closer to 0 than {TINY}")
            elif kind in ("struct_value", "list_value"):
                if value.ByteSize() > _EMPTY or level == LEVELS:
                    stack.append(((path, _step(key)), level + 1, getattr(value, kind)))
            elif kind is None:
                return Violation(_written((path, _step(key))), "has no value; null is a value too")
    return None


def _step(key: str | int) -> str:
    return f".{key}" if isinstance(key, str) else f"[{key}]"


def _written(path: _Path | None) -> str:
    steps = []
    while path is not None:
        path, step = path
        steps.append(step)
    return "".join(reversed(steps))
