"""The worker's stream on the wire: its rules, fencing, credits, and what comes back when it goes."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from support.engine import DistantStore
from support.service import NOBODYS, PATIENCE, ManualClock, refused, serving, until

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain.domain import errors
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.transport import workstream

HELLO: dict[str, Any] = {"worker_name": "worker-1", "task_types": ["echo"], "max_concurrency": 1}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"worker_name": ""}, "hello.worker_name"),
        ({"worker_name": "x" * 129}, "hello.worker_name"),
        ({"worker_name": "a\nb"}, "hello.worker_name"),
        ({"worker_version": "ü"}, "hello.worker_version"),
        ({"max_concurrency": 0}, "hello.max_concurrency"),
        ({"max_concurrency": -1}, "hello.max_concurrency"),
        ({"max_concurrency": 1001}, "hello.max_concurrency"),
        ({"task_types": []}, "hello.task_types"),
        ({"task_types": ["t"] * 65}, "hello.task_types"),
        ({"task_types": ["echo", "no good"]}, "hello.task_types[1]"),
        ({"held": [workers_pb2.LeaseRef()] * 2}, "hello.held"),
        ({"held": [NOBODYS] * 2, "max_concurrency": 2}, "hello.held"),
    ],
)
async def test_hello_is_checked(changed: dict[str, Any], field: str) -> None:
    """A bad field of hello ends the stream by INVALID_ARGUMENT that names it."""
    async with serving() as service:
        worker = service.work(await service.workspace())
        await worker.say(hello=workers_pb2.Hello(**(HELLO | changed)))
        told = await refused(worker.call)
    assert told.status is grpc.StatusCode.INVALID_ARGUMENT
    assert told.fields[0] == field


async def test_hello_must_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that stays without one ends, and gives its place back; one that has had it is not touched."""
    monkeypatch.setattr(workstream, "HELLO_SECONDS", 0.2)
    async with serving() as service:
        caller = await service.workspace()
        greeted = service.work(caller)
        await greeted.hello()
        assert (await refused(service.work(caller).call)).code == "DEADLINE_EXCEEDED"
        assert len(service.app.workers._streams) == 1
        await greeted.heartbeat(NOBODYS)
        await greeted.end()


@pytest.mark.parametrize("field", ["workspace_id", "task_id", "lease_token"])
@pytest.mark.parametrize("value", ["", "x" * 65])
async def test_leases_are_checked(field: str, value: str) -> None:
    """What can't be a lease ends the stream: an answer repeats it, so a long one would cost memory."""
    ref = workers_pb2.LeaseRef()
    ref.CopyFrom(NOBODYS)
    setattr(ref, field, value)
    async with serving() as service:
        caller = await service.workspace()
        for kind, message in (
            ("heartbeat", workers_pb2.Heartbeat(lease=ref)),
            ("complete", workers_pb2.Complete(lease=ref)),
            ("fail", workers_pb2.Fail(lease=ref)),
        ):
            worker = service.work(caller)
            await worker.hello()
            await worker.say(**{kind: message})
            assert (await refused(worker.call)).fields == [f"{kind}.lease.{field}"]


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"heartbeat": workers_pb2.Heartbeat()},
        {"complete": workers_pb2.Complete()},
        {"fail": workers_pb2.Fail()},
        {"refresh": workers_pb2.Refresh()},
        {"drain": workers_pb2.Drain()},
    ],
)
async def test_hello_comes_first(message: dict[str, Any]) -> None:
    """Anything before hello ends the stream by INVALID_ARGUMENT that names `hello`."""
    async with serving() as service:
        worker = service.work(await service.workspace())
        await worker.say(**message)
        assert (await refused(worker.call)).fields == ["hello"]


async def test_hello_comes_once_and_nothing_is_empty() -> None:
    """A second hello, and a message without content, end the stream."""
    async with serving() as service:
        caller = await service.workspace()
        for message, field in (({"hello": workers_pb2.Hello(**HELLO)}, "hello"), ({}, "message")):
            worker = service.work(caller)
            await worker.hello()
            await worker.say(**message)
            assert (await refused(worker.call)).fields == [field]


async def test_operator_takes_only_its_types() -> None:
    """A type beyond the operator's credential is PERMISSION_DENIED, TYPE_NOT_ALLOWED."""
    async with serving() as service:
        worker = service.work(await service.operator("echo"))
        await worker.say(hello=workers_pb2.Hello(**(HELLO | {"task_types": ["echo", "other"]})))
        told = await refused(worker.call)
    assert (told.status, told.code) == (grpc.StatusCode.PERMISSION_DENIED, "TYPE_NOT_ALLOWED")


async def test_refresh_must_be_of_the_same_identity() -> None:
    """A stream can't become another's by a token of theirs; nor by one that is none."""
    async with serving() as service:
        caller, other = await service.workspace(), await service.workspace()
        for token, code in ((other.token, "INVALID_ARGUMENT"), ("nonsense", "TOKEN_INVALID"), ("", "TOKEN_INVALID")):
            worker = service.work(caller)
            await worker.hello()
            await worker.say(refresh=workers_pb2.Refresh(token=token))
            assert (await refused(worker.call)).code == code


async def test_a_strangers_hello_takes_no_lease() -> None:
    """The stream that names another workspace's lease hears nothing of it: its holder is told that it is to stop."""
    async with serving() as service:
        owner, stranger = await service.workspace(), await service.workspace()
        task_id, worker = await service.submit(owner), service.work(owner)
        await worker.hello()
        lease = (await worker.task()).lease
        thief = service.work(stranger)
        await thief.hello(held=[lease])
        await service.tasks.CancelTask(tasks_pb2.CancelTaskRequest(task_id=task_id), metadata=owner.metadata)
        assert (await worker.next("cancel")).cancel.lease == lease
        assert (await thief.heartbeat(lease)).error_code == "LEASE_LOST"
        await worker.say(stopped=workers_pb2.Stopped(lease=lease))
        assert not (await worker.ack()).error_code
        await thief.end()


async def test_leased_task_is_what_was_submitted() -> None:
    """A worker gets type, payload, metadata, attempt and the whole trace context's traceparent."""
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serving() as service:
        tenant, worker = await service.workspace(), service.work(await service.operator("echo"))
        welcome = await worker.hello()
        assert welcome.lease_duration.ToSeconds() == 15
        request = tasks_pb2.SubmitTaskRequest(type="echo", metadata={"k": "v"})
        request.payload.update({"a": [1, "x"]})
        metadata = (*tenant.metadata, ("traceparent", traceparent))
        summary = await service.tasks.SubmitTask(request, metadata=metadata, timeout=PATIENCE)
        leased = await worker.task()
        await worker.end()
    assert (leased.lease.workspace_id, leased.lease.task_id) == (tenant.workspace_id, summary.task_id)
    assert (leased.type, leased.attempt, dict(leased.metadata)) == ("echo", 1, {"k": "v"})
    assert leased.payload == request.payload
    assert leased.traceparent == traceparent


async def test_a_failure_may_have_any_code() -> None:
    """One that is not as codes are by custom ends the attempt as any other does; an empty one is FAILED."""
    async with serving() as service:
        tenant = await service.workspace()
        worker = service.work(tenant)
        await worker.hello()
        for code, told in (("no-such file", "no-such file"), ("", "FAILED"), ("LEASE_EXPIRED", "LEASE_EXPIRED")):
            task_id = await service.submit(tenant)
            lease = (await worker.task()).lease
            assert not (await worker.fail(lease, code, retryable=False)).error_code
            assert (await service.get(tenant, task_id)).error == f"{told}: it broke"


async def test_stale_token_is_lease_lost_over_any_stream() -> None:
    """After its lease ran out, whatever the first holder reports is LEASE_LOST; the second's result stands."""
    clock = ManualClock()
    async with serving(now=clock) as service:
        service.app.leases._chance = lambda: 0.0
        tenant, operator = await service.workspace(), await service.operator("echo")
        slow, fresh = service.work(operator), service.work(operator)
        await slow.hello(name="slow")
        task_id = await service.submit(tenant)
        stale = (await slow.task()).lease
        await fresh.hello(name="fresh")
        clock.advance(15.1)
        lease = (await fresh.task()).lease
        for ack in (
            await slow.heartbeat(stale),
            await slow.complete(stale, {"by": "slow"}),
            await slow.fail(stale),
            await fresh.complete(stale, {"by": "slow"}),
        ):
            assert (ack.error_code, ack.lease) == ("LEASE_LOST", stale)
        assert not (await fresh.complete(lease, {"by": "fresh"})).error_code
        assert not (await fresh.complete(lease, {"by": "fresh"})).error_code
        assert (await fresh.complete(lease, {"by": "another"})).error_code == "LEASE_LOST"
        assert (await service.get(tenant, task_id)).result["by"] == "fresh"
        events = await service.events(tenant, task_id)
        assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
        await slow.end()
        await fresh.end()


async def test_lease_outlives_its_stream() -> None:
    """A task of a stream that was cut is reported over a new one; until then it counts against max_concurrency."""
    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        cut = service.work(operator)
        await cut.hello()
        first, second = await service.submit(tenant), await service.submit(tenant)
        leased = await cut.task()
        cut.call.cancel()
        await until(lambda: not service.app.workers._streams)
        worker = service.work(operator)
        await worker.hello(held=[leased.lease])
        await service.app.sweep.run_once()
        await service.app.dispatcher.settle()
        assert not (await worker.complete(leased.lease)).error_code
        assert (await worker.task()).lease.task_id == second
        assert (await service.get(tenant, first)).status == tasks_pb2.TASK_STATUS_SUCCEEDED
        await worker.end()


async def test_what_a_gone_worker_did_not_get_returns_at_once() -> None:
    """A task claimed for a stream that ended meanwhile goes to the next one at once, and is its first attempt."""
    store = DistantStore()
    async with serving(store) as service:
        service.app.leases._chance = lambda: 0.0
        tenant, operator = await service.workspace(), await service.operator("echo")
        task_id = await service.submit(tenant)
        store.calls.clear()
        gate = store.gates["update_tasks"] = asyncio.Event()
        gone = service.work(operator)
        await gone.hello()
        await until(lambda: store.calls["update_tasks"] > 0)
        gone.call.cancel()
        await until(lambda: not service.app.workers._streams)
        gate.set()
        worker = service.work(operator)
        await worker.hello()
        leased = await worker.task()
        assert (leased.lease.task_id, leased.attempt) == (task_id, 1), "what did not reach a worker was no attempt"
        await worker.complete(leased.lease)
        await worker.end()
        assert (await service.events(tenant, task_id))[2].context["code"] == "WORKER_GONE"


async def test_a_worker_whose_report_takes_the_server_long_was_not_silent() -> None:
    """It has reported the end of its task and has nothing more to say: another task comes when that is written."""
    store = DistantStore()
    async with serving(store) as service:
        tenant = await service.workspace()
        worker = service.work(tenant)
        await worker.hello()
        for _ in range(2):
            await service.submit(tenant, heartbeat_timeout=Duration(seconds=1))
        lease = (await worker.task()).lease
        (stream,) = service.app.workers._streams
        session = stream._session
        assert session
        assert session.heard_at
        greeted_at = session.heard_at
        store.gates["update_tasks"] = asyncio.Event()
        await worker.say(complete=workers_pb2.Complete(lease=lease))
        await until(lambda: (session.heard_at or 0) > greeted_at)
        await until(lambda: asyncio.get_running_loop().time() > (session.heard_at or 0) + 1)
        store.gates.pop("update_tasks").set()
        assert not (await worker.ack()).error_code
        assert not (await worker.complete((await worker.task()).lease)).error_code
        await worker.end()


async def test_drained_worker_gets_nothing_more_but_may_report() -> None:
    """After its drain a worker is given no task; its reports are still taken."""
    async with serving() as service:
        tenant, worker = await service.workspace(), service.work(await service.operator("echo"))
        await worker.hello(concurrency=2)
        await service.submit(tenant)
        leased = await worker.task()
        await worker.say(drain=workers_pb2.Drain())
        await until(lambda: not service.app.dispatcher.demands())
        waiting = await service.submit(tenant)
        assert not (await worker.complete(leased.lease)).error_code
        await worker.end()
        assert (await service.get(tenant, waiting)).status == tasks_pb2.TASK_STATUS_PENDING


async def test_reports_that_were_read_are_answered_before_the_stream_ends() -> None:
    """A worker that hangs up right after its reports gets an answer to each."""
    async with serving() as service:
        tenant, worker = await service.workspace(), service.work(await service.operator("echo"))
        await worker.hello(concurrency=50)
        for _ in range(50):
            await service.submit(tenant)
        leases = [(await worker.task()).lease for _ in range(50)]
        for lease in leases:
            await worker.say(complete=workers_pb2.Complete(lease=lease))
        await worker.call.done_writing()
        acks = [await worker.ack() for _ in range(50)]
        assert {ack.lease.task_id for ack in acks} == {lease.task_id for lease in leases}
        assert await worker.call.read() is grpc.aio.EOF


async def test_database_away_is_told_and_the_report_may_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that can't be written now is answered UNAVAILABLE; the lease stays, and the repetition counts."""

    async def away(_: object) -> Any:
        raise errors.Unavailable

    async with serving() as service:
        tenant, worker = await service.workspace(), service.work(await service.operator("echo"))
        await worker.hello()
        await service.submit(tenant)
        lease = (await worker.task()).lease
        flush = service.app.ledger._updates._flush
        monkeypatch.setattr(service.app.ledger._updates, "_flush", away)
        assert (await worker.complete(lease)).error_code == "UNAVAILABLE"
        monkeypatch.setattr(service.app.ledger._updates, "_flush", flush)
        assert not (await worker.complete(lease)).error_code
        await worker.end()


async def test_plan_limits_worker_streams() -> None:
    """A workspace has as many worker streams open as its plan allows; then TOO_MANY_STREAMS."""
    async with serving() as service:
        caller = await service.workspace("free")
        streams = [service.work(caller) for _ in range(10)]
        for stream in streams:
            await stream.hello()
        assert (await refused(service.work(caller).call)).code == "TOO_MANY_STREAMS"
        await streams[0].end()
        again = service.work(caller)
        await again.hello()
        for stream in (*streams[1:], again):
            stream.call.cancel()


async def test_two_servers_on_one_store_share_tasks_and_workers() -> None:
    """Tasks submitted to either server are run once each, by workers on either."""
    store = MemoryStore()
    async with serving(store) as one, serving(store) as two:
        tenant, operator = await one.workspace(), await one.operator("echo")
        streams = [one.work(operator), two.work(operator)]
        runs: list[str] = []

        async def work(stream: Any) -> None:
            await stream.hello(concurrency=4)
            while True:
                response = await stream.call.read()
                if response is grpc.aio.EOF:
                    return
                if response.HasField("task"):
                    runs.append(response.task.lease.task_id)
                    await stream.say(complete=workers_pb2.Complete(lease=response.task.lease))

        working = [asyncio.create_task(work(stream)) for stream in streams]
        ids = await asyncio.gather(*((one, two)[n % 2].submit(tenant) for n in range(60)))
        await asyncio.gather(*((one, two)[n % 2].events(tenant, task_id) for n, task_id in enumerate(ids)))
        for stream in streams:
            await stream.call.done_writing()
        await asyncio.gather(*working)
    assert sorted(runs) == sorted(ids)


async def test_an_attempt_tells_the_workers_version() -> None:
    """The event of a claim names the worker, and the version of its code if it has told one."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await service.submit(caller)
        worker = service.work(caller)
        await worker.say(hello=workers_pb2.Hello(**HELLO, worker_version="2.1"))
        await worker.next("welcome")
        await worker.complete((await worker.task()).lease)
        request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        events = [event async for event in service.tasks.StreamTaskEvents(request, metadata=caller.metadata)]
        await worker.end()
    assert dict(events[1].context) == {"attempt": 1, "worker": "worker-1", "worker_version": "2.1"}
