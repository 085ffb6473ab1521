"""The database dies, freezes, loses replies and refuses: what callers see, and what is there afterwards."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace

import pytest
from support.database import Database, running_database
from support.proxy import running_proxy
from support.samples import KEY, NOW, WORKSPACE, at, make_lease, make_task

from openmcp_chain.domain import errors, filters, queue, transitions
from openmcp_chain.domain.task import Call, Change, DedupeKey, Key, Task
from openmcp_chain.domain.workspace import State
from openmcp_chain.store.base import Answer, Signal, Taking
from openmcp_chain.store.mongo import client
from openmcp_chain.store.mongo.client import Driver
from openmcp_chain.store.mongo.errors import persist
from openmcp_chain.store.mongo.store import PATIENCE, MongoStore, connect

LONGEST = 2 * PATIENCE + 5
"""Seconds after which a call that should have given up counts as hanging."""


@pytest.fixture
def own() -> Iterator[Database]:
    """A database that the test may stop."""
    with running_database() as database:
        yield database


@pytest.fixture
async def store(own: Database, driver: Driver) -> AsyncIterator[MongoStore]:
    """One that gives up soon."""
    store = await connect(own.uri, "test", driver, patience=1.0)
    yield store
    await store.close()


@pytest.fixture
async def patient(own: Database, driver: Driver) -> AsyncIterator[MongoStore]:
    """One that waits for a restart, however slow the machine."""
    store = await connect(own.uri, "test", driver, patience=20.0)
    yield store
    await store.close()


async def assert_unavailable(call: Awaitable[object]) -> None:
    """It says so in time, and carries nothing of the driver's with it."""
    with pytest.raises(errors.Unavailable) as raised:
        async with asyncio.timeout(LONGEST):
            await call
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


async def test_without_a_database_every_call_says_unavailable(own: Database, store: MongoStore) -> None:
    """And once it is back, on the same folder, the same store works again, with all that was acknowledged."""
    task = make_task()
    await store.insert_tasks([task])
    running = transitions.claim(task, make_lease(), NOW)
    await store.update_tasks([Change(task, running)])
    await store.put_workspace(WORKSPACE)
    await store.add_key(KEY)
    own.kill()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.insert_tasks([make_task()]),
        lambda: store.update_tasks([Change(task, running)]),
        lambda: store.get_tasks([task.key]),
        lambda: store.ready_tasks(task.queue, task.priority, NOW, NOW, 10),
        lambda: store.expired_leases(NOW, 10),
        lambda: store.late_tasks(NOW, 10),
        lambda: store.delete_ended(NOW, 10),
        lambda: store.erase_tasks("ws-1", 10),
        lambda: store.list_tasks("ws-1", filters.EVERYTHING, None, 10),
        lambda: store.count_tasks("ws-1", filters.EVERYTHING),
        lambda: store.put_queue(queue.new(task.queue, NOW)),
        lambda: store.list_queues(None),
        lambda: store.ended_with_key(NOW, 10),
        lambda: store.delete_superseded([task.key]),
        lambda: store.key_holders([DedupeKey("ws-1", "key")]),
        lambda: store.held_submit(DedupeKey("ws-1", "key")),
        lambda: store.put_holders([Taking(make_task(dedupe_key="key"), "")]),
        lambda: store.free_key(DedupeKey("ws-1", "key"), "id"),
        lambda: store.record_call("ws-1", "request", Answer(b"", ()), NOW),
        lambda: store.recorded_calls([Call("ws-1", "request")]),
        lambda: store.get_workspace(WORKSPACE.id),
        lambda: store.list_workspaces("", 10),
        lambda: store.workspaces_in(State.DELETING),
        lambda: store.put_workspace(replace(WORKSPACE, version=2)),
        lambda: store.delete_workspace(WORKSPACE),
        store.list_keys,
        lambda: store.add_key(replace(KEY, kid="kid-2")),
        lambda: store.beat("one", NOW, listens=True),
        lambda: store.processes(NOW),
        lambda: store.publish(Signal("one", [task.key], [])),
        lambda: anext(store.watch()),
        store.ping,
    ]
    await asyncio.gather(*(assert_unavailable(call()) for call in calls))
    own.start()
    await store.ping()
    assert await store.get_tasks([task.key]) == {task.key: running}
    assert await store.list_workspaces("", 10) == [WORKSPACE]
    assert await store.list_keys() == [KEY]


async def test_a_restart_within_the_patience_is_waited_out(own: Database, patient: MongoStore) -> None:
    """A database that is away for the moment of a restart costs its callers time, not an error."""
    task = make_task()
    own.kill()
    async with asyncio.TaskGroup() as calls:
        insert = calls.create_task(patient.insert_tasks([task]))
        await asyncio.to_thread(own.start)
    assert insert.result() == [task]
    assert await patient.get_tasks([task.key]) == {task.key: task}


async def test_a_database_that_no_longer_answers_is_unavailable(own: Database, store: MongoStore) -> None:
    """Its connections are open and the driver's last word on it was good: `ping` and calls still notice, in time.

    What was cut off is settled by making the same call again.
    """
    task = make_task()
    with own.frozen():
        await asyncio.gather(assert_unavailable(store.ping()), assert_unavailable(store.insert_tasks([task])))
    await store.ping()
    assert await store.insert_tasks([task]) == [task]
    assert await store.get_tasks([task.key]) == {task.key: task}


async def test_closing_holds_nobody_up(own: Database, driver: Driver) -> None:
    """A store takes leave of its database: one that does not answer holds up who closes it, and nothing else."""
    store = await connect(own.uri, "test", driver)
    await store.ping()
    with own.frozen():
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        assert not closing.done()
    await closing


async def test_a_database_without_a_writable_primary_is_unavailable(own: Database, store: MongoStore) -> None:
    """A member of a replica set that answers, but has stepped down, takes no writes."""
    await store._connection.client.admin.command("replSetStepDown", 60, force=True)
    await assert_unavailable(store.ping())
    await assert_unavailable(store.insert_tasks([make_task()]))


@pytest.mark.parametrize("driver", ["pymongo"])
async def test_acknowledged_writes_survive_kill_9(own: Database, patient: MongoStore) -> None:
    """Killed in the middle of many writes, three times over: each task is at least as far as its writer was told.

    Writers go on through the kill by themselves, so every task ends where it should, with no step written twice.
    One driver stands for both: what survives is the database's doing, what is written again the store's, and how each
    driver tells of a restart and of a lost reply, the tests around this one ask of both.
    """
    acknowledged: dict[Key, Task] = {}
    progress = asyncio.Event()
    steps = 0

    async def live(task: Task) -> None:
        nonlocal steps
        token = str(uuid.uuid4())
        running = transitions.claim(task, make_lease(token), NOW)
        done = transitions.complete(running, token, b"result", at(NOW))
        assert await patient.insert_tasks([task]) == [task]
        acknowledged[task.key] = task
        for change in (Change(task, running), Change(running, done)):
            assert await patient.update_tasks([change]) == [True]
            acknowledged[task.key] = change.after
            steps += 1
            progress.set()

    killing = True

    async def writer() -> None:
        while killing:  # were they so many, all might be done before the last kill, which waits for more
            await live(make_task())

    async with asyncio.TaskGroup() as writers:
        for _ in range(8):
            writers.create_task(writer())
        for _ in range(3):
            goal = steps + 40
            while steps < goal:
                progress.clear()
                await progress.wait()
            own.kill()
            told = dict(acknowledged)
            await asyncio.to_thread(own.start)
            found = await patient.get_tasks(told)
            assert found.keys() == told.keys()
            assert all(found[key].version >= task.version for key, task in told.items())
        killing = False
    assert await patient.get_tasks(acknowledged) == acknowledged


async def test_a_lost_reply_is_no_lost_and_no_double_write(database: Database, driver: Driver) -> None:
    """The write happened, its reply did not come: the store tries again, finds its own write, and says so."""
    task, other = make_task(), make_task()
    running = transitions.claim(task, make_lease(), NOW)
    async with running_proxy(database.port) as proxy:
        uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        store = await connect(uri, f"test-{uuid.uuid4().hex}", driver)
        await store.insert_tasks([other])
        proxy.lose_reply_to(b"\x02insert\0")
        (added,) = await store.insert_tasks([task])
        assert added is task
        proxy.lose_reply_to(b"\x02update\0")
        assert await store.update_tasks([Change(task, running)]) == [True]
        proxy.lose_reply_to(b"\x02insert\0")
        assert await store.put_workspace(WORKSPACE)
        proxy.lose_reply_to(b"\x02update\0")
        assert await store.put_workspace(replace(WORKSPACE, version=2))
        proxy.lose_reply_to(b"\x02find\0")
        assert await store.get_tasks([task.key, other.key]) == {task.key: running, other.key: other}
        await store.close()
        assert proxy.lost == 5


async def test_a_cancelled_caller_leaves_the_store_usable(database: Database, mongo: MongoStore) -> None:
    """Its connection is gone, not the pool."""
    calls = [asyncio.ensure_future(mongo.insert_tasks([make_task() for _ in range(50)])) for _ in range(20)]
    await calls[0]  # by now the others are on their way too
    for call in calls:
        call.cancel()
    assert any(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True))
    task = make_task()
    async with asyncio.timeout(LONGEST):
        assert await mongo.insert_tasks([task]) == [task]


async def test_a_cancellation_that_the_driver_keeps_to_itself_is_heeded() -> None:
    """The caller is cancelled all the same; but one who tidies up after it was cancelled gets its answer."""
    begun = asyncio.Event()

    async def swallow() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done"
        raise AssertionError

    async def call() -> str:
        try:
            return await persist(swallow, 1.0)
        except asyncio.CancelledError:
            return "cancelled, then " + await persist(answer, 1.0)

    async def answer() -> str:
        return "answered"

    calling = asyncio.create_task(call())
    await begun.wait()
    calling.cancel()
    assert await calling == "cancelled, then answered"


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://user:S3CRET@",
        "mongodb://user:S3/CRET@127.0.0.1/",
        "http://user:S3CRET@127.0.0.1/",
        "mongodb://127.0.0.1:S3CRET",
        "",
    ],
)
async def test_a_uri_that_is_none_is_refused_without_being_shown(uri: str, driver: Driver) -> None:
    """The driver's own words may quote a part of the password."""
    with pytest.raises(ValueError, match="not a valid connection string") as raised:
        await connect(uri, "test", driver)
    assert "CRET" not in str(raised.value)
    assert raised.value.__context__ is None


async def test_a_password_stays_out_of_errors_and_logs(
    database: Database, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that refuses to let us in is unavailable, and the log says why in a class and a code."""
    caplog.set_level(logging.DEBUG, logger="openmcp_chain")
    uri = database.uri.replace("mongodb://", "mongodb://user:S3CRET@")
    await assert_unavailable(connect(uri, "test", driver))
    assert "the database failed: OperationFailure [18]" in caplog.text
    assert "S3CRET" not in caplog.text


async def test_retryable_writes_are_off_where_they_are_slow(database: Database, driver: Driver) -> None:
    """On the embedded server, unless the URI asks for them."""
    for uri, expected in (
        (database.uri, False),
        (f"{database.uri}/?retryWrites=true", True),
        (f"{database.uri}/?RETRYWRITES=false", False),
    ):
        connection = await client.connect(uri, "test", driver)
        assert connection.client.options.retry_writes is expected
        await connection.close()
