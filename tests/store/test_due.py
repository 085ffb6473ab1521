"""What is due, in every store: tasks that wait for a worker, time that ran out, and ended tasks."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import pytest
from support.samples import NOW, RETENTION, SECOND, at, make_lease, make_task

from openmcp_chain.domain import transitions
from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import HIGH, LOW, NORMAL, Change, Failure, Key, Queue, Task, Terms
from openmcp_chain.store.base import Store, TooMuch
from openmcp_chain.store.mongo import documents, timers
from openmcp_chain.store.mongo.part import Collection
from openmcp_chain.store.mongo.store import MongoStore

MILLISECOND = SECOND / 1000
QUEUE = Queue("ws-1", "data_pipeline")
EPOCH = NOW - 10_000 * SECOND
SOON = Terms(schedule_to_start=10 * SECOND)


def ids(found: Iterable[Waiting]) -> list[str]:
    return [waiting.key.id for waiting in found]


async def ready(store: Store, until: datetime, since: datetime = EPOCH) -> list[str]:
    return ids(await store.ready_tasks(QUEUE, NORMAL, since, until, 10))


async def change(store: Store, before: Task, after: Task) -> Task:
    assert await store.update_tasks([Change(before, after)]) == [True]
    return after


async def overdue(store: Store, now: datetime, limit: int, skip: int = 0) -> list[Key]:
    return [*await store.expired_leases(now, limit, skip), *await store.late_tasks(now, limit, skip)]


async def in_every_status(store: Store) -> dict[str, Task]:
    """One task in each status, all of one queue, the retried one due a while after NOW."""
    tasks = {name: make_task(task_id=name) for name in ("pending", "retried", "running", "succeeded", "failed")}
    await store.insert_tasks(list(tasks.values()))
    for name, task in tasks.items():
        if name != "pending":
            tasks[name] = await change(store, task, transitions.claim(task, make_lease(name), NOW))
    failure, moment = Failure("E", "m"), at(NOW, jitter=0.5)
    after = {
        "retried": transitions.fail(tasks["retried"], "retried", failure, moment, retryable=True),
        "succeeded": transitions.complete(tasks["succeeded"], "succeeded", b"", moment),
        "failed": transitions.fail(tasks["failed"], "failed", failure, moment, retryable=False),
    }
    for name, task in after.items():
        tasks[name] = await change(store, tasks[name], task)
    return tasks


async def test_ready_are_the_pending_tasks_whose_time_has_come(store: Store) -> None:
    """From `due_at` on, that moment included; nothing that runs or has ended."""
    tasks = await in_every_status(store)
    retry_at = tasks["retried"].due_at
    assert await ready(store, NOW - MILLISECOND) == []
    assert await ready(store, NOW) == ["pending"]
    assert await ready(store, retry_at - MILLISECOND) == ["pending"]
    assert await ready(store, retry_at) == ["pending", "retried"]
    assert await ready(store, retry_at, NOW) == ["pending", "retried"]
    assert await ready(store, retry_at, NOW + MILLISECOND) == ["retried"]
    assert await ready(store, retry_at, retry_at) == ["retried"]


async def test_a_ready_task_comes_without_its_payload(store: Store) -> None:
    """What a queue needs to know of it, and no more."""
    task = make_task(priority=HIGH, now=NOW - SECOND, schedule_time=NOW)
    await store.insert_tasks([task])
    (found,) = await store.ready_tasks(QUEUE, HIGH, EPOCH, NOW, 10)
    assert found == Waiting(task.key, "data_pipeline", HIGH, NOW - SECOND, NOW)


async def test_ready_tasks_are_of_one_queue_and_one_priority(store: Store) -> None:
    """A name is no pattern, and none reaches into another queue."""
    await store.insert_tasks(
        [
            make_task(task_id="ours"),
            make_task(task_id="low", priority=LOW),
            make_task(task_id="other-type", task_type="a"),
            make_task(task_id="other-workspace", workspace="ws-2"),
        ]
    )
    assert await ready(store, NOW) == ["ours"]
    assert ids(await store.ready_tasks(Queue("ws-1", "a"), NORMAL, EPOCH, NOW, 10)) == ["other-type"]
    assert ids(await store.ready_tasks(Queue("ws-2", "data_pipeline"), NORMAL, EPOCH, NOW, 10)) == ["other-workspace"]
    for queue in (Queue("ws-1", ".*"), Queue("ws-3", "a"), Queue("", "running"), Queue("ws-1", "ended")):
        assert await store.ready_tasks(queue, NORMAL, EPOCH, NOW, 10) == []


async def test_no_more_than_the_limit_are_ready_those_due_first(store: Store) -> None:
    """Whatever order they were added in."""
    tasks = [make_task(task_id=str(n), now=NOW + n * MILLISECOND) for n in (3, 1, 4, 0, 2)]
    await store.insert_tasks(tasks)
    found = await store.ready_tasks(QUEUE, NORMAL, EPOCH, NOW + SECOND, 3)
    assert ids(found) == ["0", "1", "2"]


async def test_a_running_task_is_overdue_when_its_lease_has_ended(store: Store) -> None:
    """From `due_at` on, that moment included; an extended lease ends later."""
    running = (await in_every_status(store))["running"]
    end = running.due_at
    assert await overdue(store, end - MILLISECOND, 10) == []
    assert await overdue(store, end, 10) == [running.key]
    await change(store, running, transitions.extend(running, "running", end + SECOND))
    assert await overdue(store, end, 10) == []
    assert await overdue(store, end + SECOND, 10) == [running.key]


async def test_a_waiting_task_is_overdue_at_its_deadline(store: Store) -> None:
    """That moment included, as often as it is asked, until it has ended."""
    task = make_task(terms=SOON)
    await store.insert_tasks([task, make_task()])
    end = NOW + 10 * SECOND
    assert await overdue(store, end - MILLISECOND, 10) == []
    for _ in range(2):
        assert await overdue(store, end, 10) == [task.key]
    await change(store, task, transitions.time_out(task, at(end)))
    assert await overdue(store, end + SECOND, 10) == []


async def test_what_is_overdue_is_gone_through_part_by_part(store: Store) -> None:
    """Of each kind so many, behind those that were had before."""
    waiting = [make_task(terms=SOON) for _ in range(7)]
    running = [make_task() for _ in range(5)]
    await store.insert_tasks([*waiting, *running])
    claims = [transitions.claim(task, make_lease(), NOW) for task in running]
    assert all(await store.update_tasks(list(map(Change, running, claims))))
    parts = [await overdue(store, NOW + 1000 * SECOND, 3, skip) for skip in (0, 3, 6, 9)]
    assert [len(part) for part in parts] == [6, 5, 1, 0]
    assert {key for part in parts for key in part} == {task.key for task in (*waiting, *running)}


async def test_of_those_whose_time_is_over_the_last_can_be_had_first(store: Store) -> None:
    """After a moment, up to the limit; what is over before it, or not yet, is not among them."""
    tasks = [make_task(now=NOW + n * SECOND, terms=SOON) for n in (3, 1, 4, 0, 2)]
    await store.insert_tasks(tasks)
    last, first, over = tasks[0].key, tasks[4].key, NOW + 13 * SECOND
    assert await store.late_tasks(over, 2, since=NOW) == [last, first]
    assert await store.late_tasks(over, 5, since=NOW + 11 * SECOND) == [last, first]
    assert await store.late_tasks(over, 5, since=over) == []
    assert await store.late_tasks(over, 1, 1, NOW) == [first]


async def test_a_task_with_an_old_timer_is_late_by_its_own_deadline(mongo: MongoStore) -> None:
    """One that waits again, or ends by the later of two times, or has already begun."""
    both = make_task(terms=Terms(schedule_to_start=10 * SECOND, schedule_to_close=20 * SECOND))
    closing, begun = make_task(terms=Terms(schedule_to_close=20 * SECOND)), make_task(terms=SOON)
    await mongo.insert_tasks([both, closing, begun])
    await change(mongo, begun, transitions.claim(begun, make_lease(ends=NOW + 99 * SECOND), NOW))
    early = [replace(task, start_by=NOW + SECOND) for task in (both, closing, begun)]
    await mongo._timers.set(early)
    assert await mongo.late_tasks(NOW + 9 * SECOND, 10) == []
    assert await mongo.late_tasks(NOW + 10 * SECOND, 10) == [both.key]
    assert await mongo.late_tasks(NOW + 20 * SECOND, 10, known=[both.key]) == [both.key, closing.key]


async def test_a_task_that_began_in_time_is_not_overdue(store: Store) -> None:
    """Nor one that has ended, however often it is looked at. One that waits again has a new deadline."""
    tasks = [make_task(terms=SOON) for _ in range(3)]
    await store.insert_tasks(tasks)
    lease = make_lease("token", ends=NOW + 100 * SECOND)
    running, ended, again = [await change(store, task, transitions.claim(task, lease, NOW)) for task in tasks]
    await change(store, ended, transitions.complete(ended, "token", b"", at(NOW)))
    again = await change(
        store, again, transitions.fail(again, "token", Failure("E", "m"), at(NOW), retryable=True, delay=5 * SECOND)
    )
    for _ in range(2):
        assert await overdue(store, NOW + 14 * SECOND, 10) == []
    assert await overdue(store, NOW + 15 * SECOND, 10) == [again.key]
    # One whose timer has been looked at, and found to be for nothing.
    again = await change(
        store,
        running,
        transitions.fail(running, "token", Failure("E", "m"), at(NOW + 20 * SECOND), retryable=True, delay=SECOND),
    )
    assert running.key not in await overdue(store, NOW + 30 * SECOND, 10)
    assert running.key in await overdue(store, NOW + 31 * SECOND, 10)


async def test_a_deadline_counts_from_a_later_schedule_time(store: Store) -> None:
    """A task that may run tomorrow is not late today; and `schedule_to_close` ends a wait as well."""
    tomorrow = NOW + 86400 * SECOND
    scheduled = make_task(terms=SOON, schedule_time=tomorrow)
    closing = make_task(terms=Terms(schedule_to_close=20 * SECOND))
    await store.insert_tasks([scheduled, closing])
    assert await overdue(store, tomorrow, 10) == [closing.key]
    assert set(await overdue(store, tomorrow + 10 * SECOND, 10)) == {closing.key, scheduled.key}


async def test_no_more_of_each_kind_than_the_limit_are_overdue(store: Store) -> None:
    """But as many, though more timers than that are due for nothing."""
    started = [make_task(terms=SOON) for _ in range(30)]
    late = [make_task(terms=SOON) for _ in range(7)]
    await store.insert_tasks(started)
    claims = [Change(task, transitions.claim(task, make_lease(ends=NOW + 20 * SECOND), NOW)) for task in started]
    assert all(await store.update_tasks(claims))
    await store.insert_tasks(late)
    found = await overdue(store, NOW + 10 * SECOND, 5)
    assert len(found) == 5
    assert set(found) <= {task.key for task in late}
    assert len(set(await overdue(store, NOW + 20 * SECOND, 5))) == 10


async def test_a_timer_outlives_a_write_that_is_not_there_yet(mongo: MongoStore) -> None:
    """One looked at between the writes of timer and task, where nothing is yet, or an older version.

    It is kept for a while, since the write may still come. A write that never comes leaves no timer for ever.
    """
    new, old, never = make_task(terms=SOON), make_task(terms=SOON), make_task(terms=SOON)
    await mongo.insert_tasks([old])
    running = await change(mongo, old, transitions.claim(old, make_lease("t", ends=NOW + 999 * SECOND), NOW))
    waits = transitions.fail(running, "t", Failure("E", "m"), at(NOW), retryable=True, delay=SECOND)
    await mongo._timers.set([new, waits, never])
    late = NOW + 60 * SECOND
    assert await overdue(mongo, late, 10) == []
    await mongo._tasks.insert_one(documents.from_task(new))
    await mongo._tasks.update_one({"_id": documents.primary_key(old.key)}, documents.update(running, waits))
    assert set(await overdue(mongo, late + 60 * SECOND, 10)) == {new.key, old.key}
    assert {timer["_id"] async for timer in mongo._database.timers.find()} == {
        documents.primary_key(task.key) for task in (new, old)
    }


class Meanwhile:
    """A collection in which something happens between the moment that it is read and the moment that this is known."""

    def __init__(self, collection: Any, happens: Callable[[], Awaitable[object]]) -> None:
        self._collection = collection
        self._happens = happens

    def find(self, *args: Any, **options: Any) -> "Meanwhile":
        return Meanwhile(self._collection.find(*args, **options), self._happens)

    async def to_list(self, length: int | None) -> list[Any]:
        found: list[Any] = await self._collection.to_list(length)
        await self._happens()
        return found


async def test_what_mends_a_timer_leaves_one_that_was_set_meanwhile(mongo: MongoStore) -> None:
    """The task waits again, with its timer just set, when the sweep has found it running and would delete the timer."""
    task = make_task(terms=SOON)
    await mongo.insert_tasks([task])
    running = await change(mongo, task, transitions.claim(task, make_lease("t", ends=NOW + 999 * SECOND), NOW))
    waits = transitions.fail(running, "t", Failure("E", "m"), at(NOW), retryable=True, delay=5 * SECOND)
    swept = timers.Timers(
        mongo._database.timers, cast("Collection", Meanwhile(mongo._tasks, lambda: change(mongo, running, waits)))
    )
    assert (await swept.due(NOW + 10 * SECOND, 10))[0] == []
    assert await overdue(mongo, NOW + 14 * SECOND, 10) == []
    assert await overdue(mongo, NOW + 15 * SECOND, 10) == [task.key]


async def test_a_lost_write_does_not_put_a_deadline_off(store: Store) -> None:
    """A server that decided on the past may have set a later timer: the task is found at its own deadline."""
    task = make_task(terms=Terms(schedule_to_start=SECOND))
    await store.insert_tasks([task])
    running = await change(store, task, transitions.claim(task, make_lease("t"), NOW))
    failure = Failure("E", "m")
    soon = transitions.fail(running, "t", failure, at(NOW), retryable=True, delay=SECOND)
    later = transitions.fail(running, "t", failure, at(NOW), retryable=True, delay=99 * SECOND)
    await change(store, running, soon)
    assert await store.update_tasks([Change(running, later)]) == [False]
    assert await overdue(store, NOW + 2 * SECOND, 10) == [task.key]


async def test_a_lost_submit_does_not_put_a_deadline_off(store: Store) -> None:
    """It has set a timer for a later version that never comes, and was looked at for nothing before the deadline."""
    task = make_task(terms=SOON)
    again = make_task(task_id=task.id, terms=Terms(schedule_to_start=SECOND), now=NOW + 2 * SECOND)
    await store.insert_tasks([task])
    assert (await store.insert_tasks([again]))[0].version == task.version
    for seconds in (3, 9):
        assert await overdue(store, NOW + seconds * SECOND, 10) == []
    assert await overdue(store, NOW + 10 * SECOND, 10) == [task.key]


async def test_a_timer_that_is_mended_outlives_a_write_that_is_not_there_yet(mongo: MongoStore) -> None:
    """That was found to be for nothing, at the deadline of the version before; and for a while, but not for ever."""
    task = make_task(terms=SOON)
    await mongo.insert_tasks([task])
    ended = transitions.time_out(task, at(NOW + 10 * SECOND))
    coming = transitions.retry(ended, NOW + 20 * SECOND)
    await mongo._timers.set([replace(coming, start_by=NOW + SECOND)])
    assert await overdue(mongo, NOW + SECOND, 10) == []
    await change(mongo, task, ended)
    for seconds in (10, 60):
        assert await overdue(mongo, NOW + seconds * SECOND, 10) == []
        assert len(await mongo._database.timers.find().to_list(None)) == 1
    assert await overdue(mongo, NOW + 61 * SECOND, 10) == []
    assert await mongo._database.timers.find().to_list(None) == []


@pytest.mark.parametrize("together", [True, False])
async def test_ended_tasks_are_deleted_when_they_are_due(store: Store, together: bool) -> None:
    """From `due_at` on, up to the limit in one go; nothing else is, whenever it is due."""
    others = await in_every_status(store)
    tasks = [make_task(workspace=f"ws-{n % 3}") for n in range(10)]
    ends = [transitions.cancel(task, "", at(NOW + (0 if together else n) * SECOND)) for n, task in enumerate(tasks)]
    await store.insert_tasks(tasks)
    assert all(await store.update_tasks(list(map(Change, tasks, ends))))
    over = ends[-1].due_at
    # In every_status, two have ended at NOW.
    assert await store.delete_ended(NOW + RETENTION - MILLISECOND, 100) == 0
    assert [await store.delete_ended(over, 5) for _ in range(4)] == [5, 5, 2, 0]
    left = await store.get_tasks([task.key for task in [*tasks, *others.values()]])
    assert left.keys() == {others[name].key for name in ("pending", "running", "retried")}


async def test_ended_tasks_with_a_key_are_deleted_one_by_one(store: Store) -> None:
    """When they are superseded; they are found from `due_at` on, up to the limit, and not taken for others."""
    await in_every_status(store)
    tasks = [make_task(dedupe_key=str(n), terms=SOON if n else Terms()) for n in range(4)]
    await store.insert_tasks(tasks)
    ended = [await change(store, task, transitions.cancel(task, "", at(NOW))) for task in tasks[:3]]
    over = NOW + RETENTION
    assert await store.ended_with_key(over - MILLISECOND, 10) == []
    assert set(await store.ended_with_key(over, 10)) == {task.key for task in ended}
    assert len(await store.ended_with_key(over, 2)) == 2
    assert await store.ended_with_key(over, 0) == []
    superseded = await change(store, ended[0], transitions.supersede(ended[0], over))
    assert set(await store.ended_with_key(over, 10)) == {task.key for task in ended[1:]}
    assert superseded.key in await store.ended_with_key(superseded.due_at, 10)
    assert await store.delete_ended(over + 99 * SECOND, 10) == 2, "those of in_every_status"
    await store.delete_superseded([task.key for task in tasks])
    assert (await store.get_tasks([task.key for task in tasks])).keys() == {task.key for task in tasks[1:]}
    assert tasks[3].key in await overdue(store, over, 10), "it waits, and its time runs out as ever"


@pytest.mark.parametrize("key", ["", "key"])
async def test_no_timer_outlives_its_task(mongo: MongoStore, key: str) -> None:
    """However far off its deadline is; one that is for a retry under way, or for the next task of the id, stays."""
    terms = Terms(schedule_to_close=30 * 86400 * SECOND, schedule_to_start=86400 * SECOND)
    tasks = [make_task(terms=terms, dedupe_key=key and f"key-{n}") for n in range(5)]
    await mongo.insert_tasks(tasks)
    ended = [await change(mongo, task, transitions.cancel(task, "", at(NOW))) for task in tasks]
    coming = transitions.retry(ended[0], NOW + SECOND)
    await mongo._timers.set([coming])
    if key:
        superseded = [await change(mongo, task, transitions.supersede(task, NOW)) for task in ended]
        await mongo._timers.set([replace(coming, version=superseded[0].version + 1)])
        await mongo.delete_superseded([task.key for task in tasks])
    else:
        assert await mongo.delete_ended(NOW + RETENTION, 10) == 5
    assert not await mongo.get_tasks([task.key for task in tasks])
    left = [timer["_id"] async for timer in mongo._database.timers.find()]
    assert left == [documents.primary_key(coming.key)]


async def test_a_task_that_is_retried_in_time_is_not_deleted(store: Store) -> None:
    """It has not ended any more."""
    task = make_task()
    await store.insert_tasks([task])
    cancelled = await change(store, task, transitions.cancel(task, "", at(NOW)))
    again = await change(store, cancelled, transitions.retry(cancelled, NOW + SECOND))
    assert await store.delete_ended(NOW + 2 * RETENTION, 10) == 0
    assert await store.get_tasks([Key("ws-1", task.id)]) == {task.key: again}


async def test_a_look_that_takes_too_long_is_given_up(mongo: MongoStore) -> None:
    """It says so rather than fail, and the connection goes on; what is asked for without a limit of time is read."""
    await mongo.insert_tasks([make_task(now=NOW - number * MILLISECOND) for number in range(500)])
    with pytest.raises(TooMuch):
        await mongo.ready_tasks(QUEUE, NORMAL, EPOCH, NOW, 500, within=0.001)
    assert len(await mongo.ready_tasks(QUEUE, NORMAL, EPOCH, NOW, 500)) == 500


async def test_those_that_wait_are_counted(store: Store) -> None:
    """Whatever their priority and whenever they are due; of these queues, and no further than is asked."""
    await in_every_status(store)
    await store.insert_tasks([make_task(priority=HIGH), make_task(priority=LOW, schedule_time=NOW + 1000 * SECOND)])
    await store.insert_tasks([make_task(task_type="other"), make_task(workspace="ws-2")])
    other = Queue("ws-1", "other")
    assert await store.count_waiting([QUEUE], 100, 60) == 4
    assert await store.count_waiting([QUEUE, other, Queue("ws-1", "none")], 100, 60) == 5
    assert await store.count_waiting([QUEUE], 3, 60) == 3
    assert await store.count_waiting([QUEUE], 0, 60) == await store.count_waiting([], 100, 60) == 0


async def test_what_would_take_too_long_is_not_counted(mongo: MongoStore) -> None:
    """The embedded server would count on, whoever had given up: so it is not asked."""
    await mongo.insert_tasks([make_task() for _ in range(20)])
    assert await mongo.count_waiting([QUEUE], 100, 60) == 20
    with pytest.raises(TooMuch):
        await mongo.count_waiting([QUEUE], 100, 0.001)
