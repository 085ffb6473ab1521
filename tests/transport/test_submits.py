"""Submits whose times contradict each other, and batches beside what else there is to do."""

import asyncio
import itertools
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from support.service import PATIENCE, refused, serving

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.task import STANDARD, Task
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine.submission import Submit
from openmcp_chain.transport.tasks import READ


def seconds(number: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(number * 1e9))
    return duration


def ahead(number: float) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(datetime.now(UTC) + timedelta(seconds=number))
    return time


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"schedule_time": ahead(7200), "schedule_to_close_timeout": seconds(3600)}, "schedule_time"),
        (
            {"retry_policy": tasks_pb2.RetryPolicy(initial_interval=seconds(2), maximum_interval=seconds(1))},
            "retry_policy.maximum_interval",
        ),
    ],
)
async def test_times_that_contradict_each_other_are_refused(fields: dict[str, Any], field: str) -> None:
    """A task that could never run, and a longest wait that is shorter than the first: the field is named."""
    async with serving() as service:
        tenant = await service.workspace()
        request = tasks_pb2.SubmitTaskRequest(type="echo", **fields)
        told = await refused(service.tasks.SubmitTask(request, metadata=tenant.metadata, timeout=PATIENCE))
    assert (told.status, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_bounds_of_times_are_told_as_people_say_them() -> None:
    """In days, hours or less, whatever fits; a point in time by its date and time."""
    fields: dict[str, Any] = dict.fromkeys(("schedule_to_start_timeout", "heartbeat_timeout", "retention"), seconds(-1))
    async with serving() as service:
        tenant = await service.workspace()
        submit = tasks_pb2.SubmitTaskRequest(type="echo", schedule_time=ahead(366 * 86400 + 60), **fields)
        told = await refused(service.tasks.SubmitTask(submit, metadata=tenant.metadata, timeout=PATIENCE))
        wait = tasks_pb2.WaitTaskRequest(task_id="x", timeout=seconds(26))
        waited = await refused(service.tasks.WaitTask(wait, metadata=tenant.metadata, timeout=PATIENCE))
    latest = r"schedule_time: must be a time from 1970 on, and no later than 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.search(latest, told.message)
    for said in (
        "schedule_to_start_timeout: must be from 1 millisecond to 366 days",
        "heartbeat_timeout: must be from 1 second to 1 hour",
        "retention: must be from 0 to 366 days",
    ):
        assert said in told.message
    assert "timeout: must be from 0 to 25 seconds" in waited.message


async def test_times_that_agree_are_taken() -> None:
    """One interval alone moves the other, which nobody said, with it."""
    async with serving() as service:
        tenant = await service.workspace()
        for fields, expected in (
            ({"initial_interval": seconds(120)}, (120, 120)),
            ({"maximum_interval": seconds(0.25)}, (0.25, 0.25)),
            ({"initial_interval": seconds(1), "maximum_interval": seconds(1)}, (1, 1)),
            ({"maximum_attempts": 3}, (0.5, 60)),
        ):
            policy = tasks_pb2.RetryPolicy(**fields)
            times: dict[str, Any] = {"schedule_time": ahead(1800), "schedule_to_close_timeout": seconds(3600)}
            task_id = await service.submit(tenant, retry_policy=policy, **times)
            (task,) = (task for key, task in service.app._store._tasks.items() if key.id == task_id)  # type: ignore[attr-defined]
            retry = task.terms.retry
            assert task.terms != STANDARD
            assert (retry.initial_interval.total_seconds(), retry.maximum_interval.total_seconds()) == expected


async def test_batches_begin_a_few_tasks_at_a_time_and_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant's thousands leave the loop to others in between, and its first batch is not as late as its last."""
    turn = 0
    begun: list[tuple[str, int]] = []

    async def submit(_: Principal, request: Submit) -> Task:
        begun.append((request.type, turn))
        raise errors.TooManyPending(0)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)
            turn += 1

    async with serving() as service:
        caller = await service.workspace()
        monkeypatch.setattr(service.app.submission, "submit", submit)
        counting = asyncio.create_task(count_turns())
        batches = (
            tasks_pb2.BatchSubmitTasksRequest(requests=[tasks_pb2.SubmitTaskRequest(type=name)] * 200)
            for name in ("a", "b", "c")
        )
        calls = (service.tasks.BatchSubmitTasks(one, metadata=caller.metadata, timeout=PATIENCE) for one in batches)
        answers = await asyncio.gather(*calls)
        counting.cancel()
    assert [len(answer.results) for answer in answers] == [200] * 3
    assert max(Counter(at for _, at in begun).values()) <= READ
    assert len(list(itertools.groupby(begun, lambda one: one[0]))) == 3
