"""Retries by hand: of one task, and of all that a filter selects."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from support.engine import DistantStore, Engine, Worker, ref, tenant

from openmcp_chain.domain import errors, filters
from openmcp_chain.domain.filters import Filter
from openmcp_chain.domain.task import Failure, Status, Task
from openmcp_chain.engine import tasks
from openmcp_chain.store.base import Page, Place
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.transport.rpc import UNARY_SECONDS


async def failed(engine: Engine, worker: Worker, **fields: object) -> Task:
    """A task that has just failed for good."""
    await engine.submit(**fields)  # type: ignore[arg-type]
    task = await worker.next()
    return await worker.fail(task, retryable=False)


async def test_a_failed_task_is_tried_again_with_all_its_attempts() -> None:
    """At once, by whoever is idle; its history is kept, and goes on."""
    engine = Engine()
    engine.app.leases._chance = lambda: 0.0
    worker = engine.worker()
    task = await failed(engine, worker)
    for _ in range(2):
        waiting = await engine.app.tasks.retry(tenant(), task.id)
        assert (waiting.status, waiting.failure) == (Status.PENDING, None)
        for _ in range(5):
            await worker.fail(await worker.next())
        task = engine.task(task.key)
        assert task.status is Status.FAILED
    assert task.attempt == 11
    assert [event.seq for event in task.events] == list(range(1, 26))
    assert [event.seq for event in task.events if event.context == {"retried": True}] == [4, 15]


async def test_a_cancelled_task_is_tried_again_and_not_to_stop() -> None:
    """What it was cancelled for is over."""
    engine = Engine()
    worker = engine.worker()
    await engine.submit()
    task = await worker.next()
    await engine.app.tasks.cancel(tenant(), task.id, "enough")
    await worker.told_to_stop()
    await worker.stop(task)
    await engine.app.tasks.retry(tenant(), task.id)
    again = await worker.next()
    assert (again.attempt, again.cancel) == (2, None)
    await worker.complete(again)


async def test_what_has_not_failed_is_not_tried_again() -> None:
    """Neither one that waits or runs, nor one that has succeeded, nor another workspace's."""
    engine = Engine()
    waiting = await engine.submit()
    worker = engine.worker("other", room=2)
    running, succeeded = [await engine.submit(task_type="other") for _ in range(2)]
    await worker.next()
    await worker.complete(await worker.next())
    for task in (waiting, running, succeeded):
        with pytest.raises(errors.TaskNotRetryable):
            await engine.app.tasks.retry(tenant(), task.id)
        with pytest.raises(errors.TaskNotFound):
            await engine.app.tasks.retry(tenant("ws-2"), task.id)


async def test_two_who_retry_at_once_retry_once() -> None:
    """The second is told that the task waits already."""
    engine = Engine()
    task = await failed(engine, engine.worker())
    results = await asyncio.gather(
        *(engine.app.tasks.retry(tenant(), task.id) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Task", "TaskNotRetryable"]


async def retry_many(engine: Engine, text: str, limit: int) -> tuple[Sequence[str], bool]:
    """What a call that begins with the newest has tried again, and whether it says that there is more."""
    done = await engine.app.tasks.retry_many(tenant(), text, limit)
    return done.task_ids, done.more


async def test_bulk_retry_takes_what_the_filter_selects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed and cancelled ones of it, in parts, up to the limit, the newest first; and says if there are more."""
    monkeypatch.setattr(tasks, "PART", 4)
    engine = Engine()
    worker = engine.worker(workspace="ws-1")
    chosen = []
    for number in range(12):
        await asyncio.sleep(0.001)
        chosen.append(await failed(engine, worker, labels={"team": "search"}))
        await failed(engine, worker, labels={"team": "ads"})
        await engine.submit(labels={"team": "search"})
        await worker.complete(await worker.next())
        if number == 0:
            await failed(engine, engine.worker(workspace="ws-2"), principal=tenant("ws-2"), labels={"team": "search"})
    worker.leave()
    first, more = await retry_many(engine, 'labels.team = "search"', 10)
    assert first == [task.id for task in reversed(chosen[2:])]
    assert more
    rest, more = await retry_many(engine, 'labels.team = "search"', 10)
    assert rest == [task.id for task in reversed(chosen[:2])]
    assert not more
    assert await retry_many(engine, 'labels.team = "search"', 10) == ([], False)
    waiting = [task for task in engine.store._tasks.values() if task.status is Status.PENDING]
    assert {task.key for task in waiting} == {task.key for task in chosen}
    with pytest.raises(errors.InvalidArgument):
        await retry_many(engine, "team ~ search", 10)


async def test_bulk_retry_that_takes_long_is_answered_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With those that it has retried, and that there are more: each is told of by one call."""
    monkeypatch.setattr(tasks, "PART", 4)
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker()
    chosen = {(await failed(engine, worker)).id for _ in range(20)}
    worker.leave()
    store.delay = 4.0
    told: list[str] = []
    calls, more = 0, True
    while more:
        async with asyncio.timeout(UNARY_SECONDS):
            retried, more = await retry_many(engine, "", 1000)
        assert retried
        told += retried
        calls += 1
    assert calls > 1
    assert len(told) == 20
    assert set(told) == chosen


@pytest.mark.parametrize("cut", ["list_tasks", "update_tasks"])
async def test_bulk_retry_that_fails_amid_its_work_tells_what_it_has_done(
    monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    """Whatever it is that fails then; what failed before anything was done is the call's own error."""
    monkeypatch.setattr(tasks, "PART", 4)
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker()
    chosen = {(await failed(engine, worker)).id for _ in range(12)}
    worker.leave()
    store.cut = cut
    with pytest.raises(errors.Unavailable):
        await retry_many(engine, "", 1000)
    store.cut = ""
    # Three parts are listed. The second of them, or what is done with it, meets the fault.
    listed = MemoryStore.list_tasks

    async def list_tasks(self: DistantStore, *args: Any) -> Page:
        page = await listed(self, *args)
        waiting = sum(task.status is Status.PENDING for task in store._tasks.values())
        store.cut = cut if waiting else ""
        if store.cut == "list_tasks":
            raise errors.Unavailable
        return page

    monkeypatch.setattr(DistantStore, "list_tasks", list_tasks)
    retried, more = await retry_many(engine, "", 1000)
    assert more
    assert len(retried) == 4
    assert {task.id for task in store._tasks.values() if task.status is Status.PENDING} == set(retried) < chosen


async def test_bulk_retry_passes_over_what_can_not_be_retried() -> None:
    """A task whose dedupe_key has gone to another does not count, and does not end it."""
    engine = Engine()
    worker = engine.worker()
    old = await failed(engine, worker)
    for _ in range(2):
        await failed(engine, worker, dedupe_key="nightly")
    worker.leave()
    retried, more = await retry_many(engine, "", 2)
    assert not more
    assert len(retried) == 2
    assert old.id in retried


async def test_bulk_retry_goes_on_past_pages_that_are_empty() -> None:
    """A page without tasks is not the end of the list: what is behind it is still counted as more."""

    class Gaps(MemoryStore):
        """Has an empty page behind each task's."""

        async def list_tasks(self, workspace: str, chosen: Filter, after: Place | None, limit: int) -> Page:
            if after is not None and not after.task_id.endswith("-gap"):
                return Page([], Place(after.submitted_at, after.task_id + "-gap"))
            if after is not None:
                after = Place(after.submitted_at, after.task_id.removesuffix("-gap"))
            return await super().list_tasks(workspace, chosen, after, min(limit, 1))

    engine = Engine(Gaps())
    worker = engine.worker()
    for _ in range(3):
        await asyncio.sleep(0.001)
        await failed(engine, worker)
    worker.leave()
    retried, more = await retry_many(engine, "", 2)
    assert (len(retried), more) == (2, True)
    retried, more = await retry_many(engine, "", 2)
    assert (len(retried), more) == (1, False)


async def test_a_repeated_failure_is_answered_as_the_first_was() -> None:
    """By any process, until the next attempt begins, or the wait for it ends; then the lease is lost, and no one's."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    worker = here.worker()
    await here.submit()
    task = await worker.next()
    first = await worker.fail(task)
    assert first.status is Status.PENDING
    for engine in (here, there):
        again = await engine.app.leases.fail(worker.principal, ref(task), Failure("BROKEN", "it broke"), retryable=True)
        assert again == first
    with pytest.raises(errors.LeaseLost):
        await worker.fail(task, "OTHER")
    with pytest.raises(errors.LeaseLost):
        await worker.heartbeat(task)
    with pytest.raises(errors.LeaseLost):
        await worker.complete(task)
    assert len(here.task(task.key).events) == 3
    await asyncio.sleep(60)
    await here.app.sweep.run_once()
    assert (await worker.next()).key == task.key
    with pytest.raises(errors.LeaseLost):
        await worker.fail(task)


async def test_a_report_on_a_task_that_was_cancelled_as_it_waited_finds_no_lease() -> None:
    """Its last holder can't say that it has stopped."""
    engine = Engine()
    worker = engine.worker()
    await engine.submit()
    task = await worker.next()
    await worker.fail(task)
    await engine.app.tasks.cancel(tenant(), task.id, "")
    for report in (worker.stop(task), worker.fail(task)):
        with pytest.raises(errors.LeaseLost):
            await report


async def test_bulk_retry_does_not_look_at_what_left_its_key_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs of one dedupe_key have failed since, a call comes to what can be tried again in time."""
    monkeypatch.setattr(tasks, "PART", 4)
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker()
    without = [(await failed(engine, worker)).id for _ in range(2)]
    runs = [(await failed(engine, worker, dedupe_key="nightly")).id for _ in range(40)]
    worker.leave()
    store.delay = 4.0
    async with asyncio.timeout(UNARY_SECONDS):
        retried, more = await retry_many(engine, "", 100)
    assert (set(retried), more) == ({runs[-1], *without}, False)


async def test_bulk_retry_goes_on_behind_what_it_has_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it has found nothing for as long as a call may take, and whatever has been submitted since."""
    monkeypatch.setattr(tasks, "PART", 4)

    class Slow(MemoryStore):
        """Reads some of the newest, selected or not, in five seconds."""

        async def list_tasks(self, workspace: str, chosen: Filter, after: Place | None, limit: int) -> Page:
            await asyncio.sleep(5)
            page = await super().list_tasks(workspace, filters.EVERYTHING, after, limit)
            return Page([task for task in page.tasks if filters.matches(chosen, task)], page.rest)

    engine = Engine(Slow())
    worker = engine.worker()
    old = [await failed(engine, worker) for _ in range(6)]
    for _ in range(40):
        await asyncio.sleep(0.001)
        await engine.submit()
        await worker.complete(await worker.next())
    worker.leave()
    calls, told, token, more = 0, list[str](), "", True
    while more:
        async with asyncio.timeout(UNARY_SECONDS):
            done = await engine.app.tasks.retry_many(tenant(), "", 5, token)
        await engine.submit()
        calls, told, token, more = calls + 1, [*told, *done.task_ids], done.next_page_token, done.more
    assert calls > 2
    assert sorted(told) == sorted(task.id for task in old)
    assert token == ""
    with pytest.raises(errors.InvalidArgument):
        await engine.app.tasks.retry_many(tenant(), "", 5, "bm8")


async def test_bulk_retry_comes_again_to_what_failed_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the token of the call that told of it; one for another filter is refused."""
    monkeypatch.setattr(tasks, "PART", 4)
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker()
    chosen = {(await failed(engine, worker)).id for _ in range(12)}
    worker.leave()
    listed, parts = MemoryStore.list_tasks, itertools.count(1)

    async def list_tasks(self: DistantStore, *args: Any) -> Page:
        page = await listed(self, *args)
        store.cut = "update_tasks" if next(parts) == 2 else ""
        return page

    monkeypatch.setattr(DistantStore, "list_tasks", list_tasks)
    first = await engine.app.tasks.retry_many(tenant(), "", 1000)
    assert (len(first.task_ids), first.more) == (4, True)
    rest = await engine.app.tasks.retry_many(tenant(), "", 1000, first.next_page_token)
    assert {*first.task_ids, *rest.task_ids} == chosen
    assert not rest.more
    with pytest.raises(errors.InvalidArgument):
        await engine.app.tasks.retry_many(tenant(), "status = FAILED", 1000, first.next_page_token)
