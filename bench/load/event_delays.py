"""Events, one at a time on an idle system: a queued task is cancelled, and somebody who follows it hears of it.

Plan: `maker` and `subscriber`, the targets of the one who cancels and of the one who follows; `token`, `workspace`;
`calls` and `warm_up`.
"""

import asyncio
import time
from typing import Any

import grpc

from bench import task
from bench.load import protocol
from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc

ROUNDED = 0.0005
"""Seconds, on average: an event bears its time in whole milliseconds, rounded down."""

Stream = grpc.aio.UnaryStreamCall[tasks_pb2.StreamTaskEventsRequest, tasks_pb2.TaskEvent]


async def _heard(stream: Stream) -> tuple[tasks_pb2.TaskEvent, float]:
    event, at = await stream.read(), time.time()
    assert isinstance(event, tasks_pb2.TaskEvent), "a stream does not end before its task"
    return event, at


async def main(plan: dict[str, Any]) -> None:
    metadata = (("authorization", f"Bearer {plan['token']}"),)
    request = task.as_message(plan["workspace"])

    async with (
        grpc.aio.insecure_channel(plan["maker"]) as making,
        grpc.aio.insecure_channel(plan["subscriber"]) as subscribing,
    ):
        maker: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(making)
        subscriber: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(subscribing)

        async def way() -> tuple[float, float, float]:
            task_id = (await maker.SubmitTask(request, metadata=metadata)).task_id
            stream = subscriber.StreamTaskEvents(tasks_pb2.StreamTaskEventsRequest(task_id=task_id), metadata=metadata)
            await stream.read()  # that it waits
            await protocol.pause()

            hearing = asyncio.create_task(_heard(stream))
            await maker.CancelTask(tasks_pb2.CancelTaskRequest(task_id=task_id), metadata=metadata)
            done = time.time()
            event, at = await hearing
            assert event.status == tasks_pb2.TASK_STATUS_CANCELLED
            return event.occurred_at.ToNanoseconds() / 1e9 + ROUNDED, done, at

        await protocol.delays(way, calls=plan["calls"], warm_up=plan["warm_up"])


if __name__ == "__main__":
    protocol.run(main)
