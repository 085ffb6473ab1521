"""HTTP/2 by hand (RFC 9113): header fields and trailers that no client library would send."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from typing import Self

from google.protobuf.message import Message

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_WINDOW = b"\0\4"
SECONDS = 10.0
"""How long the other side may be silent before it counts as hung."""
Fields = Iterable[tuple[str, str]]


def by_grpc(path: str, metadata: Fields, message: Message) -> tuple[Fields, bytes]:
    """The header fields and the body of a gRPC call with one message."""
    fields = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)]
    data = message.SerializeToString()
    body = b"\0" + len(data).to_bytes(4, "big") + data
    return [*fields, ("te", "trailers"), ("content-type", "application/grpc"), *metadata], body


class Http2:
    """One connection. Use as a context manager."""

    def __init__(self, host: str, port: int, trust: ssl.SSLContext | None = None, window: int | None = None) -> None:
        """Speaks TLS with `trust`. `window`: how many bytes of an answer it reads."""
        self._host, self._port, self._trust = host, port, trust
        self._settings = b"" if window is None else _WINDOW + window.to_bytes(4, "big")
        self._stream = -1

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, ssl=self._trust)
        self._writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, self._settings))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):  # the other side was quicker, or ssl's own close was not waited for
            await self._writer.wait_closed()

    def begin(self, fields: Fields, body: bytes) -> int:
        """Sends a request that may go on; returns its stream."""
        self._stream += 2
        self._writer.write(_frame(_HEADERS, _END_HEADERS, self._stream, _block(fields)))
        self._writer.write(_frame(_DATA, 0, self._stream, body))
        return self._stream

    async def call(self, fields: Fields, body: bytes, trailers: Fields = ()) -> bytes | None:
        """Sends a request; returns the body of its answer, None if there is no answer but a reset."""
        stream = self.begin(fields, body)
        end = _block(trailers)
        kind, flags = (_HEADERS, _END_HEADERS | _END_STREAM) if end else (_DATA, _END_STREAM)
        self._writer.write(_frame(kind, flags, stream, end))
        answer = b""
        while True:
            kind, flags, of, payload = await asyncio.wait_for(self._read(), SECONDS)
            if kind == _GOAWAY or (kind == _RESET and of == stream):
                return None
            answer += payload if kind == _DATA and of == stream else b""
            if kind in (_DATA, _HEADERS) and of == stream and flags & _END_STREAM:
                return answer

    def ask(self, fields: Fields, body: bytes = b"") -> int:
        """Sends a whole request; returns its stream."""
        stream = self.begin(fields, body)
        self._writer.write(_frame(_DATA, _END_STREAM, stream, b""))
        return stream

    async def heard(self, streams: Iterable[int]) -> None:
        """Returns when the answer to each has begun, or it was reset, or the connection has ended."""
        waiting = set(streams)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while waiting:
                kind, _, of, _ = await asyncio.wait_for(self._read(), SECONDS)
                if kind in (_HEADERS, _RESET):
                    waiting.discard(of)

    async def dropped(self, streams: Iterable[int]) -> None:
        """Returns when the other side has reset each."""
        waiting = set(streams)
        while waiting:
            kind, _, of, _ = await asyncio.wait_for(self._read(), SECONDS)
            if kind == _RESET:
                waiting.discard(of)

    def reset(self, stream: int) -> None:
        """Gives a call up (CANCEL)."""
        self._writer.write(_frame(_RESET, 0, stream, (8).to_bytes(4, "big")))

    async def closed(self) -> None:
        """Returns when the other side ends the connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await self._read()

    async def _read(self) -> tuple[int, int, int, bytes]:
        head = await self._reader.readexactly(9)
        payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        kind, flags = head[3], head[4]
        if kind == _SETTINGS and not flags & _ACK:
            self._writer.write(_frame(_SETTINGS, _ACK, 0, b""))
        return kind, flags, int.from_bytes(head[5:], "big"), payload


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _block(fields: Fields) -> bytes:
    """A header block without compression: every field as a literal that is not indexed (RFC 7541, 6.2.2)."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    data = text.encode("latin-1")
    size, prefix = len(data), b""
    if size < 127:
        return bytes((size,)) + data
    size, prefix = size - 127, b"\x7f"
    while size >= 128:
        size, prefix = size >> 7, prefix + bytes((size & 127 | 128,))
    return prefix + bytes((size,)) + data
