"""Event subscriptions: order, no gap, resuming at every place, other processes' changes, limits and ends."""

import asyncio
import gc
import random
from contextlib import AsyncExitStack

import pytest
from support.engine import DistantStore, Engine, tenant
from support.service import PATIENCE, until

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Event, Key, Task
from openmcp_chain.engine.events import LONGEST_POLL_SECONDS, POLL_SECONDS, Ending, Subscription
from openmcp_chain.engine.signals import ALIVE, BEAT_SECONDS
from openmcp_chain.store.memory import MemoryStore


def subscribe(engine: Engine, key: Key, after: int = 0, limit: int = 100) -> Subscription:
    return engine.app.events.subscribe(key, after, limit)


def ending(engine: Engine, key: Key) -> Ending:
    return engine.app.events.ending(key, 100)


async def follow(engine: Engine, key: Key, after: int = 0) -> list[Event]:
    """All events up to the terminal one, which it waits for."""
    seen: list[Event] = []
    async with subscribe(engine, key, after) as events, asyncio.timeout(PATIENCE):
        while not events.ended:
            seen += await events.next(PATIENCE)
    return seen


async def finished(engine: Engine) -> Key:
    """A task with nine events."""
    engine.app.leases._chance = lambda: 0.0
    worker = engine.worker()
    await engine.submit()
    for _ in range(3):
        await worker.fail(await worker.next())
    task = await worker.next()
    await worker.complete(task)
    return task.key


async def test_follows_in_order_and_ends_with_the_task() -> None:
    """A subscriber of a living task gets 1, 2, 3, … as they happen, and its subscription ends by itself."""
    engine = Engine()
    task = await engine.submit()
    following = asyncio.create_task(follow(engine, task.key))
    await until(lambda: engine.app.events.open == 1)
    engine.app.leases._chance = lambda: 0.0
    worker = engine.worker()
    await engine.app.sweep.run_once()
    await worker.fail(await worker.next())
    await worker.complete(await worker.next())
    events = await following
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]
    assert engine.app.events.open == 0


async def test_resumes_after_every_event_without_gap_or_repetition() -> None:
    """Whatever event a subscriber had last, it gets exactly those that follow; finished tasks are replayed."""
    engine = Engine()
    key = await finished(engine)
    history = list(engine.task(key).events)
    assert len(history) == 9
    for after in range(10):
        assert await follow(engine, key, after) == history[after:]


async def test_resuming_after_what_never_was_is_refused() -> None:
    """A sequence beyond the last event is SEQUENCE_OUT_OF_RANGE, never silence."""
    engine = Engine()
    key = await finished(engine)
    with pytest.raises(errors.SequenceOutOfRange):
        await follow(engine, key, 10)
    assert engine.app.events.open == 0


async def test_subscribers_cut_everywhere_while_writers_race() -> None:
    """Subscribers that come and go at every place of a living history all see the same sequence."""
    engine = Engine()
    engine.app.leases._chance = lambda: 0.0
    task = await engine.submit()

    async def reader(step: int) -> list[int]:
        seen: list[int] = []
        while True:
            async with subscribe(engine, task.key, len(seen)) as events, asyncio.timeout(PATIENCE):
                while not events.ended and (got := [event.seq for event in await events.next(PATIENCE)]):
                    seen += got
                    if len(seen) % step == 0:
                        break
                if events.ended:
                    return seen

    readers = [asyncio.create_task(reader(step)) for step in (1, 2, 3, 100)]
    await until(lambda: engine.app.events.open == len(readers))
    worker = engine.worker()
    await engine.app.sweep.run_once()
    for _ in range(3):
        await worker.fail(await worker.next())
    await worker.complete(await worker.next())
    assert await asyncio.gather(*readers) == [list(range(1, 10))] * len(readers)


async def test_sees_what_another_process_writes() -> None:
    """A change made elsewhere is seen by the next poll, though no signal tells of it."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    task = await there.submit()
    following = asyncio.create_task(follow(here, task.key))
    await until(lambda: here.app.events.open == 1)
    worker = there.worker()
    await there.app.sweep.run_once()
    await worker.complete(await worker.next())
    async with asyncio.timeout(POLL_SECONDS + 0.001):
        assert [event.seq for event in await following] == [1, 2, 3]


@pytest.mark.parametrize("wait", [600, 15], ids=["at once", "with pings"])
async def test_a_poll_reads_the_task_only_if_there_is_news(wait: float) -> None:
    """Many may follow a task that has much to it: while nothing happens to it, they look at its version alone.

    No more often if they have something to say every few seconds.
    """
    store = DistantStore()
    here, there = Engine(store), Engine(store)
    task = await there.submit()
    async with subscribe(here, task.key, 1) as events, subscribe(here, task.key, 1) as others:
        store.calls.clear()
        for _ in range(600 // int(wait)):
            assert not any(await asyncio.gather(events.next(wait), others.next(wait)))
        assert store.calls["histories"] == store.calls["get_tasks"] == 0
        # After 2, 6, 14 and 30 s, and then every 30.
        assert 22 <= store.calls["task_versions"] <= 24
        await there.app.tasks.cancel(tenant(), task.id, "")
        async with asyncio.timeout(LONGEST_POLL_SECONDS + 0.001):
            assert [event.seq for event in await events.next(600)] == [2]


async def test_what_was_read_before_something_newer_was_heard_is_passed_over() -> None:
    """Another process tells of the task; while it is read for that, it changes here, and there again."""
    store = DistantStore()
    engine = Engine(store)
    task = await engine.submit()
    async with subscribe(engine, task.key, 1) as events:
        store.late["histories"] = gate = asyncio.Event()
        engine.app.events.hint(task.key)
        following = asyncio.create_task(events.next(PATIENCE))
        await until(lambda: store.calls["histories"] == 1)
        await engine.app.tasks.cancel(tenant(), task.id, "")
        engine.app.events.hint(task.key)
        gate.set()
        assert [event.seq for event in await following] == [2]
        assert events.ended


async def test_streams_look_again_when_signals_may_have_been_missed() -> None:
    """A quiet stream does not wait for its next look: when another process comes, or goes, or took ours for gone."""
    data = MemoryStore()
    store, others = DistantStore(data=data), DistantStore(data=data)
    here, there = Engine(store).start("signals"), Engine(others)
    worker = there.worker()
    await there.submit()
    task = await worker.next()

    async def seen(within: float) -> list[int]:
        async with asyncio.timeout(within):
            return [event.seq for event in await events.next(600)]

    async with subscribe(here, task.key, 2) as events:
        assert not await events.next(600)
        await worker.heartbeat(task, line="told to nobody, since nobody is known yet")
        there.start("signals")
        assert await seen(2 * BEAT_SECONDS) == [3]
        assert not await events.next(600)
        store.gates["beat"] = asyncio.Event()
        await asyncio.sleep(ALIVE.total_seconds() + 2 * BEAT_SECONDS)
        await worker.heartbeat(task, line="told to nobody, since nobody seems to be there")
        store.gates.pop("beat").set()
        assert await seen(2 * BEAT_SECONDS) == [4]
        assert not await events.next(600)
        others.cut = "publish"
        await worker.heartbeat(task, line="told to nobody, since that does not work")
        await there.die()
        assert await seen(ALIVE.total_seconds() + 2 * BEAT_SECONDS) == [5]


async def test_who_waits_for_news_keeps_nothing_of_the_task() -> None:
    """A task may have megabytes of events and metadata, and as many may follow it as a plan allows."""
    engine = Engine()
    task = await engine.submit(payload=b"so that what a follower reads is a copy")

    def tasks() -> int:
        gc.collect()
        # Not by isinstance, which asks a proxy for the class of what is gone.
        return sum(type(one) is Task for one in gc.get_objects())

    before = tasks()
    async with AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(subscribe(engine, task.key, 1)) for _ in range(19)]
        waiting = [asyncio.create_task(follower.next(POLL_SECONDS / 2)) for follower in followers]
        last = await stack.enter_async_context(ending(engine, task.key))
        end = asyncio.create_task(last.task(POLL_SECONDS / 2))
        await asyncio.sleep(POLL_SECONDS / 4)
        assert tasks() == before
        assert not any(await asyncio.gather(*waiting))
        assert (await end).version == task.version


async def test_a_task_that_is_gone_ends_its_stream() -> None:
    """As one that was never there: TASK_NOT_FOUND, by the next poll."""
    engine = Engine()
    task = await engine.submit()
    async with subscribe(engine, task.key, 1) as events:
        await engine.store.erase_tasks(task.workspace, 1)
        with pytest.raises(errors.TaskNotFound):
            await events.next(POLL_SECONDS + 0.001)


async def test_next_returns_nothing_when_nothing_happens() -> None:
    """Waiting is bounded: after `wait` seconds there is an empty answer, and the subscription goes on."""
    engine = Engine()
    task = await engine.submit()
    async with subscribe(engine, task.key) as events:
        assert len(await events.next(0)) == 1
        assert await events.next(0.01) == ()
        assert not events.ended


async def test_unknown_task_is_refused_and_leaves_nothing() -> None:
    """A task that is not there is TASK_NOT_FOUND, and no subscription stays."""
    engine = Engine()
    with pytest.raises(errors.TaskNotFound):
        await follow(engine, Key("ws-1", "01900000-0000-7000-8000-000000000000"))
    assert engine.app.events.open == 0
    assert not engine.app.events._followers


async def test_streams_are_limited_by_workspace() -> None:
    """A workspace has at most `limit` of them open; another's do not count; one that closes makes room."""
    engine = Engine()
    task, other = await engine.submit(tenant("a")), await engine.submit(tenant("b"))
    async with subscribe(engine, task.key, limit=2):
        async with subscribe(engine, task.key, limit=2):
            with pytest.raises(errors.TooManyStreams):
                async with subscribe(engine, task.key, limit=2):
                    pass
            async with subscribe(engine, other.key, limit=2):
                assert engine.app.events.open == 3
        async with subscribe(engine, task.key, limit=2):
            assert engine.app.events.open == 2
    assert engine.app.events.open == 0
    assert not engine.app.events._followers


async def test_cancelled_subscriber_leaves_nothing() -> None:
    """A subscriber that is cancelled while it waits is forgotten."""
    engine = Engine()
    task = await engine.submit()
    following = asyncio.create_task(follow(engine, task.key))
    await until(lambda: engine.app.events.open == 1)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert engine.app.events.open == 0
    assert not engine.app.events._followers


async def test_draining_gives_out_what_is_known_and_then_ends() -> None:
    """On shutdown a subscriber gets the events that it has not had, then ServerDraining; new ones get it at once."""
    engine = Engine()
    task = await engine.submit()
    async with subscribe(engine, task.key) as events:
        engine.app.events.drain()
        assert [event.seq for event in await events.next(PATIENCE)] == [1]
        with pytest.raises(errors.ServerDraining):
            await events.next(PATIENCE)
    with pytest.raises(errors.ServerDraining):
        async with subscribe(engine, task.key):
            pass


async def test_draining_wakes_who_waits() -> None:
    """A subscriber in the middle of a long wait hears of the shutdown at once."""
    engine = Engine()
    task = await engine.submit()
    following = asyncio.create_task(follow(engine, task.key))
    await until(lambda: engine.app.events.open == 1)
    engine.app.events.drain()
    with pytest.raises(errors.ServerDraining):
        await following


async def test_follows_a_task_through_all_its_lives() -> None:
    """One that was tried again by hand is followed from its first event to its last end, past the earlier ones."""
    engine = Engine()
    worker = engine.worker()
    await engine.submit()
    task = await worker.fail(await worker.next(), retryable=False)
    assert [event.seq for event in await follow(engine, task.key)] == [1, 2, 3]
    await engine.app.tasks.retry(tenant(), task.id)
    following = asyncio.create_task(follow(engine, task.key, after=2))
    await until(lambda: engine.app.events.open == 1)
    await worker.complete(await worker.next())
    assert [(event.seq, event.status.value) for event in await following] == [
        (3, "FAILED"),
        (4, "PENDING"),
        (5, "RUNNING"),
        (6, "SUCCEEDED"),
    ]


async def test_ten_subscribers_over_two_processes_see_the_same() -> None:
    """Contiguous and whole, with notes and cuts among them, whatever signals are lost."""
    chance = random.Random(0)  # noqa: S311 - interleavings, not secrets
    store = DistantStore(chance)
    engines = [Engine(store).start(), Engine(store).start()]
    await asyncio.sleep(2)
    store.delay = 0.1
    task = await engines[0].submit()

    async def reader(engine: Engine, step: int) -> list[int]:
        seen: list[int] = []
        while True:
            async with subscribe(engine, task.key, len(seen)) as events:
                for _ in range(step):
                    seen += [event.seq for event in await events.next(PATIENCE)]
                    if events.ended:
                        return seen

    readers = [asyncio.create_task(reader(engines[number % 2], 1 + number % 4)) for number in range(10)]
    worker = engines[0].worker()
    given = await worker.next()
    for number in range(50):
        store.cut = chance.choice(("", "publish"))
        await worker.heartbeat(given, line=str(number))
    await worker.complete(given)
    store.cut = ""
    assert await asyncio.gather(*readers) == [list(range(1, 54))] * 10


# --- the end alone


async def test_waiting_for_the_end_returns_with_it() -> None:
    """As soon as the task has ended, with its result; of one that has already, at once."""
    engine = Engine()
    worker = engine.worker()
    await engine.submit()
    task = await worker.next()
    async with ending(engine, task.key) as end:
        waiting = asyncio.create_task(end.task(PATIENCE))
        await worker.heartbeat(task, line="still at it")
        await asyncio.sleep(POLL_SECONDS / 2)
        await worker.complete(task, b"done")
        async with asyncio.timeout(0.001):
            assert (await waiting).result == b"done"
    async with ending(engine, task.key) as end:
        assert (await end.task(0)).result == b"done"


async def test_waiting_for_the_end_is_bounded() -> None:
    """When its time is over it returns the task as it is then, whatever happened meanwhile."""
    engine = Engine()
    worker = engine.worker()
    await engine.submit()
    task = await worker.next()
    begin = asyncio.get_running_loop().time()
    async with ending(engine, task.key) as end:
        waiting = asyncio.create_task(end.task(10))
        for number in range(9):
            await asyncio.sleep(1)
            await worker.heartbeat(task, line=str(number))
        known = await waiting
    assert asyncio.get_running_loop().time() - begin == pytest.approx(10)
    assert (known.status.value, known.notes) == ("RUNNING", 9)
    async with ending(engine, task.key) as end:
        assert (await end.task(0)).notes == 9


async def test_waiting_for_the_end_ends_with_the_server() -> None:
    """ServerDraining, so that the caller goes to another."""
    engine = Engine()
    task = await engine.submit()
    async with ending(engine, task.key) as end:
        waiting = asyncio.create_task(end.task(PATIENCE))
        await asyncio.sleep(1)
        engine.app.events.drain()
        with pytest.raises(errors.ServerDraining):
            await waiting
