"""A task may have megabytes of events: they are read where they are followed or added to, and few are in memory."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import timedelta
from typing import Any

import pytest
from support import virtual
from support.engine import DistantStore, Engine, tenant
from support.samples import at, make_lease, make_task

from openmcp_chain.domain import transitions
from openmcp_chain.domain.task import Failure, Key, Queue, Status, Task, View, seen
from openmcp_chain.engine import reads
from openmcp_chain.store.base import LARGE_BYTES
from openmcp_chain.store.memory import MemoryStore

ROOM = 4
"""In hand, of such tasks, there is room for so many."""
MANY = 3 * ROOM
LINES = LARGE_BYTES // 1000 + 1
EVENTS = LINES + 3
"""Of a task with a long history."""


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for so many in hand: each has some 20 KB."""
    monkeypatch.setattr(reads, "HELD_BYTES", (ROOM + 1) * LINES * 1000)


def long(status: Status) -> Task:
    """A task that has failed, and has ended or waits for its next attempt."""
    now = virtual.clock()
    task = transitions.claim(make_task(task_type="echo", now=now), make_lease("token"), now)
    for number in range(LINES):
        task = transitions.note(task, "token", now, line=f"{number}" + 1000 * "x")
    retryable = status is Status.PENDING
    return transitions.fail(task, "token", Failure("BROKEN", ""), at(now), retryable=retryable, delay=timedelta(0))


async def stored(engine: Engine, status: Status) -> list[Key]:
    """Many such tasks, in the database."""
    tasks = [long(status) for _ in range(MANY)]
    assert {(task.status, len(task.events)) for task in tasks} == {(status, EVENTS)}
    await engine.store.insert_tasks(tasks)
    return [task.key for task in tasks]


def in_hand(engine: Engine) -> int:
    """Of how many tasks there is a long history in memory besides the one that is stored."""
    gc.collect()
    stored = engine.store._tasks
    # By its type: others' weak proxies would be asked for a class that they have no more.
    tasks = [one for one in gc.get_objects() if type(one) is Task and len(one.events) >= EVENTS]
    return len({task.key for task in tasks if task.key in stored and task is not stored[task.key]})


async def few_at_any_time(engine: Engine, gate: asyncio.Event, done: asyncio.Future[Any]) -> None:
    """Lets one batch through the gate after the other, until it is done."""
    while not done.done():
        await asyncio.sleep(1)
        assert in_hand(engine) <= ROOM
        gate.set()
        await asyncio.sleep(0)
        gate.clear()


class Watched(MemoryStore):
    """Knows whose events were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Key] = []

    async def get_tasks(self, keys: Collection[Key], view: View = View.WHOLE) -> Mapping[Key, Task]:
        found = await super().get_tasks(keys, view)
        self.read += [task.key for task in found.values() if task.events]
        return found


@pytest.mark.parametrize("view", [View.BASIC, View.RESULT, View.FULL])
async def test_no_answer_reads_events(view: View) -> None:
    """They are in none: neither of one task, nor of many, nor of a list, nor of a wait for the end."""
    store = Watched()
    engine = Engine(store)
    keys, tasks = await stored(engine, Status.FAILED), engine.app.tasks
    task, ids = engine.task(keys[0]), [key.id for key in keys]
    assert await tasks.get(tenant(), task.id, view) == seen(task, view)
    assert len(await tasks.get_many(tenant(), ids, view)) == MANY
    assert len((await tasks.list(tenant(), "", MANY, "", view)).tasks) == MANY
    async with engine.app.events.ending(task.key, 1) as ending:
        assert await ending.task(0) == seen(task, View.RESULT)
    assert not store.read


Change = Callable[[Engine, Key], Awaitable[object]]


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (Status.FAILED, lambda engine, key: engine.app.tasks.retry(tenant(), key.id)),
        (Status.PENDING, lambda engine, key: engine.app.tasks.cancel(tenant(), key.id, "")),
    ],
)
async def test_of_one_workspace_few_histories_are_in_hand(status: Status, change: Change) -> None:
    """However many of its tasks are changed at once, or one by one while the database is slow; and all are changed."""
    store = DistantStore()
    engine = Engine(store)
    keys = await stored(engine, status)
    gate = store.gates["update_tasks"] = asyncio.Event()
    changing = []
    for number, key in enumerate(keys):
        changing.append(asyncio.ensure_future(change(engine, key)))
        if number < MANY / 2:
            await asyncio.sleep(1)
    await asyncio.sleep(1)
    assert 0 < in_hand(engine) <= ROOM
    gate.set()
    await asyncio.gather(*changing)
    assert [len(engine.task(key).events) for key in keys] == [EVENTS + 1] * MANY


async def test_a_call_that_tries_many_again_keeps_no_history_of_what_it_has_tried() -> None:
    """While it goes on with the others, which may take long."""
    store = DistantStore()
    engine = Engine(store)
    await stored(engine, Status.FAILED)
    gate = store.gates["update_tasks"] = asyncio.Event()
    call = asyncio.ensure_future(engine.app.tasks.retry_many(tenant(), "", MANY))
    await few_at_any_time(engine, gate, call)
    assert len(call.result().task_ids) == MANY


async def test_what_a_worker_is_handed_has_no_events() -> None:
    """It may not read for hours; what waits for it is counted without. Given back, a task has its history again."""
    engine = Engine(DistantStore()).start()
    await engine.app.queues.ensure(Queue("ws-1", "echo"))
    await stored(engine, Status.PENDING)
    worker = engine.worker(room=MANY, workspace="ws-1")
    given = [await worker.next() for _ in range(MANY)]
    assert [seen(engine.task(task.key), View.FULL) for task in given] == given
    assert in_hand(engine) == 0
    worker.leave()
    await engine.app.leases.give_back(given[0])
    history = engine.task(given[0].key).events
    assert [event.seq for event in history] == list(range(1, EVENTS + 3))
    assert history[-1].context["code"] == "WORKER_GONE"


async def test_few_are_claimed_at_once_with_their_histories() -> None:
    """A worker that takes all there is: no more than a few are in hand while that is written."""
    store = DistantStore()
    engine = Engine(store).start()
    await engine.app.queues.ensure(Queue("ws-1", "echo"))
    await stored(engine, Status.PENDING)
    gate = store.gates["update_tasks"] = asyncio.Event()
    worker = engine.worker(room=MANY, workspace="ws-1")
    await asyncio.sleep(10)
    assert 0 < in_hand(engine) <= ROOM
    gate.set()
    assert len({(await worker.next()).key for _ in range(MANY)}) == MANY


async def test_reports_on_many_at_once_keep_few_histories() -> None:
    """From a worker that has come back to a process that knows nothing of its leases."""
    store = DistantStore()
    there, here = Engine(store).start(), Engine(store)
    await there.app.queues.ensure(Queue("ws-1", "echo"))
    await stored(there, Status.PENDING)
    worker = there.worker(room=MANY, workspace="ws-1")
    given = [await worker.next() for _ in range(MANY)]
    gate = store.gates["update_tasks"] = asyncio.Event()
    back = here.worker("other", workspace="ws-1")
    lines = [back.heartbeat(task, line=line) for line in ("a line", "another") for task in given]
    await few_at_any_time(there, gate, asyncio.gather(*lines))
    assert {len(task.events) for task in store._tasks.values()} == {EVENTS + 3}
