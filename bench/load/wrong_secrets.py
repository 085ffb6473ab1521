"""Signs in with wrong secrets in every other window, at a set rate whatever the answers and however long they take.

Plan: `target`; `workspace`; `rate`, how many a second; `windows` and `window_seconds`, as of `sign_ins`. Tells what
part of the answers came in quiet windows, beyond their gaps, and what part were that too many wait already.
"""

import asyncio
import secrets
import time
from collections import Counter
from typing import Any

import grpc

from bench.load import protocol
from bench.load.windows import GAP_SECONDS, Windows, attacked, until
from openmcp.chain.v1 import auth_pb2

PATH = "/openmcp.chain.v1.AuthService/Authenticate"
EXPECTED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)
TICK = 0.01
"""Seconds between two volleys."""


async def main(plan: dict[str, Any]) -> None:
    async with grpc.aio.insecure_channel(plan["target"]) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PATH)
        answers: Counter[grpc.StatusCode] = Counter()
        in_quiet = 0

        async def attempt() -> None:
            nonlocal in_quiet
            wrong = f"omcp_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
            request = auth_pb2.AuthRequest(workspace_id=plan["workspace"], workspace_secret=wrong)
            try:
                await method(request.SerializeToString())
            except grpc.aio.AioRpcError as error:
                if error.code() not in EXPECTED:
                    raise
                answers[error.code()] += 1
                at = time.monotonic()
                number = windows.counted(at, at)
                in_quiet += number is not None and not attacked(number)
                return
            raise AssertionError("a wrong secret was taken")

        windows = Windows(await protocol.wait_for_go(), plan["window_seconds"], plan["windows"])
        async with asyncio.TaskGroup() as group:
            for number in filter(attacked, range(windows.count)):
                begin, end = windows.begin(number), windows.begin(number + 1)
                sent, of_all = 0, round(plan["rate"] * windows.seconds)
                await asyncio.sleep(until(begin))
                while sent < of_all:
                    now = time.monotonic()
                    if now > end + GAP_SECONDS / 2:
                        raise RuntimeError("wrong secrets are sent too late: the machine is too slow for this rate")
                    for _ in range(min(of_all, int((now - begin) * plan["rate"])) - sent):
                        group.create_task(attempt())
                        sent += 1
                    await asyncio.sleep(TICK)
        total = answers.total()
        protocol.tell(
            total,
            windows.seconds * windows.count,
            quiet_answers_percent=in_quiet * 100 / total,
            turned_away_percent=answers[grpc.StatusCode.RESOURCE_EXHAUSTED] * 100 / total,
        )


if __name__ == "__main__":
    protocol.run(main)
