"""What gRPC is told about connections: it ignores an option that it doesn't know, without a word."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

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
    """A connection carries STREAMS calls at a time; the next ones wait for an end, and are then served."""
    under_way, most = 0, 0
    full = asyncio.Event()

    async def behaviour(_: AsyncIterator[bytes], __: object) -> AsyncIterator[bytes]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == server.STREAMS:
            full.set()
        await full.wait()
        under_way -= 1
        yield b"served"

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> Any:
            return grpc.stream_stream_rpc_method_handler(behaviour)

    serving = grpc.aio.server(options=server.OPTIONS)
    serving.add_generic_rpc_handlers((Handler(),))
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            calls: list[Any] = [channel.stream_stream("/a/b")(iter([b""])) for _ in range(server.STREAMS + 20)]
            answers = await asyncio.wait_for(asyncio.gather(*(call.read() for call in calls)), 30)
    finally:
        await serving.stop(None)
    assert answers == [b"served"] * len(calls)
    assert most == server.STREAMS
