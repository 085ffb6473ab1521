"""Tasks one at a time by `bench.peers.least_task`: submitted, started, their result there.

Plan: `target`; `payload` in base64; `calls` and `warm_up`.
"""

import base64
from typing import Any

import grpc

from bench.load import protocol
from bench.peers.least_task import SUBMIT, WAIT


async def main(plan: dict[str, Any]) -> None:
    payload = base64.b64decode(plan["payload"])
    async with grpc.aio.insecure_channel(plan["target"]) as channel:
        submit: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(SUBMIT)
        wait: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(WAIT)

        async def trip() -> float:
            return float(await wait(await submit(payload)))

        await protocol.round_trips(trip, calls=plan["calls"], warm_up=plan["warm_up"])


if __name__ == "__main__":
    protocol.run(main)
