"""Workers that do not read what they are sent: what waits for them is bounded, and what is theirs no more stays."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeAlias

import pytest
from google.protobuf.duration_pb2 import Duration
from support.http2 import Http2, by_grpc
from support.service import PATIENCE, Caller, ManualClock, Service, refused, serving, until

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain.domain.task import Status
from openmcp_chain.domain.workspace import Scope
from openmcp_chain.engine import volume
from openmcp_chain.engine.allowance import Allowance
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.transport import intake
from openmcp_chain.transport.dues import Dues
from openmcp_chain.transport.encoded import Encoded
from openmcp_chain.transport.workstream import WorkerStream

Responses: TypeAlias = AsyncGenerator[workers_pb2.WorkResponse | Encoded, None]


async def test_what_a_worker_did_not_read_returns_when_it_goes() -> None:
    """Tasks that wait in the server for a worker that does not read are given back as soon as its stream ends."""
    store = MemoryStore()
    async with serving(store) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        deaf = service.work(operator)
        await deaf.hello(concurrency=40)
        for _ in range(40):
            await service.submit(tenant, payload={"text": "x" * 500_000})
        (stream,) = service.app.workers._streams
        assert stream._outbox.qsize() > 0
        deaf.call.cancel()

        def returned() -> bool:
            codes = [event.context.get("code") for task in store._tasks.values() for event in task.events]
            return "WORKER_GONE" in codes and "LEASE_EXPIRED" not in codes

        await until(returned)
        await until(lambda: not service.app.workers._streams)


async def unread(service: Service, caller: Caller, concurrency: int) -> tuple[WorkerStream, Responses]:
    """A worker's stream whose answers go nowhere unless a test takes them; it has been welcomed."""
    app, principal = service.app, await service.app.identity.check(caller.token, Scope.WORKER)
    stream = WorkerStream(
        app.leases,
        app.dispatcher,
        app.identity,
        app.bearers.present(principal),
        Allowance(10**6),
        app.large,
        Dues(app.identity.plan),
        workers_pb2.WorkRequest.FromString,
    )

    hello = workers_pb2.Hello(worker_name="worker-1", task_types=["echo"], max_concurrency=concurrency)

    async def requests() -> AsyncIterator[bytes]:
        yield workers_pb2.WorkRequest(hello=hello).SerializeToString()
        await asyncio.Event().wait()

    responses = stream.run(requests())
    welcome = await anext(responses)
    assert isinstance(welcome, workers_pb2.WorkResponse)
    assert welcome.HasField("welcome")
    return stream, responses


async def next_task(responses: Responses) -> workers_pb2.LeasedTask:
    """The next thing that is sent, a task."""
    response = await anext(responses)
    assert isinstance(response, bytes)
    return workers_pb2.WorkResponse.FromString(response).task


@pytest.mark.parametrize("swept", [True, False], ids=["ends are noticed", "not noticed yet"])
async def test_a_worker_that_does_not_read_is_given_no_more_than_it_takes(swept: bool) -> None:
    """However often its leases end meanwhile; and when it reads again, it gets what is still leased to it."""
    clock, store = ManualClock(), MemoryStore()
    async with serving(store, now=clock) as service:
        service.app.leases._chance = lambda: 0.0
        tenant = await service.workspace()
        stream, responses = await unread(service, tenant, 3)
        for _ in range(5):
            await service.submit(tenant)
        await until(lambda: stream._outbox.qsize() == 3)
        clock.advance(22.6)
        if swept:
            await service.app.sweep.run_once()
            await service.app.dispatcher.settle()
            assert {task.status for task in store._tasks.values()} == {Status.PENDING}
            assert stream._outbox.qsize() == 3
        leases = [(await next_task(responses)).lease for _ in range(3)]
        running = [task for task in store._tasks.values() if task.status is Status.RUNNING]
        assert {(task.id, task.lease.token) for task in running if task.lease} == {
            (lease.task_id, lease.lease_token) for lease in leases
        }
        assert sum(len(task.events) for task in store._tasks.values()) == 5 + 2 * 3 + 3
        await service.app.dispatcher.settle()
        assert stream._outbox.empty()
        await responses.aclose()
        await stream.close()


async def test_a_worker_that_was_stuck_hears_what_it_lost_before_it_is_given_more() -> None:
    """While it says nothing it gets no task in place of one whose lease has ended."""
    store = MemoryStore()
    async with serving(store) as service:
        service.app.leases._chance = lambda: 0.0
        tenant = await service.workspace()
        worker = service.work(tenant)
        await worker.hello()
        for _ in range(2):
            await service.submit(tenant, heartbeat_timeout=Duration(seconds=1))
        lost = (await worker.task()).lease
        await until(lambda: len(service.app.leases._held) == 0)
        await service.app.sweep.run_once()
        await service.app.dispatcher.settle()
        assert {task.status for task in store._tasks.values()} == {Status.PENDING}
        await worker.say(heartbeat=workers_pb2.Heartbeat(lease=lost))
        answers: list[Any] = [await worker.call.read(), await worker.call.read()]
        kinds = {answer.WhichOneof("message"): answer for answer in answers}
        assert kinds["ack"].ack.error_code == "LEASE_LOST"
        assert not (await worker.complete(kinds["task"].task.lease)).error_code
        await worker.end()


async def test_of_large_tasks_only_so_much_waits_for_a_worker_that_does_not_read() -> None:
    """The others wait for whoever reads; all come in their order when this one does."""
    store = MemoryStore()
    async with serving(store) as service:
        tenant = await service.workspace()
        stream, responses = await unread(service, tenant, 10)
        ids = [await service.submit(tenant, payload={"text": "x" * 400_000}) for _ in range(10)]
        await until(lambda: stream._outbox.qsize() == 2)
        await service.app.dispatcher.settle()
        assert sum(task.attempt for task in store._tasks.values()) == 2
        given = [await next_task(responses) for _ in range(10)]
        assert [task.lease.task_id for task in given] == ids
        assert all(task.payload.ByteSize() > 400_000 for task in given)
        await responses.aclose()
        await stream.close()


@pytest.mark.slow
async def test_flood_by_who_does_not_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that sends reports and reads no answer is no longer read from: memory stays bounded, others unharmed."""
    monkeypatch.setattr(intake, "REPORTS", 16)
    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        flood = service.work(operator)
        await flood.hello()
        name = "x" * 64
        beat = workers_pb2.Heartbeat(lease=workers_pb2.LeaseRef(workspace_id=name, task_id=name, lease_token=name))

        async def pour() -> None:
            while True:
                await flood.say(heartbeat=beat)

        pouring = asyncio.create_task(pour())
        (stream,) = service.app.workers._streams
        await until(stream._intake._slots.locked)
        other = service.work(operator)
        await other.hello()
        await service.submit(tenant)  # the flood's own session takes it
        await service.submit(tenant)
        await other.complete((await other.task()).lease)
        assert stream._outbox.qsize() <= 17
        assert len(stream._intake.under_way) <= 17
        pouring.cancel()
        flood.call.cancel()
        await until(lambda: stream not in service.app.workers._streams)
        await asyncio.gather(pouring, return_exceptions=True)
        await other.end()


async def test_of_large_tasks_only_so_much_waits_for_all_who_do_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many streams a workspace has; each gets the next when another has read, and others' go on."""
    monkeypatch.setattr(volume, "WORKSPACE_BYTES", 1_300_000)
    async with serving() as service:
        tenant, other = await service.workspace(), await service.workspace()
        streams = [await unread(service, tenant, 2) for _ in range(5)]
        ids = [await service.submit(tenant, payload={"text": "x" * 400_000}) for _ in range(10)]
        await service.app.dispatcher.settle()
        assert sum(stream._outbox.qsize() for stream, _ in streams) == 3
        reader = service.work(other)
        await reader.hello()
        await service.submit(other, payload={"text": "x" * 400_000})
        await reader.complete((await reader.task()).lease)

        given = list[str]()

        async def read(responses: Responses) -> None:
            while True:
                given.append((await next_task(responses)).lease.task_id)

        readers = [asyncio.ensure_future(read(responses)) for _, responses in streams]
        await until(lambda: len(given) == 10)
        assert sorted(given) == sorted(ids)
        await until(lambda: not service.app.large.unread.total)
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for stream, responses in streams:
            await responses.aclose()
            await stream.close()
        await reader.end()


async def test_calls_that_wait_are_answered_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large tasks that come at once, no more is on its way to them than a workspace may leave unread."""
    monkeypatch.setattr(volume, "WORKSPACE_BYTES", most := 3_000_000)
    async with serving() as service:
        tenant = await service.workspace()
        await service.tasks.PauseTaskType(tasks_pb2.PauseTaskTypeRequest(type="echo"), metadata=tenant.metadata)
        ids = [await service.submit(tenant, payload={"text": "x" * 400_000}) for _ in range(10)]
        request = workers_pb2.LeaseTasksRequest(worker_name="w", task_types=["echo"], wait=Duration(seconds=20))
        unread, peak = service.app.large.unread, 0
        enter = unread.enter

        def note(workspace: str, size: int) -> None:
            nonlocal peak
            enter(workspace, size)
            peak = max(peak, unread.total)

        monkeypatch.setattr(unread, "enter", note)
        calls = [service.workers.LeaseTasks(request, metadata=tenant.metadata, timeout=PATIENCE) for _ in ids]
        await until(lambda: service.app.streams._open[tenant.workspace_id] == len(ids))
        await service.tasks.ResumeTaskType(tasks_pb2.ResumeTaskTypeRequest(type="echo"), metadata=tenant.metadata)
        given = [task.lease.task_id for answer in await asyncio.gather(*calls) for task in answer.tasks]
        assert sorted(given) == sorted(ids)
        assert 400_000 < peak < most
        await until(lambda: not unread.total)


async def test_who_was_answered_more_than_he_reads_is_answered_nothing_more() -> None:
    """An answer that had to be given may exceed the bound; then it is his turn to read."""
    async with serving() as service:
        tenant, other = await service.workspace(), await service.workspace()
        task_id = await service.submit(tenant)
        service.app.large.unread.enter(tenant.workspace_id, volume.WORKSPACE_BYTES + 1)
        request = tasks_pb2.GetTaskRequest(task_id=task_id)
        assert (await refused(service.tasks.GetTask(request, metadata=tenant.metadata))).code == "OVERLOADED"
        await service.submit(other)
        service.app.large.unread.leave(tenant.workspace_id, volume.WORKSPACE_BYTES + 1)
        await service.get(tenant, task_id)


async def test_a_call_that_is_made_many_times_is_answered_so_often_as_there_is_room() -> None:
    """What was leased is with one of them at least; the others may be made again, and hold no more than one may."""
    async with serving() as service:
        tenant = await service.workspace()
        for _ in range(3):
            await service.submit(tenant, payload={"text": "x" * 800_000})
        service.app.large.unread.enter(tenant.workspace_id, volume.WORKSPACE_BYTES - 7_500_000)
        request = workers_pb2.LeaseTasksRequest(
            worker_name="w", task_types=["echo"], max_tasks=3, request_id=str(uuid.uuid4())
        )
        async with Http2("127.0.0.1", service.port, window=0) as deaf:
            for _ in range(6):
                deaf.ask(*by_grpc("/openmcp.chain.v1.WorkerService/LeaseTasks", tenant.metadata, request))
            await until(lambda: service.app.large.unread.total > volume.WORKSPACE_BYTES - 3_000_000)
            again = service.workers.LeaseTasks(request, metadata=tenant.metadata, timeout=PATIENCE)
            assert (await refused(again)).code == "OVERLOADED"
            assert volume.WORKSPACE_BYTES - 3_000_000 < service.app.large.unread.total <= volume.WORKSPACE_BYTES
        await until(lambda: service.app.large.unread.total == volume.WORKSPACE_BYTES - 7_500_000)
        assert len((await service.workers.LeaseTasks(request, metadata=tenant.metadata, timeout=PATIENCE)).tasks) == 3


async def test_others_bytes_hinder_nobody() -> None:
    """Where all there may be is held by others, a workspace still gets what it asks for and leases."""
    async with serving() as service:
        for _ in range(3):
            service.app.large.unread.enter((await service.workspace()).workspace_id, volume.WORKSPACE_BYTES)
        tenant = await service.workspace()
        ids = [await service.submit(tenant, payload={"text": "x" * 1_000_000}) for _ in range(3)]
        request = workers_pb2.LeaseTasksRequest(worker_name="w", task_types=["echo"])
        leased = await service.workers.LeaseTasks(request, metadata=tenant.metadata, timeout=PATIENCE)
        assert leased.tasks[0].lease.task_id == ids[0]
        full = tasks_pb2.GetTaskRequest(task_id=ids[1], view=tasks_pb2.TASK_VIEW_FULL)
        assert (await service.tasks.GetTask(full, metadata=tenant.metadata, timeout=PATIENCE)).payload["text"]
        worker = service.work(tenant)
        await worker.hello(concurrency=2)
        assert [(await worker.task()).lease.task_id for _ in range(2)] == ids[1:]
        await worker.end()
