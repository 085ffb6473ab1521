"""Which messages of a worker's are decoded at all: those that are small, or end a lease."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engine import DistantStore
from support.service import NOBODYS, PATIENCE, SETTINGS, Caller, Service, WorkStream, as_struct, refused, serving, until

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain import structs
from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Key
from openmcp_chain.engine.leases import LeaseRef
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.transport import intake, outline, workstream
from openmcp_chain.transport.reports import Completed

LARGE = as_struct({"text": "x" * 900_000})
SLOW = replace(SETTINGS, plans={"slow": replace(SETTINGS.plans["free"], name="slow", requests_per_second=1, burst=1)})
"""In which a megabyte that is counted is owed for a minute."""
LEASES = 8

text = st.text(max_size=20)
leases = st.builds(workers_pb2.LeaseRef, workspace_id=text, task_id=text, lease_token=text)
messages = st.one_of(
    st.builds(workers_pb2.Heartbeat, lease=leases, progress=st.builds(tasks_pb2.TaskProgress, message=text)),
    st.builds(workers_pb2.Complete, lease=leases, result=st.dictionaries(text, text).map(as_struct)),
    st.builds(workers_pb2.Fail, lease=leases, code=text, message=text, retryable=st.booleans()),
    st.builds(workers_pb2.Log, lease=leases, message=text),
    st.builds(workers_pb2.Stopped, lease=leases),
    st.builds(workers_pb2.Hello, worker_name=text, held=st.lists(leases, max_size=3)),
    st.builds(workers_pb2.Refresh, token=text),
)


def request(message: Any) -> workers_pb2.WorkRequest:
    return workers_pb2.WorkRequest(**{type(message).__name__.lower(): message})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many results have been read."""
    results, original = [], Completed.read

    def counted(*arguments: Any) -> Completed:
        results.append(1)
        return original(*arguments)

    monkeypatch.setattr(Completed, "read", counted)
    return lambda: len(results)


async def end_all(worker: WorkStream, held: list[workers_pb2.LeaseRef]) -> list[str]:
    """Says at once that all are done, and returns the answers."""
    for lease in held:
        await worker.say(complete=workers_pb2.Complete(lease=lease, result=LARGE))
    return [(await worker.ack()).error_code for _ in held]


async def leased(service: Service, caller: Caller, count: int) -> tuple[WorkStream, list[workers_pb2.LeaseRef]]:
    """A worker with so many tasks."""
    worker = service.work(caller)
    await worker.hello(concurrency=count + 1)
    for _ in range(count):
        await service.submit(caller)
    return worker, [(await worker.task()).lease for _ in range(count)]


async def test_a_worker_that_comes_back_elsewhere_ends_all_it_holds() -> None:
    """However large its results, and whatever its plan: a process that does not know the leases looks at them."""
    store = MemoryStore()
    async with serving(store, settings=SLOW) as service, serving(store, settings=SLOW) as other:
        caller = await service.workspace("slow")
        worker, held = await leased(service, caller, LEASES)
        worker.call.cancel()
        again = other.work(caller)
        await again.hello(concurrency=LEASES, held=held)
        async with asyncio.timeout(PATIENCE):
            assert await end_all(again, held) == [""] * LEASES
        assert {task.attempt for task in store._tasks.values()} == {1}
        await again.end()


async def test_of_what_is_lost_nothing_is_read(read: Callable[[], int]) -> None:
    """Its worker hears so; what it says under a lease meanwhile does not wait."""
    async with serving(settings=SLOW) as service:
        caller = await service.workspace("slow")
        worker, (live,) = await leased(service, caller, 1)
        other = workers_pb2.LeaseRef(workspace_id=live.workspace_id, task_id=live.task_id, lease_token="another")
        assert await end_all(worker, [other, NOBODYS]) == ["LEASE_LOST", "LEASE_LOST"]
        assert not (await worker.heartbeat(live)).error_code
        assert read() == 0
        await worker.end()


async def test_an_end_that_is_said_again_is_read_once_more_and_then_paid_for(read: Callable[[], int]) -> None:
    """It may not have been heard that it was taken: the first answer is given again."""
    async with serving(settings=SLOW) as service:
        worker, held = await leased(service, await service.workspace("slow"), 1)
        service.app.leases._pace._said._rate = 1000  # how often ends come is not looked at here
        assert await end_all(worker, held * 4) == ["", "", "RATE_LIMITED", "RATE_LIMITED"]
        assert read() == 2
        await worker.end()


async def test_an_end_that_is_said_twice_at_once_is_read_when_the_first_is_done(read: Callable[[], int]) -> None:
    """As long as it is not, the lease lives, and it would be read however often it comes."""
    store = DistantStore()
    async with serving(store) as service:
        worker, (lease,) = await leased(service, await service.workspace(), 1)
        gate = store.gates["update_tasks"] = asyncio.Event()
        for _ in range(2):
            await worker.say(complete=workers_pb2.Complete(lease=lease, result=LARGE))
        await until(lambda: read() == 1)
        await asyncio.sleep(0.1)  # in which it must not happen
        assert read() == 1
        gate.set()
        assert [(await worker.ack()).error_code for _ in range(2)] == ["", ""]
        await worker.end()


async def test_a_result_that_is_surely_too_large_is_not_read(read: Callable[[], int]) -> None:
    """Its task fails and says why, as one that was read would."""
    async with serving() as service:
        caller = await service.workspace()
        worker, (one, other) = await leased(service, caller, 2)
        for lease, size in ((one, structs.BYTES), (other, intake.COMPLETE_BYTES)):
            result = as_struct({"text": "x" * size})
            await worker.say(complete=workers_pb2.Complete(lease=lease, result=result))
            assert (await worker.ack()).error_code == "INVALID_ARGUMENT"
            task = await service.get(caller, lease.task_id)
            assert task.error.startswith("RESULT_INVALID: complete.result")
            assert str(structs.BYTES) in task.error
        assert read() == 1
        await worker.end()


async def test_who_owes_for_ends_gets_no_more_tasks() -> None:
    """By no stream, old or new, nor by a call; others do, and what it holds can be ended all the same."""
    async with serving(settings=SLOW) as service:
        caller, other = await service.workspace("slow"), await service.workspace("slow")
        worker, held = await leased(service, caller, 2)
        assert await end_all(worker, held) == ["", ""]
        task_id = await service.submit(caller)
        late = service.work(caller)
        await late.hello(concurrency=1)
        await leased(service, other, 1)
        request = workers_pb2.LeaseTasksRequest(worker_name="w", task_types=["echo"])
        told = await refused(service.workers.LeaseTasks(request, metadata=caller.metadata))
        assert told.code == "RATE_LIMITED"
        assert (await service.get(caller, task_id)).status == tasks_pb2.TASK_STATUS_PENDING
        await worker.end()


async def test_a_workspaces_calls_do_not_wait_for_its_ends() -> None:
    """Many of which may stand in line."""
    async with serving() as service:
        caller = await service.workspace()
        worker, (lease,) = await leased(service, caller, 1)
        line = f"{caller.workspace_id}/ends"
        await service.app.large.enter_turn(line)
        service.app.large.turn.release()
        try:
            await worker.say(complete=workers_pb2.Complete(lease=lease, result=LARGE))
            request = tasks_pb2.SubmitTaskRequest(type="other", payload=LARGE)
            await service.tasks.SubmitTask(request, metadata=caller.metadata, timeout=PATIENCE)
            assert (await service.get(caller, lease.task_id)).status == tasks_pb2.TASK_STATUS_RUNNING
            await service.app.large.turn.acquire()
        finally:
            service.app.large.leave_turn(line)
        assert not (await worker.ack()).error_code
        await worker.end()


async def test_while_an_end_waits_for_its_turn_the_server_says_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own are behind it: they are said and answered for it, for all that the stream holds."""
    monkeypatch.setattr(intake, "BEAT_SECONDS", 0.05)
    store, short = MemoryStore(), timedelta(seconds=0.4)
    async with serving(store, settings=replace(SETTINGS, lease_duration=short)) as service:
        worker, (done, other) = await leased(service, await service.workspace(), 2)
        async with service.app.large.turn:
            await worker.say(complete=workers_pb2.Complete(lease=done, result=LARGE))
            for _ in range(10):
                ack = await worker.ack()
                assert (ack.kind, ack.error_code) == (workers_pb2.REPORT_KIND_HEARTBEAT, "")
                assert ack.lease in (done, other)
        while (ack := await worker.ack()).kind != workers_pb2.REPORT_KIND_COMPLETE:
            assert not ack.error_code
        assert not ack.error_code
        assert {task.attempt for task in store._tasks.values()} == {1}
        await worker.end()


@pytest.mark.parametrize("back", [False, True], ids=["here", "come back elsewhere"])
async def test_while_many_ends_are_read_no_lease_is_lost(monkeypatch: pytest.MonkeyPatch, back: bool) -> None:
    """Each of them is soon read, but not all: neither of what the server knows nor of what the worker says it holds."""
    monkeypatch.setattr(intake, "BEAT_SECONDS", 0.4)
    original = Completed.read

    def slow(*arguments: Any) -> Completed:
        time.sleep(0.3)
        return original(*arguments)

    monkeypatch.setattr(Completed, "read", slow)
    store, settings = MemoryStore(), replace(SETTINGS, lease_duration=timedelta(seconds=1))
    async with serving(store, settings=settings) as service, serving(store, settings=settings) as other:
        caller = await service.workspace()
        worker, held = await leased(service, caller, LEASES)
        if back:
            worker.call.cancel()
            worker = other.work(caller)
            await worker.hello(concurrency=LEASES, held=held)
        for lease in held:
            await worker.say(complete=workers_pb2.Complete(lease=lease, result=LARGE))
        left = LEASES
        async with asyncio.timeout(PATIENCE):
            while left:
                ack = await worker.ack()
                assert not ack.error_code
                left -= ack.kind == workers_pb2.REPORT_KIND_COMPLETE
        assert {task.attempt for task in store._tasks.values()} == {1}
        await worker.end()


async def test_when_an_end_is_taken_the_worker_is_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slowly its heartbeats were said, and however many are due."""
    monkeypatch.setattr(intake, "BEAT_SECONDS", 0.05)
    async with serving() as service:
        worker, (done, other) = await leased(service, await service.workspace(), 2)
        due = [LeaseRef(Key(other.workspace_id, other.task_id), other.lease_token)] * 1000
        monkeypatch.setattr(service.app.leases, "unheard", lambda _: due)
        monkeypatch.setattr(service.app.leases, "hear", lambda _: asyncio.sleep(0.02))
        async with service.app.large.turn:
            await worker.say(complete=workers_pb2.Complete(lease=done, result=LARGE))
            await worker.say(log=workers_pb2.Log(lease=other, message="behind it"))
            assert (await worker.ack()).kind == workers_pb2.REPORT_KIND_HEARTBEAT
        async with asyncio.timeout(PATIENCE):
            while (await worker.ack()).kind != workers_pb2.REPORT_KIND_LOG:
                pass
        await worker.end()


async def test_a_report_that_ends_nothing_is_small() -> None:
    """A longer line is refused by itself, a longer heartbeat keeps its lease; the stream goes on."""
    async with serving() as service:
        caller = await service.workspace()
        worker, (lease,) = await leased(service, caller, 1)
        await worker.say(log=workers_pb2.Log(lease=lease, message="x" * intake.SAID_BYTES))
        assert (await worker.ack()).error_code == "REQUEST_TOO_LARGE"
        for size in (intake.SAID_BYTES, workstream.PLAIN_BYTES):
            progress = tasks_pb2.TaskProgress(fraction=0.5, message="x" * size)
            await worker.say(heartbeat=workers_pb2.Heartbeat(lease=lease, progress=progress))
            assert not (await worker.ack()).error_code
            kept = (await service.get(caller, lease.task_id)).HasField("progress")
            assert kept is (size < intake.SAID_BYTES)
        await worker.say(log=workers_pb2.Log(lease=lease, message="x" * workstream.PLAIN_BYTES))
        assert not (await worker.ack()).error_code
        assert not (await worker.fail(lease)).error_code
        await worker.end()


def complete(*parts: workers_pb2.Complete) -> bytes:
    """A WorkRequest whose `complete` has all of these, one after the other."""
    inner = b"".join(part.SerializeToString() for part in parts)
    number = workers_pb2.WorkRequest.COMPLETE_FIELD_NUMBER
    length = len(inner)
    return bytes([number << 3 | 2, length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14]) + inner


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (request(workers_pb2.Complete(result=LARGE)).SerializeToString(), "complete.lease"),
        (
            request(workers_pb2.Complete(lease=NOBODYS, result=LARGE)).SerializeToString()
            + request(workers_pb2.Heartbeat(lease=NOBODYS)).SerializeToString(),
            "message",
        ),
        (request(workers_pb2.Hello(worker_version="x" * workstream.HELLO_BYTES)).SerializeToString(), "hello"),
        (bytes(workstream.PLAIN_BYTES + 1), "message"),
        (b"\xff" * (workstream.PLAIN_BYTES + 1), "message"),
    ],
    ids=["no lease", "two messages", "hello", "zeros", "ones"],
)
async def test_what_is_not_one_message_ends_the_stream(data: bytes, field: str) -> None:
    """All libraries write one, its lease first; the error names the field."""
    async with serving() as service:
        worker = service.raw.stream_stream("/openmcp.chain.v1.WorkerService/Work")(
            metadata=(await service.workspace()).metadata
        )
        hello = workers_pb2.Hello(worker_name="w", task_types=["echo"], max_concurrency=1)
        if field != "hello":
            await worker.write(request(hello).SerializeToString())
            await worker.read()
        await worker.write(data)
        told = await refused(worker)
        assert (told.status, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_the_lease_that_is_looked_at_is_the_one_that_counts() -> None:
    """A second one in the same message would take its place, as the wire format has it: that is refused."""
    async with serving() as service:
        caller = await service.workspace()
        worker = service.raw.stream_stream("/openmcp.chain.v1.WorkerService/Work")(metadata=caller.metadata)
        hello = workers_pb2.Hello(worker_name="w", task_types=["echo"], max_concurrency=1)
        await worker.write(request(hello).SerializeToString())
        await worker.read()
        task_id = await service.submit(caller)
        lease = workers_pb2.WorkResponse.FromString(await worker.read()).task.lease
        sent = workers_pb2.Complete(lease=lease, result=LARGE), workers_pb2.Complete(lease=NOBODYS)
        await worker.write(complete(*sent))
        assert (await refused(worker)).fields == ["complete.lease"]
        assert (await service.get(caller, task_id)).status == tasks_pb2.TASK_STATUS_RUNNING


@given(messages)
def test_an_outline_is_what_the_message_says(message: Any) -> None:
    """Whatever else is in it."""
    told = outline.of(request(message).SerializeToString())
    assert told.kind == type(message).__name__.lower()
    assert told.lease == getattr(message, "lease", None)


@given(messages, st.data())
def test_an_outline_of_anything_is_one_or_a_refusal(message: Any, data: st.DataObject) -> None:
    """Of bytes that were cut or changed."""
    sound = bytearray(request(message).SerializeToString())
    if sound:
        sound[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    with suppress(errors.InvalidArgument):
        outline.of(bytes(sound[: data.draw(st.integers(0, len(sound)))]))
