"""Events, one at a time, by `bench.peers.least_event`: a task is ended at one process, and seen to be at the other.

Plan: `maker` and `subscriber`, their targets; `payload` in base64; `calls` and `warm_up`.
"""

import asyncio
import base64
import time
from typing import Any

import grpc

from bench.load import protocol
from bench.peers.least_event import END, FOLLOW, SUBMIT


async def main(plan: dict[str, Any]) -> None:
    payload = base64.b64decode(plan["payload"])

    async with (
        grpc.aio.insecure_channel(plan["maker"]) as making,
        grpc.aio.insecure_channel(plan["subscriber"]) as subscribing,
    ):
        submit: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = making.unary_unary(SUBMIT)
        end: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = making.unary_unary(END)
        follow: Any = subscribing.unary_stream(FOLLOW)
        stream = follow(b"")
        await stream.wait_for_connection()

        async def heard(id_: bytes) -> float:
            seen, at = await stream.read(), time.time()
            assert id_.endswith(seen), "one at a time"
            return at

        async def way() -> tuple[float, float, float]:
            id_ = await submit(payload)
            await protocol.pause()
            hearing = asyncio.create_task(heard(id_))
            began = float(await end(id_))
            return began, time.time(), await hearing

        await protocol.delays(way, calls=plan["calls"], warm_up=plan["warm_up"])


if __name__ == "__main__":
    protocol.run(main)
