"""What was written here a moment ago: who follows or waits for it begins with that, and reads nothing."""

import asyncio
from datetime import timedelta

import pytest
from support.engine import DistantStore, Engine, tenant
from support.service import PATIENCE

from openmcp_chain.domain.task import Status, Terms
from openmcp_chain.engine.events import POLL_SECONDS, STAYS
from openmcp_chain.engine.signals import BEAT_SECONDS
from openmcp_chain.store.memory import MemoryStore


async def test_who_follows_what_was_written_here_just_now_reads_nothing() -> None:
    """It hears of what happens next as others do; what has changed elsewhere in that moment, by the next look."""
    store = DistantStore()
    here, there = Engine(store), Engine(store)
    task = await here.submit()
    async with here.app.events.subscribe(task.key, 0, 10) as events:
        assert [event.seq for event in await events.next(0)] == [1]
        assert store.calls["histories"] == store.calls["task_versions"] == 0
        await there.app.tasks.cancel(tenant(), task.id, "")
        async with asyncio.timeout(POLL_SECONDS + 0.001):
            assert [event.seq for event in await events.next(600)] == [2]


async def test_who_waits_for_what_has_succeeded_here_just_now_reads_nothing() -> None:
    """On an idle system a task may be done before its client has asked for that. Its history is there as well."""
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker()
    await engine.submit(metadata={"team": "orders"})
    task = await worker.next()
    await worker.complete(task, b"done")
    async with engine.app.events.ending(task.key, 10) as end:
        seen = await end.task(PATIENCE)
    assert (seen.status, seen.result, seen.metadata) == (Status.SUCCEEDED, b"done", {"team": "orders"})
    async with engine.app.events.subscribe(task.key, 0, 10) as events:
        assert tuple(await events.next(PATIENCE)) == engine.task(task.key).events
        assert events.ended
    assert store.calls["get_tasks"] == store.calls["histories"] == store.calls["task_versions"] == 0


@pytest.mark.parametrize("end", [Status.FAILED, Status.CANCELLED])
async def test_who_waits_for_what_was_retried_elsewhere_is_not_told_of_its_old_end(end: Status) -> None:
    """Though it ended here just now, and whoever retried it was answered before."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    worker = here.worker()
    await here.submit()
    task = await worker.next()
    if end is Status.FAILED:
        await worker.fail(task, retryable=False)
    else:
        await here.app.tasks.cancel(tenant(), task.id, "")
        await worker.stop(task)
    assert here.task(task.key).status is end
    await there.app.tasks.retry(tenant(), task.id)
    async with here.app.events.ending(task.key, 10) as waiting:
        assert (await waiting.task(0)).status is Status.PENDING


@pytest.mark.parametrize("kept", [timedelta(), STAYS])
async def test_what_may_be_deleted_by_now_is_read(kept: timedelta) -> None:
    """Though it has succeeded here just now: the same request may have made another task of the same id elsewhere."""
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker()
    await engine.submit(terms=Terms(retention=kept))
    task = await worker.next()
    await worker.complete(task, b"done")
    async with engine.app.events.ending(task.key, 10):
        assert store.calls["get_tasks"] == 1


async def test_who_follows_what_another_process_has_changed_since_reads_it() -> None:
    """Though it was written here just now: the change was told before anybody followed."""
    store = MemoryStore()
    here, there = Engine(store).start("signals"), Engine(store).start("signals")
    await asyncio.sleep(10 * BEAT_SECONDS)
    task = await here.submit()
    await there.app.tasks.cancel(tenant(), task.id, "")
    await asyncio.sleep(0.05)
    async with here.app.events.ending(task.key, 10) as end, asyncio.timeout(0.05):
        assert (await end.task(PATIENCE)).status is Status.CANCELLED


async def test_a_wait_that_is_over_tells_the_state_as_it_is_now() -> None:
    """Also one of no length, and though the task was written here just now."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    task = await here.submit()
    await there.app.tasks.cancel(tenant(), task.id, "")
    async with here.app.events.ending(task.key, 10) as end:
        assert (await end.task(0)).status is Status.CANCELLED


@pytest.mark.parametrize(
    ("payload", "result", "wait"),
    [(b"x" * 5000, None, 0), (b"", b"x" * 5000, 0), (b"", None, POLL_SECONDS), (b"", b"", POLL_SECONDS)],
)
async def test_what_is_large_or_was_written_long_ago_is_read(payload: bytes, result: bytes | None, wait: float) -> None:
    """Of the rest so many are remembered that it takes some megabytes at most."""
    store = DistantStore()
    engine = Engine(store)
    task = await engine.submit(payload=payload)
    if result is not None:
        worker = engine.worker()
        await engine.app.sweep.run_once()
        await worker.complete(await worker.next(), result)
    await asyncio.sleep(wait)
    store.calls.clear()
    async with engine.app.events.subscribe(task.key, 0, 10):
        assert store.calls["histories"] == 1


async def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest; and of those, once they are old or were cancelled, none."""
    monkeypatch.setattr("openmcp_chain.engine.events.RECENT", 3)
    engine = Engine()
    tasks = [await engine.submit() for _ in range(5)]
    recent = engine.app.events._recent
    assert list(recent) == [task.key for task in tasks[2:]]
    await engine.app.tasks.cancel(tenant(), tasks[-1].id, "")
    assert list(recent) == [task.key for task in tasks[2:4]]
    await asyncio.sleep(POLL_SECONDS)
    last = await engine.submit()
    assert list(recent) == [last.key]
