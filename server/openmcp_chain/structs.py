"""What a payload or a result must be like, so that it can be kept and read back exactly, by gRPC and as JSON.

The server checks what it is sent; a worker checks a result before it sends it, since a message that the server can't
read at all would end the worker's stream.
"""

import math
from typing import TypeAlias

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from openmcp_chain.domain.errors import Violation

BYTES = 1024 * 1024
LEVELS = 32

# A linked path, the innermost step first: it is written out only for the one fault that is reported. Written out for
# each value, a long key above many values would take gigabytes.
_Path: TypeAlias = tuple["_Path | None", str]


def fault(field: str, struct: Struct) -> Violation | None:
    """The first thing that is wrong with the Struct, or None. An own stack: depth comes from the caller."""
    size = struct.ByteSize()
    if size > BYTES:
        return Violation(field, f"has {size} bytes; at most {BYTES} are allowed. Send larger data by URI.")
    stack: list[tuple[_Path, int, Struct | ListValue | Value]] = [((None, field), 1, struct)]
    while stack:
        path, level, item = stack.pop()
        if isinstance(item, Value):
            kind = item.WhichOneof("kind")
            if kind == "number_value":
                if not math.isfinite(item.number_value):
                    return Violation(_written(path), "is not a finite number, which JSON can't hold")
            elif kind == "struct_value":
                stack.append((path, level + 1, item.struct_value))
            elif kind == "list_value":
                stack.append((path, level + 1, item.list_value))
            elif kind is None:
                return Violation(_written(path), "has no value; null is a value too")
        elif level > LEVELS:
            return Violation(field, f"is nested deeper than {LEVELS} levels")
        elif isinstance(item, Struct):
            stack.extend(((path, f".{key}"), level, value) for key, value in item.fields.items())
        else:
            stack.extend(((path, f"[{index}]"), level, value) for index, value in enumerate(item.values))
    return None


def _written(path: _Path | None) -> str:
    steps = []
    while path is not None:
        path, step = path
        steps.append(step)
    return "".join(reversed(steps))
