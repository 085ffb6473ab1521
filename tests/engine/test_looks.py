"""Looks in the database: what is in no memory is found, in order, by windows of time, and at a cost that is bounded."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from support import virtual
from support.engine import DistantStore, Engine, Worker, tenant
from support.samples import make_task

from openmcp_chain.domain import errors, queue
from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import HIGH, LOW, NORMAL, Key, Queue, Task
from openmcp_chain.engine import backlog, looks, room, signals, sweep
from openmcp_chain.engine.queues import SKEW
from openmcp_chain.store.base import TooMuch
from openmcp_chain.store.memory import MemoryStore


class Watched(MemoryStore):
    """Keeps an account of its looks."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[tuple[datetime, datetime, int]] = []
        """Those that found something: from when, until when, and how much."""

    async def ready_tasks(
        self, queue: Queue, priority: int, since: datetime, until: datetime, limit: int, within: float | None = None
    ) -> Sequence[Waiting]:
        found = await super().ready_tasks(queue, priority, since, until, limit, within)
        if found:
            self.looks.append((since, until, len(found)))
        return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has room for little, so that little is enough to fill it."""
    monkeypatch.setattr(room, "TASKS", 40)
    monkeypatch.setattr(room, "ENOUGH", 8)


async def store_tasks(store: MemoryStore, *tasks: Task) -> list[Key]:
    """As a process that is gone has left them."""
    await store.insert_tasks(tasks)
    for one in {task.queue for task in tasks}:
        first = min(task.submitted_at for task in tasks if task.queue == one)
        await store.put_queue(replace(queue.new(one, virtual.clock()), created_at=first))
    return [task.key for task in tasks]


def spread(count: int, *, over: float, priority: int = NORMAL, workspace: str = "ws-1") -> list[Task]:
    """So many tasks, submitted at equal distances over the last so many seconds."""
    now = virtual.clock()
    return [
        make_task(
            task_type="echo",
            workspace=workspace,
            priority=priority,
            now=now - timedelta(milliseconds=round(1000 * over * (count - number) / count)),
        )
        for number in range(count)
    ]


async def work_off(worker: Worker, count: int) -> list[Key]:
    """Completes so many tasks; in what order they came."""
    order = []
    for _ in range(count):
        task = await worker.next()
        order.append(task.key)
        await worker.complete(task)
    return order


@pytest.mark.usefixtures("small")
async def test_a_new_process_finds_everything_in_order() -> None:
    """However long it has waited, and however unevenly it came: the oldest first, each once."""
    store = Watched()
    waiting = [*spread(50, over=300_000), *spread(50, over=100), *spread(100, over=0.005)]
    keys = await store_tasks(store, *sorted(waiting, key=lambda task: task.due_at))
    engine = Engine(store).start()
    assert await work_off(engine.worker(), 200) == keys
    assert max(found for _, _, found in store.looks) <= 16


@pytest.mark.usefixtures("small")
async def test_priorities_are_looked_for_in_their_order() -> None:
    """All of 1 goes before all of 3 and of 5, though it came last and does not fit into memory."""
    store = MemoryStore()
    tasks = {priority: spread(60, over=10, priority=priority) for priority in (HIGH, NORMAL, LOW)}
    keys = [key for priority in (HIGH, NORMAL, LOW) for key in await store_tasks(store, *tasks[priority])]
    engine = Engine(store).start()
    assert await work_off(engine.worker(), 180) == keys


@pytest.mark.usefixtures("small")
async def test_a_flood_that_was_turned_away_is_found_again_in_order() -> None:
    """Of two tenants each, at a worker's pace; nothing is lost, and each tenant's tasks are in their order."""
    engine = Engine().start()
    worker = engine.worker()
    flood = []
    for number in range(300):
        await asyncio.sleep(0.001)
        flood.append((await engine.submit(tenant("a" if number % 3 else "b"))).key)
    assert len(engine.app.dispatcher.backlogs["echo"]) == 40
    order = await work_off(worker, 300)
    for workspace in "ab":
        assert [key for key in order if key.workspace == workspace] == [
            key for key in flood if key.workspace == workspace
        ]


@pytest.mark.usefixtures("small")
async def test_what_is_turned_away_while_its_queue_is_first_looked_at_is_found() -> None:
    """The look goes on from the first that had no room, not from where it had read to; and is not made in vain."""
    store = Watched()
    for tenant_number in range(12):
        await store_tasks(store, *spread(30, over=60, workspace=f"ws-{tenant_number}"))
    engine = Engine(store).start()
    worker = engine.worker()
    assert len(set(await work_off(worker, 360))) == 360
    assert sum(found for _, _, found in store.looks) < 4 * 360


@pytest.mark.usefixtures("small")
async def test_many_tasks_of_one_moment_are_all_found() -> None:
    """More than a look takes, due at the same millisecond, as a batch leaves them."""
    store = MemoryStore()
    keys = await store_tasks(store, *spread(100, over=0))
    engine = Engine(store).start()
    assert set(await work_off(engine.worker(), 100)) == set(keys)


@pytest.mark.usefixtures("small")
async def test_a_look_goes_on_by_windows() -> None:
    """After the first, each reads a span of time with about as much as fits; where there is little, a longer one."""
    store = Watched()
    dense, sparse = spread(200, over=1), spread(20, over=400_000)
    await store_tasks(store, *sparse, *dense)
    engine = Engine(store).start()
    await work_off(engine.worker(), 220)
    assert sum(found for _, _, found in store.looks) < 2 * 220
    assert len(store.looks) > 10
    assert max(until - since for since, until, _ in store.looks[1:]) < timedelta(days=3)


class Slow(Watched):
    """Cannot read more than a few tasks in the time that a look has."""

    async def ready_tasks(
        self, queue: Queue, priority: int, since: datetime, until: datetime, limit: int, within: float | None = None
    ) -> Sequence[Waiting]:
        found = await super().ready_tasks(queue, priority, since, until, 1000, within)
        if within is not None and len(found) > 10:
            raise TooMuch
        return found[:limit]


@pytest.mark.usefixtures("small")
async def test_a_crowd_behind_a_quiet_time_is_read_in_parts() -> None:
    """A span that grew long over a quiet time, and then holds more than can be read, is divided until it can be."""
    store = Slow()
    quiet, crowd = spread(2, over=1_000_000), spread(200, over=5)
    keys = await store_tasks(store, *quiet, *crowd)
    engine = Engine(store).start()
    assert await work_off(engine.worker(), 202) == keys


class Stubborn(Watched):
    """Reads all that a span holds though nobody waits any more, and answers no look until it has."""

    def __init__(self) -> None:
        super().__init__()
        self.busy_until = 0.0
        self.refused = 0

    async def ready_tasks(
        self, queue: Queue, priority: int, since: datetime, until: datetime, limit: int, within: float | None = None
    ) -> Sequence[Waiting]:
        now = asyncio.get_running_loop().time()
        found = await super().ready_tasks(queue, priority, since, until, 100_000)
        ready_at = self.busy_until = max(self.busy_until, now) + len(found) / 300
        if within is not None and ready_at - now > within:
            self.refused += 1
            await asyncio.sleep(within)
            raise TooMuch
        await asyncio.sleep(ready_at - now)
        return found[:limit]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("quiet", [0, 10_000], ids=lambda quiet: f"{quiet}s_quiet")
async def test_a_server_that_reads_to_the_end_is_not_asked_in_vain(quiet: float) -> None:
    """A crowd is too much once as a whole, and then only where a span grew long before it."""
    store = Stubborn()
    lone, crowd = spread(1, over=100 + quiet), spread(3_000, over=100)
    keys = await store_tasks(store, *lone, *crowd)
    engine = Engine(store).start()
    began = virtual.clock()
    assert await work_off(engine.worker(), 100) == keys[:100]
    assert store.refused <= 6
    assert virtual.clock() - began < timedelta(seconds=30)


class Sluggish(Watched):
    """Takes a second to answer, whatever it is asked."""

    async def ready_tasks(
        self, queue: Queue, priority: int, since: datetime, until: datetime, limit: int, within: float | None = None
    ) -> Sequence[Waiting]:
        found = await super().ready_tasks(queue, priority, since, until, limit, within)
        await asyncio.sleep(1 if within is None else min(within, 1))
        if within is not None and within < 1:
            raise TooMuch
        return found


@pytest.mark.usefixtures("small")
async def test_a_slow_server_is_waited_for() -> None:
    """Where all takes long, no span is too long: what was left over a day is found, and what comes then."""
    store = Sluggish()
    keys = await store_tasks(store, *spread(20, over=86_400), *spread(20, over=10))
    engine = Engine(store).start()
    worker = engine.worker()
    began = virtual.clock()
    assert await work_off(worker, 40) == keys
    assert virtual.clock() - began < timedelta(minutes=10)


async def test_a_queue_without_news_is_looked_at_now_and_then_and_only_at_what_is_new() -> None:
    """From SKEW before the last look on: for what a process left that died before it could tell."""
    store = Watched()
    keys = await store_tasks(store, *spread(5, over=1000))
    engine = Engine(store).start()
    worker = engine.worker()
    assert await work_off(worker, 5) == keys
    for quiet, within in ((3.0, looks.AGAIN_SECONDS), (300.0, looks.RARELY_SECONDS)):
        await asyncio.sleep(quiet)
        store.looks.clear()
        at = virtual.clock()
        (key,) = await store_tasks(store, make_task(task_type="echo", now=at))
        assert await work_off(worker, 1) == [key]
        assert virtual.clock() - at <= timedelta(seconds=within + sweep.INTERVAL_SECONDS)
        ((since, _, found),) = store.looks
        assert found == 1
        assert at - since < SKEW + timedelta(seconds=within + 1)


async def test_empty_queues_cost_next_to_nothing() -> None:
    """A worker that takes a type of many workspaces, in which nothing happens."""
    store = DistantStore()
    for number in range(200):
        await store.put_queue(queue.new(Queue(f"ws-{number}", "echo"), virtual.clock()))
    engine = Engine(store).start()
    engine.worker()
    await asyncio.sleep(300)
    store.calls.clear()
    await asyncio.sleep(600)
    assert store.calls["ready_tasks"] <= 5 * 200 * 600 / looks.RARELY_SECONDS


async def test_what_a_process_alone_knew_is_found_when_it_is_gone() -> None:
    """Soon, however long there was nothing: its silence is noticed."""
    store = DistantStore()
    here, gone = Engine(store).start(), Engine(store).start()
    await gone.submit()
    worker = here.worker()
    await work_off(worker, 1)
    await asyncio.sleep(300)
    store.cut = "publish"
    at, task = virtual.clock(), await gone.submit()
    await gone.die()
    store.cut = ""
    assert await work_off(worker, 1) == [task.key]
    assert virtual.clock() - at <= signals.ALIVE + timedelta(seconds=looks.AGAIN_SECONDS)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("priority", "within"),
    [(HIGH, looks.RARELY_SECONDS), (NORMAL, 30 + 2 * backlog.LAG.total_seconds())],
    ids=["better", "older"],
)
async def test_what_only_the_database_knows_is_found_however_many_others_wait(priority: int, within: float) -> None:
    """Of a better priority at the next look, or in its turn: memory, which is never short of others, hides neither."""
    store = MemoryStore()
    engine = Engine(store).start()
    worker = engine.worker()
    for _ in range(30):
        await engine.submit()
    await asyncio.sleep(1)
    unknown = make_task(task_type="echo", now=virtual.clock(), priority=priority)
    await store_tasks(store, unknown)
    while (task := await worker.next()).key != unknown.key:
        await engine.submit()
        await asyncio.sleep(1)
        await worker.complete(task)
    assert virtual.clock() - unknown.due_at <= timedelta(seconds=within + sweep.INTERVAL_SECONDS)


@pytest.mark.usefixtures("small")
async def test_what_comes_due_is_given_out_in_time_however_many_others_wait() -> None:
    """Scheduled tasks of a process that is gone, among a crowd that is always there: at once, by their priority."""
    store = MemoryStore()
    begin = virtual.clock()
    due = [begin + timedelta(seconds=seconds) for seconds in (50, 55, 200, 400)]
    scheduled = await store_tasks(
        store, *(make_task(task_type="echo", now=begin, schedule_time=at, priority=HIGH) for at in due)
    )
    engine = Engine(store).start()
    worker = engine.worker()
    for _ in range(30):
        await engine.submit()
    started = dict[Key, datetime]()
    while len(started) < len(scheduled):
        task = await worker.next()
        if task.key in scheduled:
            started[task.key] = virtual.clock()
        await engine.submit()
        await asyncio.sleep(0.5)
        await worker.complete(task)
    assert all(started[key] - at <= timedelta(seconds=1) for key, at in zip(scheduled, due, strict=True))


async def test_a_look_that_failed_is_made_again() -> None:
    """Whatever was the matter, and however long: nothing counts as seen that was not."""
    store = DistantStore()
    engine = Engine(store).start()
    for age in (1000, 1):
        keys = await store_tasks(store, *spread(3, over=age, priority=HIGH))
        store.cut = "ready_tasks"
        worker = engine.worker(room=1)
        await asyncio.sleep(100)
        store.cut = ""
        assert await work_off(worker, 3) == keys
        worker.leave()


async def test_queues_that_nobody_here_takes_are_not_looked_at() -> None:
    """Of other types, and of other workspaces than a tenant's worker takes."""
    store = DistantStore()
    await store_tasks(store, make_task(task_type="other"), make_task(task_type="echo", workspace="ws-2"))
    engine = Engine(store).start()
    engine.worker(workspace="ws-1")
    await asyncio.sleep(60)
    assert store.calls["ready_tasks"] == 0
    assert engine.app.dispatcher.backlogs.keys() == {"echo"}


async def test_many_queues_take_turns_with_the_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one sweep looks at: each is looked at, and each one's task is found."""
    monkeypatch.setattr(sweep, "QUEUES", 5)
    store = MemoryStore()
    for number in range(50):
        await store_tasks(store, *spread(1, over=60, workspace=f"ws-{number}"))
    engine = Engine(store).start()
    order = await work_off(engine.worker(), 50)
    assert len(set(order)) == 50


@pytest.mark.usefixtures("small")
async def test_nothing_is_overlooked(seed: int) -> None:
    """Two processes with little memory and slow answers; failures, cancels, retries: all is given out in the end."""
    chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
    store = DistantStore(chance)
    store.delay = 0.02
    engines = [Engine(store).start(), Engine(store).start()]
    done = Counter[Key]()

    async def work(engine: Engine) -> None:
        worker = engine.worker(room=3)
        while True:
            task = await worker.inbox.get()
            await asyncio.sleep(chance.random() / 10)
            if chance.random() < 0.2 and task.attempt < 5:
                await worker.fail(task)
            else:
                await worker.complete(task)
                done[task.key] += 1

    async def submit() -> Task:
        await asyncio.sleep(chance.random() * 2)
        engine, principal = chance.choice(engines), tenant(chance.choice("abc"))
        task = await engine.submit(principal, priority=chance.randrange(1, 6))
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random())
            try:
                await engine.app.tasks.cancel(principal, task.id, "")
                await engine.app.tasks.retry(principal, task.id)
            except errors.TaskEnded:
                pass  # it was quicker
            except errors.TaskNotRetryable:
                pass  # it is to stop, and may succeed yet
        return task

    working = [asyncio.create_task(work(engine)) for engine in engines]
    tasks = await asyncio.gather(*(submit() for _ in range(200)))
    ended = await engines[0].see_out(tasks)
    await asyncio.sleep(1)  # their workers have heard it too
    for one in working:
        one.cancel()
    assert all(done[task.key] == 1 for task in ended if task.failure is None)
    assert sum(task.failure is None for task in ended) >= 160


async def test_more_tasks_than_memory_has_room_for_are_worked_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one process, from a database that had them all when it came, each once."""
    monkeypatch.setattr(room, "TASKS", 700)
    store = MemoryStore()
    keys = await store_tasks(store, *spread(2_100, over=3600))
    engine = Engine(store).start()
    worker = engine.worker(room=100)
    seen = set[Key]()
    while len(seen) < len(keys):
        batch = [await worker.next(), *(worker.inbox.get_nowait() for _ in range(worker.inbox.qsize()))]
        seen |= {task.key for task in batch}
        await asyncio.gather(*(worker.complete(task) for task in batch))
    assert seen == set(keys)
    assert {len(task.events) for task in store._tasks.values()} == {3}
