"""Reads the wire format one level deep: where a message's fields are, and which one makes it undecodable.

The protobuf runtime says only that a message could not be parsed. https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

FIELDS = 1000
"""How many fields are looked at. Four mebibytes of empty ones would take seconds, in which nobody else is served."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Span(NamedTuple):
    """Where the value of a field is, between `begin` and `end`."""

    number: int
    begin: int
    end: int
    delimited: bool
    """Whether it is a text, bytes, or a message (or several numbers), rather than one number."""


def spans(data: bytes, begin: int, end: int) -> Iterator[Span]:
    """The fields of the message in `data[begin:end]`, in their order. Raises IndexError where it is no message."""
    while begin < end:
        tag, begin = _varint(data, begin)
        kind = tag & 7
        after = _end(data, begin, kind)
        if after > end:
            raise IndexError
        yield Span(tag >> 3, _varint(data, begin)[1] if kind == _BYTES else begin, after, kind == _BYTES)
        begin = after


def blame(request: type[Message], data: bytes) -> str:
    """The name of the first field that can't be decoded, or `request` if the bytes are no sequence of fields.

    Where each field can be decoded by itself, what is left is depth: the largest message is the one nested too deep.
    """
    position = largest = 0
    suspect = "request"
    try:
        for _ in range(FIELDS):
            if position >= len(data):
                return suspect
            tag, position = _varint(data, position)
            kind = tag & 7
            field = request.DESCRIPTOR.fields_by_number.get(tag >> 3)
            end = _end(data, position, kind)
            if end > len(data):
                return field.name if field else "request"
            if field is not None and kind == _BYTES:
                value = data[_varint(data, position)[1] : end]
                if not _sound(value, field.message_type, is_text=field.type == FieldDescriptor.TYPE_STRING):
                    return str(field.name)
                if field.message_type is not None and len(value) > largest:
                    suspect, largest = str(field.name), len(value)
            position = end
    except IndexError:
        pass
    return "request"


def _sound(value: bytes, message: Any, *, is_text: bool) -> bool:  # noqa: ANN401 - the runtime's descriptors have two types
    """Whether the value of a field is what it should be: `message` is the descriptor of a message field, else None."""
    try:
        if message is not None:
            GetMessageClass(message).FromString(value)
        elif is_text:
            value.decode()
    except (DecodeError, ValueError, RecursionError):
        return False
    return True


def _end(data: bytes, position: int, kind: int) -> int:
    """Where the value at `position` ends. Raises IndexError for a kind that there isn't."""
    if kind == _VARINT:
        return _varint(data, position)[1]
    if kind == _BYTES:
        length, start = _varint(data, position)
        return start + length
    if kind == _FIXED64:
        return position + 8
    if kind == _FIXED32:
        return position + 4
    raise IndexError


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and the position behind it. Raises IndexError if it does not end, or is too long."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError
