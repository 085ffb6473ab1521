"""What a workspace may have at a time, as its callers see it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from support.service import LOCAL, PATIENCE, Caller, Service, refused, serving

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain.domain.workspace import Quotas


@asynccontextmanager
async def limited(quotas: Quotas) -> AsyncIterator[tuple[Service, Caller]]:
    """A service, and a workspace that has quotas of its own."""
    async with serving() as service:
        created, secret = await service.app.administration.workspaces.create(LOCAL, "unlimited", quotas=quotas)
        caller = await service.sign_in(created, secret)
        yield service, caller


async def test_a_submit_too_many_is_told_when_to_come_back() -> None:
    """TOO_MANY_PENDING, with RetryInfo; when a task has been cancelled, the next is accepted."""
    async with limited(Quotas(pending_tasks=2)) as (service, caller):
        tasks = [await service.submit(caller) for _ in range(2)]
        request = tasks_pb2.SubmitTaskRequest(type="echo")
        told = await refused(service.tasks.SubmitTask(request, metadata=caller.metadata, timeout=PATIENCE))
        assert (told.status, told.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_PENDING")
        assert told.details["RetryInfo"].retry_delay.ToSeconds() > 0
        assert "2 tasks waiting" in told.message
        cancel = tasks_pb2.CancelTaskRequest(task_id=tasks[0])
        await service.tasks.CancelTask(cancel, metadata=caller.metadata, timeout=PATIENCE)
        await service.submit(caller)


async def test_a_batch_is_accepted_as_far_as_there_is_room() -> None:
    """Each task by itself: those beyond are refused by code, the others are there."""
    async with limited(Quotas(pending_tasks=3)) as (service, caller):
        requests = [tasks_pb2.SubmitTaskRequest(type="echo") for _ in range(5)]
        batch = tasks_pb2.BatchSubmitTasksRequest(requests=requests)
        answer = await service.tasks.BatchSubmitTasks(batch, metadata=caller.metadata, timeout=PATIENCE)
        accepted = [result.task.task_id for result in answer.results if result.HasField("task")]
        codes = [result.error.code for result in answer.results if result.HasField("error")]
        assert (len(accepted), codes) == (3, ["TOO_MANY_PENDING"] * 2)
        for task_id in accepted:
            await service.get(caller, task_id)


async def test_event_streams_and_workers_count_together() -> None:
    """A workspace's streams of all kinds, and a call that waits for tasks, are within one number."""
    async with limited(Quotas(streams=2)) as (service, caller):
        task_id = await service.submit(caller, "other")
        request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        events: Any = service.tasks.StreamTaskEvents(request, metadata=caller.metadata)
        await events.read()
        worker = service.work(caller)
        await worker.hello()
        ask = workers_pb2.LeaseTasksRequest(worker_name="w", task_types=["echo"])
        for one_more in (
            service.tasks.StreamTaskEvents(request, metadata=caller.metadata),
            service.work(caller).call,
            service.workers.LeaseTasks(ask, metadata=caller.metadata, timeout=PATIENCE),
        ):
            told = await refused(one_more)
            assert (told.code, "RetryInfo" in told.details) == ("TOO_MANY_STREAMS", True)
        await worker.end()
        await service.workers.LeaseTasks(ask, metadata=caller.metadata, timeout=PATIENCE)
        events.cancel()
