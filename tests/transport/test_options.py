"""What gRPC is told about connections: it ignores an option that it doesn't know, without a word."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.http2 import Http2

from openmcp_chain.client import connection
from openmcp_chain.transport import server


@pytest.mark.parametrize("name", sorted({name for name, _ in (*server.OPTIONS, *connection.OPTIONS)}))
def test_every_option_is_one_of_grpcs(name: str) -> None:
    """The name stands in gRPC's core as a text of its own."""
    core = importlib.util.find_spec("grpc._cython.cygrpc")
    assert core
    assert core.origin
    assert name.encode() + b"\0" in Path(core.origin).read_bytes()


async def test_calls_on_one_connection_are_bounded() -> None:
    """Of a client that heeds no limit, the call beyond STREAMS is refused, while the others are under way."""

    async def behaviour(_: AsyncIterator[bytes], __: object) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> Any:
            return grpc.stream_stream_rpc_method_handler(behaviour)

    serving = grpc.aio.server(options=server.OPTIONS)
    serving.add_generic_rpc_handlers((Handler(),))
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    fields = [
        *((":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", "x")),
        *(("content-type", "application/grpc"), ("te", "trailers")),
    ]
    try:
        async with Http2("127.0.0.1", port) as connection:
            for _ in range(server.STREAMS):
                connection.begin(fields, b"")
            assert await connection.call(fields, b"") is None
    finally:
        await serving.stop(None)
