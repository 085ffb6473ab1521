"""Answers with payloads and results in them, which stay the bytes that they are in the store.

A Struct of 1 MiB may hold half a million empty lists. To make a message of it, only to serialize that, takes 0.1 s on
the event loop and twenty times its memory. So an answer's other fields are serialized, and the stored bytes are put
behind them: fields may come in any order (https://protobuf.dev/programming-guides/encoding/#order).
"""

from collections.abc import Sequence
from functools import cache
from typing import NewType

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

Encoded = NewType("Encoded", bytes)
"""A serialized message; of which type, the context says."""

_LENGTH_PREFIXED = 2


def encode(message: Message, **fields: bytes | Sequence[bytes] | None) -> Encoded:
    """The message, with these fields besides, whose values are serialized already; several for a repeated one.

    None leaves the field unset.
    """
    parts = [message.SerializeToString()]
    for name, value in fields.items():
        for one in [value] if isinstance(value, bytes) else value or ():
            parts += [_tag(message.DESCRIPTOR, name), _varint(len(one)), one]
    return Encoded(b"".join(parts))


@cache
def _tag(owner: Descriptor, field: str) -> bytes:
    number: int = owner.fields_by_name[field].number
    return _varint(number << 3 | _LENGTH_PREFIXED)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
