"""Whoever's token is taken back in the middle of a call gets nothing more of it, by any method, whatever it waits for.

How soon, `tests/engine/test_bearers.py` says; here the looks follow each other at once.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from support.engine import DistantStore
from support.http2 import Http2, by_grpc
from support.methods import caller_of
from support.service import PATIENCE, Caller, Service, as_struct, refused, serving, until
from support.waiting import FOLLOWING, SIGNED, WAITING, WORK, request

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.domain.task import Key
from openmcp_chain.domain.transitions import NOTES
from openmcp_chain.engine import bearers, identity, volume
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.transport.tasks import PART_BYTES

EVENTS = "/openmcp.chain.v1.TaskService/StreamTaskEvents"
SERVED_EVENTS = "/openmcp.chain.v1.RestService/ServeTaskEvents"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bearers, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(bearers, "YOUNG_SECONDS", 0.0)
    monkeypatch.setattr(identity, "RECALL_SECONDS", 0.0)


async def take_back(service: Service, caller: Caller) -> None:
    """Ends the secret that the caller's token was got with, whatever else the store can do."""
    store: Any = service.app._store
    known = await MemoryStore.get_workspace(store, caller.workspace_id)
    assert known
    await MemoryStore.put_workspace(store, replace(known, secrets=(), version=known.version + 1))


def call(service: Service, path: str, caller: Caller, *messages: Any) -> Any:
    """Begins a call that says so much, and then neither more nor that this is all."""

    async def said() -> AsyncIterator[bytes]:
        for message in messages:
            yield message.SerializeToString()
        await asyncio.Event().wait()

    return service.raw.stream_stream(path)(said(), metadata=caller.metadata, timeout=PATIENCE)


async def let_in(service: Service) -> None:
    """Returns when a caller's token was found good, and its call is there."""
    await until(lambda: len(service.app.bearers._present) == 1)


async def in_place(service: Service, caller: Caller) -> None:
    """Returns when a caller has its place among those of its workspace that wait."""
    await until(lambda: service.app.streams._open[caller.workspace_id] == 1)


@pytest.mark.parametrize("path", SIGNED)
async def test_before_its_message(path: str) -> None:
    """Over every method: whoever holds back the message was let in by the token, and is out with it."""
    async with serving() as service:
        caller = await caller_of(service, path)
        held = call(service, path, caller)
        await let_in(service)
        await take_back(service, caller)
        assert (await refused(held)).code == "TOKEN_INVALID"
        assert not service.app.bearers._present


@pytest.mark.parametrize("path", [path for path in SIGNED if path != WORK])
async def test_in_the_middle_of_its_work(path: str) -> None:
    """Over every method: while the database leaves it without an answer, and what it asked is not done after that."""
    gate, store = asyncio.Event(), DistantStore()
    async with serving(store) as service:
        caller = await caller_of(service, path)
        store.calls.clear()
        for name in vars(MemoryStore):
            if name not in ("get_workspaces", "list_keys", "ping"):
                store.gates[name] = gate
        working = call(service, path, caller, request(path))
        await let_in(service)
        await until(lambda: bool(store.calls.keys() - {"get_workspaces", "list_keys", "ping"}))
        await take_back(service, caller)
        assert (await refused(working)).code == "TOKEN_INVALID"
        gate.set()
    assert len(store._data._workspaces) == 1
    assert not store._tasks


@pytest.mark.parametrize("path", WAITING)
async def test_while_it_waits(path: str) -> None:
    """Over every method that waits: though nothing happens."""
    async with serving() as service:
        caller = await service.workspace()
        waiting = call(service, path, caller, request(path, await service.submit(caller, "other")))
        await in_place(service, caller)
        await take_back(service, caller)
        assert (await refused(waiting)).code == "TOKEN_INVALID"
        await until(lambda: not service.app.streams._open)
        assert not service.app.dispatcher.demands()


@pytest.mark.parametrize("path", FOLLOWING)
async def test_while_something_happens_all_the_time(path: str) -> None:
    """Over every method that waits for a task: though there is something to tell at any time."""
    async with serving() as service:
        caller, operator = await service.workspace(), await service.operator("echo")
        worker = service.work(operator)
        await worker.hello()
        message = request(path, await service.submit(caller))
        lease = (await worker.task()).lease

        async def chatter() -> None:
            while True:
                await worker.say(log=workers_pb2.Log(lease=lease, message="on and on"))
                await worker.ack()

        chatting = asyncio.create_task(chatter())
        waiting = call(service, path, caller, message)
        await in_place(service, caller)
        await take_back(service, caller)
        assert (await refused(waiting)).code == "TOKEN_INVALID"
        await until(lambda: not service.app.streams._open[caller.workspace_id])
        assert not chatting.done()
        chatting.cancel()
        await asyncio.wait([chatting])


async def test_an_event_stream_that_nobody_reads() -> None:
    """The server is writing, and can't go on: the stream's place is free all the same, and the reader hears why."""
    async with serving() as service:
        caller, operator = await service.workspace(), await service.operator("echo")
        worker = service.work(operator)
        await worker.hello()
        message = request(EVENTS, await service.submit(caller))
        lease = (await worker.task()).lease
        for _ in range(NOTES):
            await worker.say(log=workers_pb2.Log(lease=lease, message="x" * 1000))
            await worker.ack()
        unread = call(service, EVENTS, caller, message)
        await in_place(service, caller)
        await take_back(service, caller)
        await until(lambda: not service.app.streams._open[caller.workspace_id])
        assert (await refused(unread)).code == "TOKEN_INVALID"


async def test_a_workers_stream_that_nobody_reads() -> None:
    """What did not get to the worker goes to another: the stream takes no tasks any more, and holds none back."""
    async with serving() as service:
        caller, operator = await service.workspace(), await service.operator("echo")
        for _ in range(20):
            await service.submit(caller, payload=as_struct({"much": "x" * 1_000_000}))
        unread = call(service, WORK, operator, request(WORK))
        await in_place(service, operator)
        await until(lambda: len(service.app.leases._held) > 0)
        await take_back(service, operator)
        await until(lambda: not service.app.workers._streams)
        assert (await refused(unread)).code == "TOKEN_INVALID"
        await until(lambda: not service.app.streams._open)
        other = service.work(await service.operator("echo"))
        await other.hello(concurrency=20)
        for _ in range(10):
            await other.task()


async def test_what_a_worker_leaves_unread_is_counted_until_its_call_has_ended() -> None:
    """With its place. Its stream has ended here, but gRPC keeps what is being written, and the status behind it."""
    async with serving() as service:
        tenant, unread = await service.workspace(), service.app.large.unread
        await service.submit(tenant, payload=as_struct({"much": "x" * 1_000_000}))
        async with Http2("127.0.0.1", service.port, window=1000) as deaf:
            stream = deaf.begin(*by_grpc(WORK, tenant.metadata, request(WORK)))
            await until(lambda: len(service.app.workers._streams) == 1)
            (worker,) = service.app.workers._streams
            await until(lambda: worker.unread > 1_000_000)
            await take_back(service, tenant)
            await until(lambda: not service.app.workers._streams)
            assert 1_000_000 < unread.total < 1_100_000
            assert service.app.streams._open.total() == 1
            deaf.reset(stream)
            await until(lambda: not unread.total)
            await until(lambda: not service.app.streams._open)


@pytest.mark.parametrize("path", [EVENTS, SERVED_EVENTS])
async def test_what_is_unread_of_an_event_stream_is_counted(path: str) -> None:
    """While the stream goes on, and then what gRPC keeps; where there is no room, a stream begins all the same."""
    store = MemoryStore()
    async with serving(store) as service:
        tenant, unread = await service.workspace(), service.app.large.unread
        key = Key(tenant.workspace_id, await service.submit(tenant, "other"))
        step = store._tasks[key].events[0]
        steps = [replace(step, seq=seq, context={"message": "x" * 2000}) for seq in range(1, 1001)]
        store._tasks[key] = replace(store._tasks[key], events=tuple(steps), version=2)
        service.app.events.forget(key.workspace)
        async with Http2("127.0.0.1", service.port, window=1000) as deaf:
            stream = deaf.begin(*by_grpc(path, tenant.metadata, request(path, key.id)))
            await until(lambda: unread.total > 0)
            assert 200_000 < unread.total < 300_000
            others = volume.WORKSPACE_BYTES - unread.total
            unread.enter(key.workspace, others)
            follower = call(service, path, tenant, request(path, key.id))
            async with asyncio.timeout(PATIENCE):
                assert await follower.read()  # at an end, it would be EOF, which is false
            follower.cancel()
            unread.leave(key.workspace, others)
            await take_back(service, tenant)
            await until(lambda: not service.app.events.open)
            assert unread.total == PART_BYTES
            deaf.reset(stream)
            await until(lambda: not unread.total)
