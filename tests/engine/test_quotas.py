"""How many tasks of a workspace may wait, in one process and in several, and how many streams it may have open."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

import pytest
from support.engine import DistantStore, Engine, tenant

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Queue, Status, Task
from openmcp_chain.domain.workspace import Principal, Quotas
from openmcp_chain.engine import quotas
from openmcp_chain.engine.quotas import COUNT_SECONDS, GROWTH, SHARE, Streams
from openmcp_chain.store.base import TooMuch
from openmcp_chain.store.memory import MemoryStore

LIMIT = 10


def limited(store: MemoryStore | None = None, limit: int = LIMIT) -> Engine:
    """A process in which every workspace may have so many tasks waiting."""
    engine = Engine(store)
    engine.app.pending._allowed = lambda _: Quotas(limit, limit)
    return engine


async def fill(engine: Engine, tries: int, principal: Principal | None = None) -> list[Task]:
    """The tasks that were accepted of so many submits at once; the others were refused for the right reason."""
    results = await asyncio.gather(*(engine.submit(principal) for _ in range(tries)), return_exceptions=True)
    refused = [one for one in results if not isinstance(one, Task)]
    assert all(isinstance(one, errors.TooManyPending) for one in refused)
    return [one for one in results if isinstance(one, Task)]


async def test_a_workspace_has_so_many_waiting_and_no_more() -> None:
    """Whatever comes at once; one more is TOO_MANY_PENDING, with the time to come back. Another's do not count."""
    engine = limited()
    assert len(await fill(engine, 3 * LIMIT)) == LIMIT
    with pytest.raises(errors.TooManyPending) as refused:
        await engine.submit()
    assert refused.value.retry_after
    assert len(await fill(engine, 1, tenant("another"))) == 1


async def test_what_stops_waiting_makes_room() -> None:
    """A task that is taken, and one that is cancelled; one that waits again takes it."""
    engine = limited().start("queues", "sweep")
    first, second, *_ = await fill(engine, LIMIT)
    worker = engine.worker(room=1)
    taken = await worker.next()
    assert len(await fill(engine, 2)) == 1
    other = second if taken.id == first.id else first
    await engine.app.tasks.cancel(tenant(), other.id, "")
    assert engine.app.pending.estimate("ws-1") == LIMIT - 1
    await worker.fail(taken)  # it is tried again
    assert engine.app.pending.estimate("ws-1") == LIMIT
    assert not await fill(engine, 1)


async def test_retries_count_too() -> None:
    """Submitting, cancelling and retrying is no way around it: a retry is refused; of many, some are carried out."""
    engine = limited()
    ended = await fill(engine, LIMIT)
    for task in ended:
        await engine.app.tasks.cancel(tenant(), task.id, "")
    await fill(engine, LIMIT - 3)
    retried = await engine.app.tasks.retry_many(tenant(), "", 100)
    assert (len(retried.task_ids), retried.more) == (3, True)
    left = next(task for task in ended if task.id not in retried.task_ids)
    for refused in (engine.app.tasks.retry(tenant(), left.id), engine.app.tasks.retry_many(tenant(), "", 100)):
        with pytest.raises(errors.TooManyPending):
            await refused


async def test_what_was_accepted_is_found_again() -> None:
    """Repeated with its request_id, or its dedupe_key, however many wait by now: it is no new task."""
    engine = limited()
    request_id = "0190e2e0-0000-7000-8000-000000000001"
    first = await engine.submit(request_id=request_id)
    second = await engine.submit(dedupe_key="nightly")
    await fill(engine, LIMIT)
    assert (await engine.submit(request_id=request_id)).id == first.id
    assert (await engine.submit(dedupe_key="nightly", use_existing=True)).id == second.id
    with pytest.raises(errors.DedupeKeyTaken):
        await engine.submit(dedupe_key="nightly")
    with pytest.raises(errors.RequestIdReused):
        await engine.submit(request_id=request_id, payload=b"another")
    for new in (engine.submit(request_id=request_id[:-1] + "2"), engine.submit(dedupe_key="another")):
        with pytest.raises(errors.TooManyPending):
            await new


async def test_a_write_that_fails_takes_no_place() -> None:
    """Nor does one whose caller gives up before it is made."""
    store = DistantStore()
    engine = limited(store)
    await engine.submit()
    store.cut = "insert_tasks"
    for _ in range(2 * LIMIT):
        with pytest.raises(errors.Unavailable):
            await engine.submit()
    store.cut = ""
    assert len(await fill(engine, 2 * LIMIT)) == LIMIT - 1


async def test_a_process_that_starts_counts_what_is_there() -> None:
    """Tasks from before wait as much as its own."""
    before = limited()
    await fill(before, LIMIT)
    engine = limited(before.store).start("queues", "pending")
    await asyncio.sleep(COUNT_SECONDS)
    await fill(engine, 1)
    await asyncio.sleep(COUNT_SECONDS)
    assert engine.app.pending.estimate("ws-1") >= LIMIT
    assert not await fill(engine, 1)


async def test_what_others_write_is_heard_of() -> None:
    """Between two counts, processes know nothing of each other: then each knows all. That is what may be too many."""
    one = limited().start("queues", "pending")
    two = limited(one.store).start("queues", "sweep", "pending")
    for engine in (one, two):
        await fill(engine, 1)
    await asyncio.sleep(2 * COUNT_SECONDS)
    accepted = len(await fill(one, LIMIT)) + len(await fill(two, LIMIT))
    assert accepted == 2 * (LIMIT - 2)
    await asyncio.sleep(2 * COUNT_SECONDS)
    assert [engine.app.pending.estimate("ws-1") for engine in (one, two)] == [2 * LIMIT - 2] * 2
    worker = two.worker(room=LIMIT - 1)
    taken = [await worker.next() for _ in range(LIMIT - 1)]
    assert not await fill(one, 1)
    await asyncio.sleep(2 * COUNT_SECONDS)
    assert len(await fill(one, 2)) == 1
    assert len(taken) == LIMIT - 1


async def test_counts_are_seldom_far_from_the_limit() -> None:
    """So seldom that nobody could fill the room in between; at the limit, each COUNT_SECONDS."""
    store = DistantStore()
    engine = limited(store, limit=30 * GROWTH).start("pending")
    await fill(engine, 1)
    await asyncio.sleep(29)
    assert store.calls["count_waiting"] == 1
    await asyncio.sleep(3)
    assert store.calls["count_waiting"] == 2
    engine.app.pending._allowed = lambda _: Quotas(1, 1)
    for _ in range(100):
        assert not await fill(engine, 1)
        await asyncio.sleep(0.1)
    assert 2 + 8 <= store.calls["count_waiting"] <= 2 + 11


async def test_counts_take_no_more_than_their_share() -> None:
    """However long one takes, and however many workspaces there are."""
    store = DistantStore()
    store.delay = 0.1  # each way, at most
    engine = limited(store, limit=1).start("pending")
    for number in range(20):
        asyncio.create_task(fill(engine, 2, tenant(f"ws-{number}")))  # noqa: RUF006 - what they bring is not asked
    await asyncio.sleep(60)
    assert 5 <= store.calls["count_waiting"] <= 60 / (SHARE * 0.1) * 2


async def test_what_is_counted_is_bounded() -> None:
    """No further than twice the limit."""
    engine = limited()
    asked = []

    async def count(queues: Collection[Queue], limit: int, within: float) -> int:
        asked.append(limit)
        return 0

    engine.store.count_waiting = count  # type: ignore[method-assign]
    await fill(engine, 1)
    await engine.app.pending.run_once()
    assert asked == [2 * LIMIT]


async def test_where_counting_is_dear_it_is_done_without() -> None:
    """The estimate goes by what this process writes, and counting is not tried again soon."""
    engine = limited().start("pending")
    calls = 0

    async def too_much(queues: Collection[Queue], limit: int, within: float) -> int:
        nonlocal calls
        calls += 1
        raise TooMuch

    engine.store.count_waiting = too_much  # type: ignore[method-assign]
    assert len(await fill(engine, 2 * LIMIT)) == LIMIT
    await asyncio.sleep(quotas.TOO_MUCH_SECONDS / 2)
    assert not await fill(engine, 1)
    assert calls == 1


async def test_a_count_that_fails_changes_nothing() -> None:
    """While the database is away, the estimate stays; it is counted again when it is back."""
    store = DistantStore()
    engine = limited(store).start("queues", "pending")
    await fill(engine, LIMIT)
    store.cut = "count_waiting"
    await asyncio.sleep(5)
    assert not await fill(engine, 1)
    for key, task in list(store._tasks.items()):  # as if another process had ended them all
        store._tasks[key] = replace(task, status=Status.CANCELLED)
    store.cut = ""
    await asyncio.sleep(quotas.TOO_MUCH_SECONDS)
    assert len(await fill(engine, 1)) == 1


async def test_workspaces_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that submit nothing for long, and, past a number, those that have submitted nothing for longest."""
    monkeypatch.setattr(quotas, "WORKSPACES", 3)
    engine = limited().start("pending")
    for number in range(5):
        await fill(engine, 1, tenant(f"ws-{number}"))
        await asyncio.sleep(1)
    assert list(engine.app.pending._waiting) == ["ws-2", "ws-3", "ws-4"]
    await asyncio.sleep(quotas.IDLE_SECONDS + 1)
    assert not engine.app.pending._waiting


async def test_streams_of_all_kinds_count_together() -> None:
    """Each that is open takes a place, and gives it back however it ends; another workspace's are its own."""
    streams = Streams()
    with streams.hold("a", 2):
        streams.enter("a", 2)
        with pytest.raises(errors.TooManyStreams), streams.hold("a", 2):
            pass
        with streams.hold("b", 1), pytest.raises(errors.TooManyStreams):
            streams.enter("b", 1)
        streams.leave("a")
        failing: Callable[[], None] = _fail
        with pytest.raises(ZeroDivisionError), streams.hold("a", 2):
            failing()
    assert not streams._open


def _fail() -> None:
    raise ZeroDivisionError
