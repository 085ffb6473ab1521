"""Signs in with wrong secrets, at a set rate whatever the answers are and however long they take, until it is ended.

Arguments: the target, the workspace, how many a second. Prints a line when it has begun in earnest.
"""

import asyncio
import secrets
import sys

import grpc
import uvloop

from openmcp.chain.v1 import auth_pb2

PATH = "/openmcp.chain.v1.AuthService/Authenticate"
BEGUN_SECONDS = 2.0
EXPECTED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)
TICK = 0.01
"""Seconds between two volleys."""


async def main(target: str, workspace: str, rate: float) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PATH)

        async def attempt() -> None:
            wrong = f"omcp_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
            request = auth_pb2.AuthRequest(workspace_id=workspace, workspace_secret=wrong)
            try:
                await method(request.SerializeToString())
            except grpc.aio.AioRpcError as error:
                if error.code() in EXPECTED:
                    return
                raise
            raise AssertionError("a wrong secret was taken")

        loop = asyncio.get_running_loop()
        began, sent, told = loop.time(), 0, False
        async with asyncio.TaskGroup() as group:
            while True:
                passed = loop.time() - began
                for _ in range(int(passed * rate) - sent):
                    group.create_task(attempt())
                    sent += 1
                if passed > BEGUN_SECONDS and not told:
                    print("begun", flush=True)
                    told = True
                await asyncio.sleep(TICK)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
