"""What a payload or a result must be like, so that it can be kept and read back exactly, by gRPC and as JSON.

The server checks what it is sent; our client and worker check it before they send it, so that it is told where it was
made, and since a message that the server can't read at all would end a worker's stream.

A Struct is walked as bytes. Walked as messages, each of its values would become an object of Python's first: a mebibyte
of empty lists took 1.3 s, and takes 0.08. Most need not be walked: whatever is wrong with one would show in its bytes.
"""

import math
import re
import struct

from openmcp_chain.domain.errors import Violation

BYTES = 1024 * 1024
LEVELS = 32
TINY = 1e-100
TINY_NUMBERS = 10_000
"""How many numbers closer to 0 than `TINY` a Struct may have. 95,000 would fit in; but Envoy takes up to 32 us to write
one as JSON, some 20 times as long as others, and all its callers wait meanwhile (docs/decisions/0002-envoy.md)."""

# Tags, field number and wire type in one byte, as `google/protobuf/struct.proto` numbers them.
_KEY = 0x0A
_NUMBER, _STRUCT, _LIST = 0x11, 0x2A, 0x32
_double = struct.Struct("<d").unpack_from
_NOT_FINITE = re.compile(rb"\x11.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)
"""What a number looks like that is infinite or none: all bits of its exponent are set (IEEE 754, 6.2)."""


def too_large(field: str, size: int | None = None) -> Violation:
    """What is wrong with a Struct of more than BYTES; without its `size` where it was not read."""
    has = f"{size} bytes" if size is not None else "too many bytes"
    return Violation(field, f"has {has}; at most {BYTES} are allowed. Send larger data by URI.")


def fault(field: str, data: bytes) -> Violation | None:
    """The first thing that is wrong with a Struct, or None.

    `data` is the Struct as protobuf's own serializer writes it, without unknown fields.
    """
    if len(data) > BYTES:
        return too_large(field, len(data))
    if _is_plain(data):
        return None
    # Of the containers around: where they end, whether they have keys, and which entry it is that is looked into.
    outer: list[tuple[int, bool, int]] = []
    position, end, keyed, entry = 0, len(data), True, 0
    tiny = 0
    while True:
        if position == end:
            if not outer:
                return None
            end, keyed, entry = outer.pop()
            continue
        # Lengths of one byte are read in place: a call for each would take as long as all else.
        size = data[position + 1]
        position += 2
        if size > 0x7F:
            size, position = _length(data, position - 1)
        if keyed:
            entry, closing, size = position, position + size, 0
            if data[position] == _KEY:
                position = _past(data, position)
            if position < closing:
                size = data[position + 1]
                position += 2
                if size > 0x7F:
                    size, position = _length(data, position - 1)
        else:
            entry += 1
        if not size:
            return Violation(_place(field, data, outer, keyed, entry), "has no value; null is a value too")
        kind = data[position]
        if kind == _NUMBER:
            (number,) = _double(data, position + 1)
            if number and not TINY <= abs(number) < math.inf:
                if not math.isfinite(number):
                    place = _place(field, data, outer, keyed, entry)
                    return Violation(place, "is not a finite number, which JSON can't hold")
                tiny += 1
                if tiny > TINY_NUMBERS:
                    return Violation(field, f"has more than {TINY_NUMBERS} numbers closer to 0 than {TINY}")
            position += size
        elif kind in (_STRUCT, _LIST):
            if len(outer) + 2 > LEVELS:
                return Violation(field, f"is nested deeper than {LEVELS} levels")
            past = position + size
            size, position = _length(data, position + 1)
            if size:
                outer.append((end, keyed, entry))
                end, keyed, entry = past, kind == _STRUCT, -1
        else:
            position += size


def _is_plain(data: bytes) -> bool:
    """Whether nothing can be wrong with it: it has no bytes that look so, in whatever place.

    A value that is missing has the length 0. There are no more levels than bytes that could begin one, and no more
    numbers likewise.
    """
    return (
        b"\x12\x00" not in data
        and b"\x0a\x00" not in data
        and data.count(_STRUCT) + data.count(_LIST) < LEVELS
        and data.count(_NUMBER) <= TINY_NUMBERS
        and not _NOT_FINITE.search(data)
    )


def _length(data: bytes, position: int) -> tuple[int, int]:
    """The length that stands there (a varint), and the place after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return value, position
        shift += 7


def _past(data: bytes, position: int) -> int:
    """The place after the field with a length that begins there."""
    size, position = _length(data, position + 1)
    return position + size


def _place(field: str, data: bytes, outer: list[tuple[int, bool, int]], keyed: bool, entry: int) -> str:
    """The path of an entry, as JSON has it."""
    steps = [(keyed, entry) for _, keyed, entry in outer]
    return "".join([field, *(_step(data, keyed, entry) for keyed, entry in (*steps, (keyed, entry)))])


def _step(data: bytes, keyed: bool, entry: int) -> str:
    """An index in a list, or the key of the map's entry that begins there."""
    if not keyed:
        return f"[{entry}]"
    if data[entry] != _KEY:
        return "."
    size, position = _length(data, entry + 1)
    return f".{data[position : position + size].decode()}"
