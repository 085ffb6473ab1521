"""News: what a signal tells of few tasks, so that who follows one at another process need not read it."""

import asyncio

import pytest
from support.engine import Engine, Worker, tenant
from support.neighbours import QUICKLY, Recorded, pair
from support.service import PATIENCE

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Status, Task
from openmcp_chain.engine import signals
from openmcp_chain.engine.events import POLL_SECONDS, Subscription
from openmcp_chain.store.base import Signal
from openmcp_chain.store.memory import MemoryStore


async def running(store: MemoryStore) -> tuple[Engine, Engine, Worker, Task]:
    """Two processes at rest; a worker at the second, and a task that it runs."""
    here, there = await pair(store)
    worker = there.worker()
    await there.submit()
    given = await worker.next()
    await asyncio.sleep(1)
    return here, there, worker, given


async def lines(events: Subscription, count: int) -> list[object]:
    """The next ones, as soon as they are there."""
    heard: list[object] = []
    async with asyncio.timeout(QUICKLY):
        while len(heard) < count:
            heard += [event.context["log"] for event in await events.next(PATIENCE)]
    return heard


async def test_news_of_few_tasks_come_with_their_signal() -> None:
    """Who follows one elsewhere reads nothing for that, until it ends for one who waits for its result."""
    store = Recorded()
    here, there = await pair(store)
    task = await there.submit()
    async with here.app.events.subscribe(task.key, 1, 10) as events, here.app.events.ending(task.key, 10) as end:
        ending = asyncio.create_task(end.task(PATIENCE))
        worker = there.worker()
        given = await worker.next()
        async with asyncio.timeout(QUICKLY):
            assert [event.seq for event in await events.next(PATIENCE)] == [2]
        await asyncio.sleep(QUICKLY)
        store.calls.clear()
        await worker.heartbeat(given, line="one")
        assert await lines(events, 1) == ["one"]
        assert not await events.next(3 * POLL_SECONDS)  # what it heard of needs no look
        assert store.calls["get_tasks"] == 0
        await worker.complete(given, b"result")
        async with asyncio.timeout(QUICKLY):
            assert [event.status for event in await events.next(PATIENCE)] == [Status.SUCCEEDED]
            assert (await ending).result == b"result"
    assert store.calls["histories"] == 0
    assert store.calls["get_tasks"] == 1
    told = [part for signal in store.published for part in signal.news.values()]
    assert [len(part.events) for part in told] == [1, 1, 1]


async def test_what_happens_while_a_process_pauses_is_told_together() -> None:
    """Between two signals: of one task several events, none of which has to be read."""
    store = Recorded()
    here, _, worker, given = await running(store)
    async with here.app.events.subscribe(given.key, 2, 10) as events:
        store.calls.clear()
        for line in "abc":
            await worker.heartbeat(given, line=line)
        assert await lines(events, 3) == ["a", "b", "c"]
    assert store.calls["publish"] == 2
    assert store.calls["histories"] == 0


@pytest.mark.parametrize(("others", "length"), [(signals.BUSY, 1), (0, signals.NEWS_BYTES)], ids=["many", "much"])
async def test_news_of_many_tasks_or_of_much_are_read(others: int, length: int) -> None:
    """What a signal carries is bounded; its subscribers see the same."""
    store = Recorded()
    here, there = await pair(store)
    worker = there.worker(room=others + 1)
    given = {task.id: task for task in [await there.submit() for _ in range(others + 1)]}
    leased = [await worker.next() for _ in given]
    await asyncio.sleep(1)
    followed = leased[-1]
    async with here.app.events.subscribe(followed.key, 2, 10) as events:
        store.published.clear()
        await asyncio.gather(*(worker.heartbeat(task, line="x" * length) for task in leased))
        assert await lines(events, 1) == ["x" * length]
    assert [len(signal.changed) for signal in store.published if signal.changed] == [others + 1]
    assert not any(signal.news for signal in store.published)


async def test_news_behind_what_a_subscriber_has_not_had_are_read() -> None:
    """A signal was lost, or the subscriber came while it was under way: none is left out, and none told twice."""
    store = Recorded()
    here, _, worker, given = await running(store)
    async with here.app.events.subscribe(given.key, 2, 10) as events:
        heard, here.app.signals.heard = here.app.signals.heard, lambda _: None
        await worker.heartbeat(given, line="lost")
        await asyncio.sleep(QUICKLY)
        here.app.signals.heard = heard
        await worker.heartbeat(given, line="told")
        assert await lines(events, 2) == ["lost", "told"]
        store.calls.clear()
        for signal in store.published[-2:]:
            here.app.signals.heard(signal)  # once more, and late
        assert not await events.next(1)
        assert store.calls["histories"] == store.calls["task_versions"] == 0


async def test_what_could_not_be_told_is_told_by_name() -> None:
    """As soon as there is more to tell, which comes by name too: what happened before that is to be read."""
    store = Recorded()
    here, there, worker, given = await running(store)
    async with here.app.events.subscribe(given.key, 2, 10) as events:
        store.cut = "publish"
        await worker.heartbeat(given, line="a")
        await asyncio.sleep(QUICKLY)
        store.cut = ""
        store.published.clear()
        await there.submit(task_type="other")
        assert await lines(events, 1) == ["a"]
    assert given.key in store.published[0].changed
    assert not store.published[0].news


async def test_many_that_could_not_be_told_are_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what has come to them meanwhile."""
    store = Recorded()
    _, there = await pair(store)
    worker = there.worker(room=signals.BUSY + 1)
    for _ in range(signals.BUSY + 1):
        await there.submit()
    first, *others = [await worker.next() for _ in range(signals.BUSY + 1)]
    await asyncio.sleep(1)
    failing = asyncio.Event()

    async def fail(_: Signal) -> None:
        await failing.wait()
        monkeypatch.undo()
        raise errors.Unavailable

    store.published.clear()
    monkeypatch.setattr(store, "publish", fail)
    await asyncio.gather(*(worker.heartbeat(task, line="a") for task in others))
    await asyncio.sleep(QUICKLY)
    await worker.heartbeat(first, line="b")
    failing.set()
    await asyncio.sleep(QUICKLY)
    assert set(store.published[0].changed) == {task.key for task in (first, *others)}
    assert not store.published[0].news


async def test_news_for_one_who_asks_for_what_is_not_there_harm_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """They come while its place is looked for; it alone is told that there is none."""
    store = Recorded()
    here, _, worker, given = await running(store)
    store.gates["histories"] = gate = asyncio.Event()

    async def follow() -> None:
        async with here.app.events.subscribe(given.key, 9, 10):
            raise AssertionError

    following = asyncio.create_task(follow())
    await asyncio.sleep(QUICKLY)
    await worker.heartbeat(given, line="a")
    await asyncio.sleep(QUICKLY)
    gate.set()
    with pytest.raises(errors.SequenceOutOfRange):
        await following
    assert not caplog.records


async def test_who_comes_after_a_change_was_told_begins_with_it() -> None:
    """Though the task was written here just now."""
    here, there = await pair(MemoryStore())
    task = await here.submit()
    await there.app.tasks.cancel(tenant(), task.id, "")
    await asyncio.sleep(QUICKLY)
    async with here.app.events.ending(task.key, 10) as end, asyncio.timeout(QUICKLY):
        assert (await end.task(PATIENCE)).status is Status.CANCELLED


async def test_an_end_that_was_not_heard_is_found_soon_by_who_waits_for_it() -> None:
    """However long the task has lived, of which it heard."""
    store = Recorded()
    here, _, worker, given = await running(store)
    async with here.app.events.ending(given.key, 10) as end:
        ending = asyncio.create_task(end.task(1000))
        for number in range(100):
            await worker.heartbeat(given, line=str(number))
            await asyncio.sleep(1)
        here.app.signals.heard = lambda _: None
        await worker.complete(given)
        async with asyncio.timeout(POLL_SECONDS):
            assert (await ending).status is Status.SUCCEEDED
