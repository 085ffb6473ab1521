"""Unary gRPC calls over one channel. Requests are ready bytes, answers stay bytes: the same work whoever answers.

Plan: `target`, of one address or of several, which get the calls in turn; `path` of the method; `token`; `requests` in
base64, sent in turn; and what `protocol.drive` takes.
"""

import base64
import math
from typing import Any

import grpc

from bench.load import protocol

IN_TURN = (("grpc.lb_policy_name", "round_robin"),)


async def main(plan: dict[str, Any]) -> None:
    requests = [base64.b64decode(request) for request in plan["requests"]]
    metadata = (("authorization", f"Bearer {plan['token']}"),)
    async with grpc.aio.insecure_channel(plan["target"], IN_TURN) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(plan["path"])

        async def call(number: int) -> None:
            await method(requests[number % len(requests)], metadata=metadata)

        await protocol.drive(
            call,
            calls=plan["calls"],
            callers=plan["callers"],
            warm_up=plan["warm_up"],
            operations=plan.get("operations", 1),
            rate=plan.get("rate", math.inf),
        )


if __name__ == "__main__":
    protocol.run(main)
