"""Event streams of tasks that wait, each task's own: opened, their first message read; then nothing but what comes.

Plan: `target`; `path` of the method; `token`; `requests` in base64, one for each stream; `seconds` to stay idle.
"""

import asyncio
import base64
import time
from collections.abc import Sequence
from typing import Any

import grpc

from bench.load import protocol

STREAMS = 500
"""On one connection: half of what the server takes, as Envoy has it."""
OPENING = 32
"""At a time."""
SETTLE_SECONDS = 3.0
"""After the last one is open: what opening them has left to do is done then."""

Stream = grpc.aio.UnaryStreamCall[bytes, bytes]


async def main(plan: dict[str, Any]) -> None:
    requests = [base64.b64decode(request) for request in plan["requests"]]
    metadata = (("authorization", f"Bearer {plan['token']}"),)
    connections = [requests[begin : begin + STREAMS] for begin in range(0, len(requests), STREAMS)]
    # Channels of like options would share one connection.
    channels = [grpc.aio.insecure_channel(plan["target"], (("bench.number", n),)) for n in range(len(connections))]
    places = asyncio.Semaphore(OPENING)

    async def follow(channel: grpc.aio.Channel, request: bytes) -> Stream:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(plan["path"])
        async with places:
            stream = method(request, metadata=metadata)
            await stream.read()
            return stream

    async def listen(stream: Stream) -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass
        raise AssertionError("a stream ended before its task")

    streams: Sequence[Stream] = await asyncio.gather(
        *(follow(channel, one) for channel, some in zip(channels, connections, strict=True) for one in some)
    )
    async with asyncio.TaskGroup() as group:
        listening = [group.create_task(listen(stream)) for stream in streams]
        await asyncio.sleep(SETTLE_SECONDS)
        await protocol.wait_for_go()
        began = time.perf_counter()
        await asyncio.sleep(plan["seconds"])
        protocol.tell(max(1, len(streams)), time.perf_counter() - began)
        await protocol.wait_for_end()
        for one in listening:
            one.cancel()


if __name__ == "__main__":
    protocol.run(main)
