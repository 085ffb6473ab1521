"""Tasks at a fixed rate, spread over servers, each with a worker of its own: submitted, leased, completed.

Plan: `targets`; `workspace`, `secret`, `token`; `rate`, tasks a second; `seconds`; `followers`, how many
follow each task's events to its end, at the server after the one that it was submitted to.
"""

import asyncio
import itertools
import time
from typing import Any, TypeAlias

import grpc

from bench import task
from bench.load import protocol
from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc
from openmcp_chain.worker import Worker

Stub: TypeAlias = "tasks_pb2_grpc.TaskServiceAsyncStub"

CONCURRENCY = 100
WARM_UP_SECONDS = 2.0


async def main(plan: dict[str, Any]) -> None:
    metadata = (("authorization", f"Bearer {plan['token']}"),)
    request = task.as_message(plan["workspace"])
    channels = [grpc.aio.insecure_channel(target) for target in plan["targets"]]
    stubs: list[Stub] = [tasks_pb2_grpc.TaskServiceStub(one) for one in channels]
    in_turn = itertools.cycle(zip(stubs, [*stubs[1:], stubs[0]], strict=True))
    done = asyncio.Semaphore(0)

    async def nothing(_: dict[str, Any]) -> None:
        done.release()

    async def submit(stub: Stub, other: Stub) -> None:
        task_id = (await stub.SubmitTask(request, metadata=metadata)).task_id
        async with asyncio.TaskGroup() as group:
            for _ in range(plan["followers"]):
                group.create_task(follow(other, task_id))

    async def follow(stub: Stub, task_id: str) -> None:
        request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        async for _ in stub.StreamTaskEvents(request, metadata=metadata):
            pass

    async def make(seconds: float) -> int:
        """Returns when all that was submitted has been run; how many that was."""
        loop = asyncio.get_running_loop()
        count, began = int(float(plan["rate"]) * seconds), loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(began + number / plan["rate"] - loop.time())
                group.create_task(submit(*next(in_turn)))
            for _ in range(count):
                await done.acquire()
        return count

    workers = [
        Worker(
            target,
            workspace_id=plan["workspace"],
            workspace_secret=plan["secret"],
            name=target,
            concurrency=CONCURRENCY,
        )
        for target in plan["targets"]
    ]
    for worker in workers:
        worker.task(task.TYPE)(nothing)
    serving = [asyncio.create_task(worker.serve()) for worker in workers]
    await make(WARM_UP_SECONDS)
    await protocol.wait_for_go()
    began = time.perf_counter()
    count = await make(plan["seconds"])
    protocol.tell(count, time.perf_counter() - began)
    await protocol.wait_for_end()
    for one in serving:
        one.cancel()


if __name__ == "__main__":
    protocol.run(main)
