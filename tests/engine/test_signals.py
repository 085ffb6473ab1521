"""Signals: what one process changes, the others on its database hear of at once, and what a lost one costs."""

import asyncio
from datetime import timedelta

import pytest
from support import virtual
from support.engine import DistantStore, Engine, Worker, tenant
from support.neighbours import QUICKLY, Recorded, pair, several
from support.service import PATIENCE

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import HIGH, LOW, Queue, Status
from openmcp_chain.engine import backlog, demands, dispatch, looks, room, signals
from openmcp_chain.engine.events import POLL_SECONDS
from openmcp_chain.store.base import Signal
from openmcp_chain.store.memory import MemoryStore


async def test_a_subscriber_sees_the_other_process_events_at_once() -> None:
    """Each of them, in order, without waiting for the next poll."""
    here, there = await pair(MemoryStore())
    worker = there.worker()
    task = await there.submit()
    given = await worker.next()

    async with here.app.events.subscribe(task.key, 0, 10) as events:
        assert [event.seq for event in await events.next(PATIENCE)] == [1, 2]
        for number in (3, 4):
            await worker.heartbeat(given, line=str(number))
            async with asyncio.timeout(QUICKLY):
                assert [event.seq for event in await events.next(PATIENCE)] == [number]
        await worker.complete(given)
        async with asyncio.timeout(QUICKLY):
            assert (await events.next(PATIENCE))[-1].status is Status.SUCCEEDED
    assert QUICKLY < POLL_SECONDS


async def test_an_idle_worker_gets_the_other_process_task_at_once() -> None:
    """One that is new, one that is given back, one that is tried again: if nobody is idle where it is."""
    here, there = await pair(MemoryStore())
    worker = here.worker()
    await asyncio.sleep(2)
    submitted = await there.submit()
    async with asyncio.timeout(QUICKLY):
        task = await worker.next()
    assert task.key == submitted.key
    await there.app.leases.give_back(task)
    async with asyncio.timeout(QUICKLY):
        again = await worker.next()
    await worker.fail(again, retryable=False)
    await there.app.tasks.retry(tenant(), task.id)
    async with asyncio.timeout(QUICKLY):
        assert (await worker.next()).attempt == 2


async def test_a_busy_process_keeps_the_hint_and_takes_the_task_later() -> None:
    """A hint for which nobody is idle is no claim, but waits its turn: the worker that is free first gets the task."""
    store = Recorded()
    here, there = await pair(store)
    busy, other = here.worker(), there.worker()
    blockers = [await here.submit(), await there.submit()]
    held = [await busy.next(), await other.next()]
    assert {task.key for task in held} == {task.key for task in blockers}
    await asyncio.sleep(2)
    store.calls.clear()
    waiting = await there.submit()
    await asyncio.sleep(0.1)
    assert store.calls["update_tasks"] == 0
    assert len(here.app.dispatcher.backlogs["echo"]) == 1
    await busy.complete(held[0])
    assert (await busy.next()).key == waiting.key


@pytest.mark.parametrize("count", [1, 20, 700])
async def test_what_goes_first_goes_first_whichever_process_took_it(count: int) -> None:
    """Tasks of a better priority that another process has go before all that wait here, as soon as it has told.

    Of one priority, those first that are this process's to try for first.
    """
    here, there = await pair(MemoryStore())
    worker = here.worker()
    blocker = await here.submit()
    for _ in range(600):
        await here.submit(priority=LOW)
    urgent = [(await there.submit(priority=HIGH)).key for _ in range(count)]
    await asyncio.sleep(QUICKLY)
    given = [await worker.next()]
    for _ in urgent:
        await worker.complete(given[-1])
        given.append(await worker.next())
    assert {task.key for task in given} == {blocker.key, *urgent}
    turns = [here.app.signals.turn(task.key) for task in given[1:]]
    assert turns == sorted(turns) or count > room.ENOUGH  # of more, some come later from the database


async def test_an_older_task_of_another_process_has_its_turn() -> None:
    """Though there are always others here of its workspace and priority: when those that are left are newer."""
    here, there = await pair(MemoryStore())
    worker = here.worker()
    for _ in range(20):
        await here.submit()
    await asyncio.sleep(1)
    older = await there.submit()
    while (task := await worker.next()).key != older.key:
        await here.submit()
        await asyncio.sleep(0.1)
        await worker.complete(task)
    assert virtual.clock() - older.due_at <= timedelta(seconds=20 * 0.1) + 2 * backlog.LAG


async def test_processes_rarely_try_for_the_same_task() -> None:
    """Two that are busy with one tenant's flood, of one priority, take turns, and hear of what the other has taken."""
    store = Recorded()
    engines = await pair(store)
    workers = [engine.worker() for engine in engines]
    store.delay = 0.005
    tasks = []

    async def work(worker: Worker) -> None:
        while True:
            task = await worker.next()
            await asyncio.sleep(0.01)
            await worker.complete(task)

    working = [asyncio.create_task(work(worker)) for worker in workers]
    for number in range(400):
        tasks.append(await engines[number % 2].submit())
        await asyncio.sleep(0.0005)
    await engines[0].see_out(tasks)
    for one in working:
        one.cancel()
    assert store.lost_claims < 0.1 * len(tasks)


async def test_what_others_take_makes_room_for_what_is_left() -> None:
    """Where they have taken all that was in memory, there is a look for more: no worker is idle beside a backlog."""
    store = MemoryStore()
    here, there = await pair(store)
    for _ in range(4 * room.ENOUGH):
        await there.submit()
    slow = here.worker()
    await slow.next()
    waiting = here.app.dispatcher.backlogs["echo"]
    await asyncio.sleep(150)  # in which nothing happens, so that looks for news are rare
    assert len(waiting) >= 2 * room.ENOUGH - 1
    other = there.worker(room=100)
    for _ in range(3 * room.ENOUGH):
        await other.complete(await other.next())
    await asyncio.sleep(1)
    assert len(waiting) >= room.ENOUGH // 2


async def test_a_signal_that_comes_late_loses_nothing() -> None:
    """A task that another process has changed may wait again by the time that this is heard."""
    store = MemoryStore()
    here, there = await pair(store)
    worker = here.worker()
    await here.submit()
    held, waiting = await worker.next(), await here.submit()
    backlogs = here.app.dispatcher.backlogs
    assert len(backlogs["echo"]) == 1
    await store.publish(Signal(there.app.signals.process, [waiting.key], []))
    await asyncio.sleep(QUICKLY)
    assert len(backlogs["echo"]) == 0
    await worker.complete(held)
    async with asyncio.timeout(dispatch.DOUBT_SECONDS + QUICKLY):
        assert (await worker.next()).key == waiting.key


async def test_a_process_that_is_alone_says_nothing() -> None:
    """Nor does one whose neighbour has been silent for a while."""
    store = Recorded()
    alone = Engine(store).start()
    alone.worker("other")
    for _ in range(5):
        await alone.submit()
        await asyncio.sleep(1)
    assert not store.published
    neighbour = Engine(store).start()
    neighbour.worker("other")
    await asyncio.sleep(2)
    await alone.submit()
    await asyncio.sleep(QUICKLY)
    assert store.told == 1
    await neighbour.die()
    await asyncio.sleep(signals.ALIVE.total_seconds() + 2)
    await alone.submit()
    await asyncio.sleep(QUICKLY)
    assert store.told == 1
    assert len(store._watchers) <= 1


async def test_a_process_where_nobody_is_is_told_nothing() -> None:
    """Nor does it listen. A worker or a subscriber that comes is served at once all the same.

    Those there hear with the next beat that somebody has come, and tell of what they change from then on. A minute
    after the last has left, nothing is said any more.
    """
    store = Recorded()
    here, there = Engine(store).start(), Engine(store).start()
    await here.app.queues.ensure(Queue("ws-1", "echo"))
    await asyncio.sleep(2 * signals.BEAT_SECONDS)
    before = await there.submit()
    await asyncio.sleep(2 * signals.BEAT_SECONDS)
    assert not store.published
    assert not store._watchers
    worker = here.worker()
    async with asyncio.timeout(QUICKLY):
        given = await worker.next()
    assert given.key == before.key
    assert store.told == 0
    await asyncio.sleep(2 * signals.BEAT_SECONDS)
    assert len(store._watchers) == 1
    after = await there.submit()
    await worker.complete(given)
    async with asyncio.timeout(QUICKLY):
        given = await worker.next()
    assert given.key == after.key
    assert store.told > 0
    async with there.app.events.ending(after.key, 10) as end:
        await asyncio.sleep(QUICKLY)
        await worker.complete(given)
        async with asyncio.timeout(QUICKLY):
            assert (await end.task(PATIENCE)).status is Status.SUCCEEDED
    worker.leave()
    await asyncio.sleep(signals.LISTENS_SECONDS + demands.KEPT_SECONDS + 2 * signals.BEAT_SECONDS)
    told = store.told
    await there.submit()
    await here.submit()
    await asyncio.sleep(QUICKLY)
    assert store.told == told
    assert not store._watchers


async def test_what_is_submitted_before_others_have_heard_is_found_soon() -> None:
    """They learn by the next beats that somebody has come, if the word itself is lost; till then it is looked for."""
    store = DistantStore()
    here, there = Engine(store).start(), Engine(store).start()
    await here.app.queues.ensure(Queue("ws-1", "echo"))
    await asyncio.sleep(2 * signals.BEAT_SECONDS)
    store.cut = "publish"
    worker = here.worker()
    await asyncio.sleep(QUICKLY)
    store.cut = ""
    task = await there.submit()
    async with asyncio.timeout(2 * signals.BEAT_SECONDS + looks.MISSED_SECONDS + QUICKLY):
        assert (await worker.next()).key == task.key


async def test_a_worker_that_takes_no_more_is_told_what_it_is_to_stop() -> None:
    """Its process wants to be told for as long as a lease is held there."""
    here, there = Engine(store := MemoryStore()).start(), Engine(store).start()
    worker, task = here.worker(), await here.submit()
    given = await worker.next()
    here.app.dispatcher.leave(worker.session)
    for _ in range(30):
        await asyncio.sleep(5)
        await worker.heartbeat(given)
    await there.app.tasks.cancel(tenant(), task.id, "")
    async with asyncio.timeout(QUICKLY):
        assert (await worker.told_to_stop()).key == task.key


async def test_what_changes_while_a_signal_is_written_goes_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood costs a signal for a batch, each task once with its newest state, the oldest first."""
    monkeypatch.setattr(signals, "KEYS", 40)
    store = Recorded()
    here, _ = await pair(store)
    store.published.clear()
    store.gates["publish"] = asyncio.Event()
    tasks = [await here.submit() for _ in range(100)]
    await here.app.tasks.cancel(tenant(), tasks[50].id, "")
    store.gates.pop("publish").set()
    await asyncio.sleep(QUICKLY)
    told = [key for signal in store.published for key in signal.changed]
    assert told == [task.key for task in tasks]
    assert [len(signal.changed) for signal in store.published] == [1, 40, 40, 19]
    waiting = [hint.key for signal in store.published for hint in signal.waiting]
    assert waiting == [task.key for task in tasks if task is not tasks[50]]


async def test_busy_processes_say_no_more_together_however_many_they_are() -> None:
    """Each hears so many signals a second at most; all changes are in them, the first after a rest at once."""
    store = Recorded()
    engines = await several(store, 8)
    store.published.clear()
    first = await engines[0].submit()
    await asyncio.sleep(QUICKLY / 10)
    assert [signal.changed for signal in store.published] == [[first.key]]
    began, tasks = asyncio.get_running_loop().time(), [first]
    for _ in range(300):
        tasks += await asyncio.gather(*(engine.submit() for engine in engines))
        await asyncio.sleep(0.005)
    others = len(engines) - 1
    pause = others / signals.HEARD_A_SECOND
    await asyncio.sleep(2 * pause)
    seconds = asyncio.get_running_loop().time() - began
    assert len(tasks) > 2 * signals.HEARD_A_SECOND * seconds
    assert len(store.published) <= len(engines) * (seconds / pause + 2)
    assert {key for signal in store.published for key in signal.changed} == {task.key for task in tasks}


async def test_two_that_are_busy_say_less() -> None:
    """What has changed meanwhile is in the next one, and a single change after a rest is told at once."""
    store = Recorded()
    here, _ = await pair(store)
    for _ in range(2):
        store.published.clear()
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        tasks = [await here.submit()]
        await asyncio.sleep(QUICKLY / 10)
        assert len(store.published) == 1
        for _ in range(600):
            await asyncio.sleep(0.002)
            tasks.append(await here.submit())
        await asyncio.sleep(2 * signals.BUSY_SECONDS)
        seconds = asyncio.get_running_loop().time() - began
        assert len(store.published) <= seconds / signals.BUSY_SECONDS + 3
        assert {key for signal in store.published for key in signal.changed} == {task.key for task in tasks}


async def test_who_has_little_to_tell_tells_it_soon() -> None:
    """However long that goes on: one change after another, each in a signal of its own."""
    store = Recorded()
    here, _ = await pair(store)
    store.published.clear()
    for _ in range(50):
        await here.submit()
        await asyncio.sleep(1.5 / signals.HEARD_A_SECOND)
    assert [len(signal.changed) for signal in store.published] == [1] * 50


async def test_lost_signals_cost_time_and_nothing_else() -> None:
    """A database that takes no signals: the other process' workers find the tasks, its subscribers the events."""
    store = DistantStore()
    here, there = await pair(store)
    store.cut = "publish"
    worker = here.worker()
    task = await there.submit()

    async with there.app.events.ending(task.key, 10) as end:
        await worker.complete(await worker.next())
        async with asyncio.timeout(PATIENCE):
            assert (await end.task(PATIENCE)).status is Status.SUCCEEDED
    store.cut = ""
    await there.submit()
    async with asyncio.timeout(QUICKLY):
        await worker.next()


async def test_listening_begins_again_when_it_was_cut(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever ended it, soon after: an outage, or a fault in what hears."""
    store = MemoryStore()
    here, there = await pair(store)
    heard = here.app.signals.heard
    worker = here.worker()

    for number, fault in enumerate((errors.Unavailable, ValueError)):

        def fail(_: Signal, fault: type[Exception] = fault) -> None:
            raise fault

        here.app.signals.heard = fail
        task = await there.submit()
        await worker.complete(await worker.next())  # by a look
        here.app.signals.heard = heard
        await asyncio.sleep(2 * signals.BEAT_SECONDS)
        task = await there.submit()
        async with asyncio.timeout(QUICKLY):
            given = await worker.next()
        assert given.key == task.key
        await worker.complete(given)
        assert len(caplog.records) == number + 1
