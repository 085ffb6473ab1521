"""Answers are paid for by the plan's rate: one is as large as it is, and the next large one waits for that."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import grpc
import pytest
from support import virtual
from support.engine import DistantStore, tenant
from support.service import PATIENCE, SETTINGS, Caller, Service, as_struct, refused, serving

from openmcp.chain.v1 import rest_pb2, tasks_pb2, workers_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.plans import ANSWER_BYTES, REPORT_BYTES, Plan
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import volume
from openmcp_chain.transport.dues import Dues

FREE = SETTINGS.plans["free"]
LARGE = (FREE.burst + 1 + 3 * FREE.requests_per_second) * ANSWER_BYTES
"""Bytes of an answer that takes three seconds more than a full bucket has."""
SLOW = replace(SETTINGS, plans={"slow": replace(FREE, name="slow", requests_per_second=1, burst=1)})
"""In which an answer of a megabyte is owed for a quarter of a minute."""
ONE, OTHER = (replace(tenant(workspace), plan="free") for workspace in ("ws-1", "ws-2"))


def in_time(test: Callable[[Dues], Coroutine[Any, Any, None]]) -> None:
    def plan(principal: Principal) -> Plan:
        return SETTINGS.plans[principal.plan]

    virtual.run(test(Dues(plan)))


def owed(call: Callable[..., object], *arguments: object) -> float:
    """For how many seconds the call is refused."""
    with pytest.raises(errors.RateLimited) as refusal:
        call(*arguments)
    assert refusal.value.retry_after
    return refusal.value.retry_after


def test_a_debt_ends_when_it_is_told_to() -> None:
    """Of two workspaces, the one that had a large answer gets small ones, and the next large one in time."""

    async def test(dues: Dues) -> None:
        dues.read(ONE, LARGE)
        dues.may_read(ONE, ANSWER_BYTES)
        assert owed(dues.may_read, ONE, ANSWER_BYTES + 1) == pytest.approx(3)
        dues.may_read(OTHER, LARGE)
        await asyncio.sleep(2)
        wait = owed(dues.may_read, ONE, LARGE)
        assert wait == pytest.approx(1)  # a refusal costs nothing
        await asyncio.sleep(wait)
        dues.may_read(ONE, LARGE)
        dues.read(ONE, LARGE)
        assert owed(dues.may_read, ONE, LARGE) == pytest.approx(3 + FREE.burst / FREE.requests_per_second)
        dues.forget("ws-1")
        dues.may_read(ONE, LARGE)

    in_time(test)


def test_small_answers_are_not_counted() -> None:
    """However many there are: Envoy has counted their calls."""

    async def test(dues: Dues) -> None:
        for _ in range(1000):
            dues.read(ONE, ANSWER_BYTES)
            dues.leased(ONE, ANSWER_BYTES)
        dues.may_read(ONE, LARGE)
        dues.may_lease(ONE)

    in_time(test)


def test_streams_are_paid_for_as_reads_are() -> None:
    """One that becomes large while something is owed is refused there; what is large already goes on."""

    async def test(dues: Dues) -> None:
        sent = [0, 0]
        for _ in range(LARGE // 1000):
            sent[0] = dues.streamed(ONE, sent[0], 1000)
        sent[1] = dues.streamed(ONE, sent[1], ANSWER_BYTES)
        assert owed(dues.streamed, ONE, sent[1], 1) == pytest.approx(3, abs=0.2)
        assert owed(dues.may_read, ONE, LARGE) == pytest.approx(3, abs=0.2)
        assert dues.streamed(ONE, sent[0], ANSWER_BYTES) == sent[0] + ANSWER_BYTES
        assert dues.streamed(OTHER, sent[1], 1) == ANSWER_BYTES + 1
        await asyncio.sleep(4.2)
        assert dues.streamed(ONE, sent[1], 1) == ANSWER_BYTES + 1

    in_time(test)


def test_a_plan_without_a_rate_has_no_limit() -> None:
    async def test(dues: Dues) -> None:
        for _ in range(100):
            dues.may_read(tenant(), LARGE)
            dues.read(tenant(), LARGE)
            dues.may_lease(tenant())
            dues.leased(tenant(), LARGE)

    in_time(test)


def test_leases_are_paid_for_apart_and_before_there_are_any() -> None:
    """What is leased is given away, so it is asked before; reads and leases do not hold up one another."""

    async def test(dues: Dues) -> None:
        dues.read(ONE, LARGE)
        dues.may_lease(ONE)
        dues.leased(ONE, LARGE)
        wait = owed(dues.may_lease, ONE)
        assert wait == pytest.approx(3)
        dues.may_lease(OTHER)
        await asyncio.sleep(wait)
        dues.may_lease(ONE)
        dues.may_read(ONE, LARGE)

    in_time(test)


def test_one_answer_that_was_lost_is_given_again_whatever_is_owed() -> None:
    """The next one when that has been paid for."""

    async def test(dues: Dues) -> None:
        for _ in range(3):
            dues.leased(ONE, LARGE)
        dues.repeated(ONE, LARGE)
        assert owed(dues.repeated, ONE, LARGE) == pytest.approx(3)
        dues.repeated(ONE, ANSWER_BYTES)
        await asyncio.sleep(3)
        dues.repeated(ONE, LARGE)

    in_time(test)


def test_what_is_said_again_is_paid_for() -> None:
    """The next that is large waits; small ones and others' do not."""

    async def test(dues: Dues) -> None:
        size = (FREE.burst + 3 * FREE.requests_per_second) * REPORT_BYTES
        dues.said_again(ONE, size)
        dues.said_again(ONE, REPORT_BYTES - 1)
        dues.said_again(OTHER, size)
        assert owed(dues.said_again, ONE, REPORT_BYTES) == pytest.approx(3)
        await asyncio.sleep(3)
        dues.said_again(ONE, size)

    in_time(test)


def test_a_debt_is_so_many_calls_whatever_the_plan() -> None:
    """Who gets a larger one has paid sooner; who is gone owes nothing."""

    async def test(dues: Dues) -> None:
        standard = SETTINGS.plans["standard"]
        calls = standard.burst + 4 * standard.requests_per_second
        wait = dues.ended(ONE, calls * REPORT_BYTES)
        assert wait == pytest.approx((calls - FREE.burst) / FREE.requests_per_second)
        assert dues.owes(replace(ONE, plan="standard")) == pytest.approx(4)
        assert dues.owes(replace(ONE, plan="unlimited")) == 0
        dues.forget(ONE.workspace)
        assert dues.owes(ONE) == 0

    in_time(test)


def read(service: Service, caller: Caller, task_id: str, view: tasks_pb2.TaskView.ValueType) -> Any:
    request = tasks_pb2.GetTaskRequest(task_id=task_id, view=view)
    return service.tasks.GetTask(request, metadata=caller.metadata, timeout=PATIENCE)


async def ended(service: Service, caller: Caller, task_type: str, size: int) -> str:
    """The id of a task that has ended with a result of this size."""
    await service.submit(caller, task_type)
    lease = workers_pb2.LeaseTasksRequest(worker_name="w", task_types=[task_type])
    (task,) = (await service.workers.LeaseTasks(lease, metadata=caller.metadata, timeout=PATIENCE)).tasks
    done = workers_pb2.CompleteTaskRequest(lease=task.lease, result=as_struct({"text": "x" * size}))
    await service.workers.CompleteTask(done, metadata=caller.metadata, timeout=PATIENCE)
    return task.lease.task_id


async def test_a_large_answer_in_debt_is_refused() -> None:
    """With what says when to come again. Debts go with their workspace."""
    async with serving(settings=SLOW) as service:
        caller = await service.workspace("slow")
        task_id = await service.submit(caller, payload={"text": "x" * 1_000_000})
        assert (await read(service, caller, task_id, tasks_pb2.TASK_VIEW_FULL)).payload["text"]
        told = await refused(read(service, caller, task_id, tasks_pb2.TASK_VIEW_FULL))
        assert (told.status, told.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert "RetryInfo" in told.details
        assert (await read(service, caller, task_id, tasks_pb2.TASK_VIEW_BASIC)).task_id == task_id
        await service.app.eviction._forget(caller.workspace_id)
        assert (await read(service, caller, task_id, tasks_pb2.TASK_VIEW_FULL)).payload["text"]


@pytest.mark.parametrize("code", ["RATE_LIMITED", "OVERLOADED"])
async def test_what_is_refused_for_its_size_is_not_read(code: str) -> None:
    """Whichever call reads it; what is small is. Where nothing would be refused, nobody looks for sizes first."""
    store = DistantStore()
    async with serving(store, settings=SLOW) as service:
        caller, unread = await service.workspace("slow"), service.app.large.unread
        sizes = {"small": 1, "large": 1_000_000}
        ids = {name: await ended(service, caller, name, size) for name, size in sizes.items()}

        def calls(name: str) -> list[Any]:
            """Each reads the task, with its result."""
            tasks: Any = service.tasks
            meant = {"metadata": caller.metadata, "timeout": PATIENCE}
            listed = tasks_pb2.ListTasksRequest(filter=f'type = "{name}"', view=tasks_pb2.TASK_VIEW_FULL)
            return [
                tasks.GetTask(tasks_pb2.GetTaskRequest(task_id=ids[name]), **meant),
                tasks.BatchGetTasks(tasks_pb2.BatchGetTasksRequest(task_ids=[ids[name]]), **meant),
                tasks.ListTasks(listed, **meant),
                tasks.WaitTask(tasks_pb2.WaitTaskRequest(task_id=ids[name]), **meant),
            ]

        store.calls.clear()
        first, held = ("large", 0) if code == "RATE_LIMITED" else ("small", volume.WORKSPACE_BYTES - 500_000)
        await read(service, caller, ids[first], tasks_pb2.TASK_VIEW_FULL)
        unread.enter(caller.workspace_id, held)
        assert (store.calls["get_tasks"], store.calls["large_tasks"]) == (1, 0)
        for call in calls("large"):
            assert (await refused(call)).code == code
        assert store.calls["get_tasks"] == 1
        assert 0 < store.calls["large_tasks"] <= 4  # those that come together are looked up together
        for call in calls("small"):
            await call
        unread.leave(caller.workspace_id, held)


async def test_in_debt_no_long_history_is_streamed() -> None:
    """By either kind of stream; what is short is. What was sent is not sent again when it goes on."""
    async with serving(settings=SLOW) as service:
        caller = await service.workspace("slow")
        worker = service.work(caller)
        await worker.hello()
        task_id = await service.submit(caller)
        lease = (await worker.task()).lease
        service.app.leases._pace._said._burst = 1000  # how often lines come is not looked at here
        for _ in range(60):
            await worker.say(log=workers_pb2.Log(lease=lease, message="x" * 1000))
            assert not (await worker.ack()).error_code
        request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        first = service.tasks.StreamTaskEvents(request, metadata=caller.metadata)
        assert len([await first.read() for _ in range(62)]) == 62
        served = service.rest.ServeTaskEvents(
            rest_pb2.ServeTaskEventsRequest(task_id=task_id), metadata=caller.metadata
        )
        for again in (service.tasks.StreamTaskEvents(request, metadata=caller.metadata), served):
            told = await refused(again)
            assert (told.code, told.status) == ("RATE_LIMITED", grpc.StatusCode.RESOURCE_EXHAUSTED)
        request.after_sequence = 60
        behind: Any = service.tasks.StreamTaskEvents(request, metadata=caller.metadata)
        assert [(await behind.read()).sequence for _ in range(2)] == [61, 62]


async def test_in_debt_nothing_is_leased() -> None:
    """A worker that is refused has not been given what it does not hear of."""
    async with serving(settings=SLOW) as service:
        caller = await service.workspace("slow")
        ids = [await service.submit(caller, payload={"text": "x" * 1_000_000}) for _ in range(2)]
        request = workers_pb2.LeaseTasksRequest(worker_name="w", task_types=["echo"])
        leased = await service.workers.LeaseTasks(request, metadata=caller.metadata, timeout=PATIENCE)
        ids.remove(leased.tasks[0].lease.task_id)
        told = await refused(service.workers.LeaseTasks(request, metadata=caller.metadata, timeout=PATIENCE))
        assert told.code == "RATE_LIMITED"
        assert (await service.get(caller, ids[0])).status == tasks_pb2.TASK_STATUS_PENDING


async def test_a_lease_call_that_is_made_again_gets_its_tasks_in_debt_too() -> None:
    """They were given away with the answer that was lost."""
    async with serving(settings=SLOW) as service:
        caller = await service.workspace("slow")
        await service.submit(caller, payload={"text": "x" * 1_000_000})
        request = workers_pb2.LeaseTasksRequest(worker_name="w", task_types=["echo"], request_id=str(uuid.uuid4()))
        lost, again = [
            await service.workers.LeaseTasks(request, metadata=caller.metadata, timeout=PATIENCE) for _ in range(2)
        ]
        assert again.tasks[0].lease == lost.tasks[0].lease
        request.request_id = str(uuid.uuid4())
        told = await refused(service.workers.LeaseTasks(request, metadata=caller.metadata, timeout=PATIENCE))
        assert told.code == "RATE_LIMITED"
