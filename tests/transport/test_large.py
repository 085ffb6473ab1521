"""Large requests are read one at a time beside the event loop, of each workspace in its turn; what waits is bounded."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from support.http2 import Http2, by_grpc
from support.service import PATIENCE, Caller, Service, refused, serving, until

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain import structs
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.task import Task
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import volume
from openmcp_chain.engine.submission import Submit
from openmcp_chain.engine.volume import SMALL, Volume
from openmcp_chain.transport.large import Large

BIG = SMALL + 1


def payload(size: int) -> Struct:
    """Of about so many bytes, all of it small values."""
    values = [Value(bool_value=True)] * (size // 4)
    return Struct(fields={"a": Value(list_value=ListValue(values=values))})


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each Struct that was walked, whether that was on the event loop."""
    seen: list[bool] = []
    original = structs.fault

    def fault(field: str, data: bytes) -> Violation | None:
        seen.append(threading.current_thread() is threading.main_thread())
        return original(field, data)

    monkeypatch.setattr(structs, "fault", fault)
    return seen


async def submit(service: Service, *sizes: int) -> None:
    """In one batch, or by itself."""
    tenant = await service.workspace()
    requests = [tasks_pb2.SubmitTaskRequest(type="t", payload=payload(size)) for size in sizes]
    if len(requests) == 1:
        await service.tasks.SubmitTask(requests[0], metadata=tenant.metadata, timeout=PATIENCE)
        return
    batch = tasks_pb2.BatchSubmitTasksRequest(requests=requests)
    answer = await service.tasks.BatchSubmitTasks(batch, metadata=tenant.metadata, timeout=PATIENCE)
    assert [result.WhichOneof("outcome") for result in answer.results] == ["task"] * len(sizes)


@pytest.mark.parametrize(
    ("sizes", "at_once"),
    [([100], True), ([100] * 20, True), ([2 * SMALL], False), ([SMALL // 16] * 20, False)],
    ids=["small", "small batch", "large", "large batch of small ones"],
)
async def test_what_is_large_as_a_whole_is_read_beside_the_event_loop(
    sizes: list[int], at_once: bool, walked: list[bool]
) -> None:
    async with serving() as service:
        await submit(service, *sizes)
    assert walked == [at_once] * len(sizes)


@pytest.mark.parametrize("streamed", [True, False])
async def test_so_is_a_result(streamed: bool, walked: list[bool]) -> None:
    async with serving() as service:
        tenant = await service.workspace()
        task_id = await service.submit(tenant, task_type="echo")
        worker = service.work(tenant)
        await worker.hello()
        lease = (await worker.task()).lease
        del walked[:]
        if streamed:
            await worker.say(complete=workers_pb2.Complete(lease=lease, result=payload(2 * SMALL)))
            assert not (await worker.ack()).error_code
        else:
            request = workers_pb2.CompleteTaskRequest(lease=lease, result=payload(2 * SMALL))
            await service.workers.CompleteTask(request, metadata=tenant.metadata, timeout=PATIENCE)
        assert (await service.get(tenant, task_id)).result == payload(2 * SMALL)
        await worker.end()
    assert walked == [False]


class Job:
    """Something that is read until it is told that it has been."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.done = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.done.wait(PATIENCE)
        return "read"


async def whole(at: Large, workspace: str, job: Callable[[], str]) -> str:
    reading = at.reading(workspace, BIG)
    try:
        return await reading.run(job)
    finally:
        reading.end()


async def begun(job: Job) -> None:
    await until(job.begun.is_set)


async def test_a_workspace_waits_behind_its_own_requests() -> None:
    """Another's single one is the next, however many of the first wait."""
    at = Large(Volume())
    flood, single = [Job() for _ in range(5)], Job()
    reading = [asyncio.create_task(whole(at, "a", job)) for job in flood]
    await begun(flood[0])
    last = asyncio.create_task(whole(at, "b", single))
    await asyncio.sleep(0)
    flood[0].done.set()
    await begun(single)
    assert not flood[1].begun.is_set()
    for job in (single, *flood):
        job.done.set()
    assert await last == "read"
    assert await asyncio.gather(*reading) == ["read"] * 5
    assert not at._own._turns


async def test_a_workspace_that_rests_leaves_the_thread_to_others() -> None:
    """For a while that goes by how long it has had it; nothing is known of it when that is over."""
    at, order = Large(Volume()), list[str]()

    def work() -> None:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass

    async def read(workspace: str) -> None:
        reading = at.reading(workspace, BIG, rests=workspace == "a")
        await reading.run(work if workspace == "a" else int)
        order.append(workspace)
        reading.end()

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*map(read, "aabbb"))
        assert order == list("abbba")
        await until(lambda: not at._rested_at)


async def test_one_whose_caller_has_gone_keeps_its_turn_until_it_is_done() -> None:
    """The thread can't be stopped: another would be decoded beside it."""
    at = Large(Volume())
    gone, waiting, next_one = Job(), Job(), Job()
    first = asyncio.create_task(whole(at, "a", gone))
    second = asyncio.create_task(whole(at, "a", waiting))
    third = asyncio.create_task(whole(at, "b", next_one))
    await begun(gone)
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert at.turn.locked()
    assert at._own._turns.keys() == {"a", "b"}
    gone.done.set()
    await begun(next_one)
    next_one.done.set()
    assert await third == "read"
    assert not waiting.begun.is_set()
    assert not at._own._turns
    assert not at.turn.locked()


async def test_what_fails_is_told_and_makes_room() -> None:
    at = Large(Volume())

    def fails() -> str:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await whole(at, "a", fails)
    assert not at._own._turns


async def test_a_call_that_waits_keeps_nobody_from_the_turn() -> None:
    """However large it is: what it waits for is no reading."""
    async with serving() as service:
        tenant = await service.workspace()
        task_id = await service.submit(tenant)
        message = tasks_pb2.WaitTaskRequest(task_id=task_id).SerializeToString()
        unknown = b"\x7a\x80\x80\x04" + bytes(SMALL * 2)
        wait = service.raw.unary_unary("/openmcp.chain.v1.TaskService/WaitTask")
        waiting = asyncio.ensure_future(wait(message + unknown, metadata=tenant.metadata, timeout=PATIENCE))
        await until(lambda: service.app.events.open == 1)
        await submit(service, 2 * SMALL)
        assert not waiting.done()
        waiting.cancel()


@pytest.mark.parametrize("sizes", [[2 * SMALL], [SMALL] * 2])
async def test_what_a_call_brought_is_counted_until_it_ends(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It has been read, and given up its turn, long before it is written; and is in memory till then."""
    async with serving() as service:
        gate = asyncio.Event()
        original = service.app.submission.submit

        async def slow(principal: Principal, request: Submit) -> Task:
            await gate.wait()
            return await original(principal, request)

        monkeypatch.setattr(service.app.submission, "submit", slow)
        call = asyncio.ensure_future(submit(service, *sizes))
        await until(lambda: service.app.large.requests.total > 2 * SMALL and not service.app.large.turn.locked())
        gate.set()
        await call
        await until(lambda: not service.app.large.requests.total)


async def test_past_the_bound_a_call_is_refused_as_one_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as service:
        tenant = await service.workspace()
        monkeypatch.setattr(volume, "WORKSPACE_BYTES", SMALL)
        request = tasks_pb2.SubmitTaskRequest(type="t", payload=payload(2 * SMALL))
        told = await refused(service.tasks.SubmitTask(request, metadata=tenant.metadata))
        assert told.code == "OVERLOADED"
        await service.submit(tenant)


async def test_an_answer_that_nobody_reads_is_counted_until_its_call_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound, its workspace gets no other large one; small ones it does, and others what they ask for."""
    monkeypatch.setattr(volume, "WORKSPACE_BYTES", 5 * SMALL)
    async with serving() as service:
        tenant, other = await service.workspace(), await service.workspace()
        mine, others = [await service.submit(one, payload={"text": "x" * 2 * SMALL}) for one in (tenant, other)]

        def read(caller: Caller, task_id: str, view: tasks_pb2.TaskView.ValueType = tasks_pb2.TASK_VIEW_FULL) -> Any:
            request = tasks_pb2.GetTaskRequest(task_id=task_id, view=view)
            return service.tasks.GetTask(request, metadata=caller.metadata, timeout=PATIENCE)

        answers = service.app.large.unread
        async with Http2("127.0.0.1", service.port, window=0) as deaf:
            full = tasks_pb2.GetTaskRequest(task_id=mine, view=tasks_pb2.TASK_VIEW_FULL)
            asked = by_grpc("/openmcp.chain.v1.TaskService/GetTask", tenant.metadata, full)
            calls = [deaf.ask(*asked) for _ in range(2)]
            await until(lambda: answers.total > 4 * SMALL)
            assert (await refused(read(tenant, mine))).code == "OVERLOADED"
            assert (await read(tenant, mine, tasks_pb2.TASK_VIEW_BASIC)).task_id == mine
            assert (await read(other, others)).payload["text"]
            for call in calls:
                deaf.reset(call)
            await until(lambda: not answers.total)
            assert (await read(tenant, mine)).payload["text"]
        await until(lambda: not answers.total)


async def test_where_too_much_is_unread_nothing_is_leased_and_what_was_done_is_answered() -> None:
    """A refusal that came after would leave tasks with nobody, or be taken for a submit that failed."""
    async with serving() as service:
        tenant = await service.workspace()
        task_id = await service.submit(tenant, payload={"text": "x" * 2 * SMALL})
        service.app.large.unread.enter(tenant.workspace_id, volume.WORKSPACE_BYTES)
        lease = workers_pb2.LeaseTasksRequest(worker_name="w", task_types=["echo"])
        assert (await refused(service.workers.LeaseTasks(lease, metadata=tenant.metadata))).code == "OVERLOADED"
        assert (await service.get(tenant, task_id)).status == tasks_pb2.TASK_STATUS_PENDING
        batch = tasks_pb2.BatchSubmitTasksRequest(requests=[tasks_pb2.SubmitTaskRequest(type="t")] * 1000)
        done = await service.tasks.BatchSubmitTasks(batch, metadata=tenant.metadata, timeout=PATIENCE)
        assert done.ByteSize() > SMALL
        service.app.large.unread.leave(tenant.workspace_id, volume.WORKSPACE_BYTES)
        assert (await service.workers.LeaseTasks(lease, metadata=tenant.metadata, timeout=PATIENCE)).tasks
