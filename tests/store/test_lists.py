"""A workspace's tasks by filter, in every store: pages of them, and how many."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from support.samples import NOW, PROGRESS, SECOND, TERMS, at, make_lease, make_task

from openmcp_chain.domain import filters, transitions
from openmcp_chain.domain.filters import EVERYTHING, Filter
from openmcp_chain.domain.task import Change, Status, Task
from openmcp_chain.store.base import Place, Store, TooMuch
from openmcp_chain.store.mongo import lists
from openmcp_chain.store.mongo.store import MongoStore

Connect = Callable[[], Awaitable[Store]]

MILLISECOND = SECOND / 1000
AGES = [timedelta(milliseconds=ms) for ms in (0, 0, 0, 1, 5, 99, 100, 101, 1000, 20_000, 20_000)] + [
    timedelta(minutes=5),
    *([timedelta(days=1)] * 4),
    timedelta(days=30),
    timedelta(days=3650),
]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page takes the time that it takes, so that a busy machine makes none short."""
    monkeypatch.setattr(lists, "READING", 3600.0)


async def stock(store: Store, ages: Sequence[timedelta] = AGES, now: datetime = NOW) -> list[Task]:
    """Tasks of these ages, as a list has them: the newest first, those of one millisecond by id, backwards."""
    tasks = [make_task(now=now - age, labels={"n": str(n % 3)}) for n, age in enumerate(ages)]
    await store.insert_tasks([*tasks, make_task(workspace="ws-2", now=now)])
    return sorted(tasks, key=lambda task: (task.submitted_at, task.id), reverse=True)


async def pages(store: Store, limit: int, chosen: Filter = EVERYTHING, *, after: Place | None = None) -> list[Task]:
    """All tasks, page by page, each of which has no more than the limit."""
    found: list[Task] = []
    while True:
        page = await store.list_tasks("ws-1", chosen, after, limit)
        assert len(page.tasks) <= limit
        found += page.tasks
        if page.rest is None:
            return found
        after = page.rest


def ids(tasks: Sequence[Task]) -> list[str]:
    return [task.id for task in tasks]


async def test_pages_are_whole_whatever_their_size(store: Store) -> None:
    """The newest first, none twice, none left out, also where many are of one millisecond, or of long ago."""
    tasks = await stock(store)
    for limit in (1, 2, 3, 18, 100):
        assert ids(await pages(store, limit)) == ids(tasks), limit


@pytest.mark.parametrize("now", [datetime.now(UTC).replace(microsecond=0), datetime(2100, 1, 1, tzinfo=UTC)])
async def test_a_list_begins_with_the_newest_task(connected: Connect, now: datetime) -> None:
    """Also in a process that has not seen it yet, and where another's clock is ahead."""
    tasks = await stock(await connected(), now=now)
    store = await connected()
    first = await store.list_tasks("ws-1", EVERYTHING, None, 3)
    newer = make_task(now=now + timedelta(days=1))
    await (await connected()).insert_tasks([newer])
    second = await store.list_tasks("ws-1", EVERYTHING, None, 3)
    assert (ids(first.tasks), ids(second.tasks)) == (ids(tasks[:3]), ids([newer, *tasks[:2]]))


async def test_a_page_after_an_insert_goes_on_where_the_one_before_ended(store: Store) -> None:
    """What is newer than the first page does not move the second."""
    tasks = await stock(store)
    page = await store.list_tasks("ws-1", EVERYTHING, None, 2)
    await store.insert_tasks([make_task(now=NOW + SECOND), make_task(now=NOW + 2 * SECOND)])
    assert ids([*page.tasks, *await pages(store, 5, after=page.rest)]) == ids(tasks)


async def test_the_rest_is_named_only_if_there_is_one(store: Store) -> None:
    """A list that is empty, or just full, says that it is all."""
    assert (await store.list_tasks("ws-1", EVERYTHING, None, 10)).rest is None
    tasks = await stock(store, AGES[:4])
    page = await store.list_tasks("ws-1", EVERYTHING, None, 4)
    assert (ids(page.tasks), page.rest) == (ids(tasks), None)
    page = await store.list_tasks("ws-1", EVERYTHING, None, 3)
    assert page.rest == Place(page.tasks[-1].submitted_at, page.tasks[-1].id)


CHOSEN = (
    'labels.n = "1"',
    'labels.n = "1" OR labels.n = "2"',
    "status = FAILED",
    'submitted_at > "2026-01-02T03:04:05.577Z"',
    'submitted_at <= "2026-01-02T03:04:05.577Z" AND labels.n != "0"',
    'submitted_at < "2026-01-02T03:04:05.5770001Z"',
    'submitted_at = "2026-01-02T03:04:05.678Z"',
    'submitted_at > "2030-01-01T00:00:00Z"',
    'submitted_at < "1800-01-01T00:00:00Z"',
    'submitted_at > "1800-01-01T00:00:00Z"',
    'submitted_at > "2026-01-02T03:04:06Z" AND submitted_at < "2026-01-02T03:04:05Z"',
)


async def test_a_list_and_a_count_have_what_the_filter_selects(store: Store) -> None:
    """No more, no less, in the same order."""
    stocked = await stock(store)
    for text in CHOSEN:
        chosen = filters.parse(text)
        tasks = [task for task in stocked if filters.matches(chosen, task)]
        for limit in (2, 100):
            assert ids(await pages(store, limit, chosen)) == ids(tasks), text
        counts = await store.count_tasks("ws-1", chosen)
        assert counts == ({Status.PENDING: len(tasks)} if tasks else {}), text


async def test_tasks_are_listed_without_events_and_bodies(store: Store) -> None:
    """Everything else is as it is."""
    task = make_task(terms=TERMS, dedupe_key="key", fingerprint=b"f", traceparent="t")
    steps = [
        task,
        transitions.claim(task, make_lease("token"), NOW),
    ]
    steps.append(transitions.note(steps[-1], "token", NOW, progress=PROGRESS))
    steps.append(transitions.complete(steps[-1], "token", b"result", at(NOW)))
    await store.insert_tasks([task])
    for before, after in pairwise(steps):
        assert await store.update_tasks([Change(before, after)]) == [True]
    assert await pages(store, 10) == [replace(steps[-1], events=(), payload=b"", result=None)]


async def test_tasks_are_counted_by_status(store: Store) -> None:
    """A status that no task has is left out; other workspaces' tasks are not counted."""
    tasks = await stock(store)
    cancelled = [Change(task, transitions.cancel(task, "", at(NOW))) for task in tasks[:5]]
    await store.update_tasks(cancelled)
    assert await store.count_tasks("ws-1", EVERYTHING) == {Status.CANCELLED: 5, Status.PENDING: len(tasks) - 5}
    assert await store.count_tasks("ws-3", EVERYTHING) == {}


async def test_a_count_that_takes_too_long_is_given_up(mongo: MongoStore) -> None:
    """It says so rather than fail; one without a limit of time is made."""
    await mongo.insert_tasks([make_task() for _ in range(20)])
    with pytest.raises(TooMuch):
        await mongo.count_tasks("ws-1", EVERYTHING, within=0.0001)
    assert await mongo.count_tasks("ws-1", EVERYTHING, within=60) == {Status.PENDING: 20}


async def test_a_workspace_lists_only_its_own(store: Store) -> None:
    """Whatever place it says that it has come to."""
    await stock(store)
    theirs = (await store.list_tasks("ws-2", EVERYTHING, None, 10)).tasks
    assert [task.workspace for task in theirs] == ["ws-2"]
    assert (await store.list_tasks("ws-3", EVERYTHING, None, 10)).tasks == []
    for place in (Place(NOW + SECOND, "x"), Place(NOW, "../ws-2/~"), Place(NOW, "")):
        assert {task.workspace for task in await pages(store, 10, after=place)} == {"ws-1"}


async def test_a_call_that_has_read_for_long_says_where_it_is(
    mongo: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every one of its pages may be short, and yet the list is whole."""
    monkeypatch.setattr(lists, "READING", 0.0)
    now = datetime.now(UTC).replace(microsecond=0)
    tasks = await stock(mongo, [n * 123 * MILLISECOND for n in range(20)], now)
    chosen = filters.parse(f'submitted_at > "{(now - 3 * SECOND).isoformat()}"')
    short = await mongo.list_tasks("ws-1", chosen, Place(now - SECOND, ""), 10)
    assert len(short.tasks) < 10
    assert short.rest
    assert ids(await pages(mongo, 3, chosen)) == ids(tasks)


async def test_lists_and_inserts_at_once(store: Store) -> None:
    """What was there when a list began is in it, whatever is added meanwhile."""
    tasks = await stock(store)

    async def add() -> None:
        for n in range(20):
            await store.insert_tasks([make_task(now=NOW + n * MILLISECOND)])

    adding = asyncio.create_task(add())
    found = ids(await pages(store, 2))
    await adding
    assert [task_id for task_id in found if task_id in set(ids(tasks))] == ids(tasks)
