"""What time does to tasks: the four timeouts, the time to begin, and retention."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support import virtual
from support.engine import LEASE, Engine, Worker, tenant
from support.samples import NOW, make_task

from openmcp_chain.domain import errors
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import HIGH, Failure, Status, Task, Terms, View
from openmcp_chain.engine import clock, dispatch, moments, sweep

PATIENT = RetryPolicy(timedelta(seconds=1), 1.0, timedelta(seconds=1), 3)


def terms(**seconds: float) -> Terms:
    """Timeouts, in seconds."""
    spans: dict[str, Any] = {name: timedelta(seconds=value) for name, value in seconds.items()}
    return Terms(retry=PATIENT, **spans)


async def after(seconds: float) -> None:
    """Shortly after so many seconds from the beginning: a sweep has been made by then."""
    await asyncio.sleep(
        seconds - asyncio.get_running_loop().time() + virtual.BEGIN_SECONDS + sweep.INTERVAL_SECONDS + 0.1
    )


def failure(engine: Engine, task: Task) -> tuple[Status, str]:
    ended = engine.task(task.key)
    return ended.status, ended.failure.code if ended.failure else ""


async def beat(worker: Worker, task: Task, seconds: float) -> None:
    """Heartbeats for so long, or until they are refused."""
    for _ in range(round(seconds)):
        await asyncio.sleep(1)
        await worker.heartbeat(task)


async def test_a_task_that_nobody_starts_in_time_fails() -> None:
    """SCHEDULE_TO_START_TIMEOUT, soon after that time and not before it; nobody gets it afterwards."""
    engine = Engine().start()
    task = await engine.submit(terms=terms(schedule_to_start=60))
    await asyncio.sleep(59.9)
    assert engine.task(task.key).status is Status.PENDING
    await after(60)
    assert failure(engine, task) == (Status.FAILED, "SCHEDULE_TO_START_TIMEOUT")
    worker = engine.worker()
    await asyncio.sleep(LEASE)
    assert worker.inbox.empty()


async def test_the_time_to_start_runs_from_when_it_may() -> None:
    """From schedule_time, and anew for each attempt."""
    engine = Engine().start()
    engine.app.leases._chance = lambda: 0.999
    task = await engine.submit(
        schedule_time=virtual.clock() + timedelta(seconds=100), terms=terms(schedule_to_start=60)
    )
    await after(150)
    worker = engine.worker()
    await worker.fail(await worker.next())
    worker.leave()
    await after(205)
    assert failure(engine, task) == (Status.PENDING, "")
    await after(215)
    assert failure(engine, task) == (Status.FAILED, "SCHEDULE_TO_START_TIMEOUT")


async def test_an_attempt_that_takes_too_long_is_tried_again() -> None:
    """START_TO_CLOSE_TIMEOUT, though its worker is alive; the last attempt's is the task's end."""
    engine = Engine().start()
    worker = engine.worker(room=3)
    await engine.submit(terms=terms(start_to_close=40))
    for attempt in (1, 2, 3):
        task = await worker.next()
        assert task.attempt == attempt
        with pytest.raises(errors.LeaseLost):
            await beat(worker, task, 50)
        ends = [event for event in engine.task(task.key).events if "code" in event.context]
        assert [event.context["code"] for event in ends] == ["START_TO_CLOSE_TIMEOUT"] * attempt
    assert failure(engine, task) == (Status.FAILED, "START_TO_CLOSE_TIMEOUT")


async def test_an_attempt_that_ends_in_time_is_not_cut() -> None:
    """A completion a moment before the deadline counts, heartbeats or not."""
    engine = Engine().start()
    worker = engine.worker()
    await engine.submit(terms=terms(start_to_close=10))
    task = await worker.next()
    await asyncio.sleep(9.999)
    await worker.complete(task)
    assert engine.task(task.key).status is Status.SUCCEEDED


async def test_a_task_that_takes_too_long_over_all_fails_while_it_waits() -> None:
    """SCHEDULE_TO_CLOSE_TIMEOUT, from the submit on."""
    engine = Engine().start()
    task = await engine.submit(terms=terms(schedule_to_close=90))
    await asyncio.sleep(89.9)
    assert engine.task(task.key).status is Status.PENDING
    await after(90)
    assert failure(engine, task) == (Status.FAILED, "SCHEDULE_TO_CLOSE_TIMEOUT")


async def test_a_task_that_takes_too_long_over_all_fails_while_it_runs() -> None:
    """SCHEDULE_TO_CLOSE_TIMEOUT; its worker is refused, and it is not tried again."""
    engine = Engine().start()
    worker = engine.worker()
    task = await engine.submit(terms=terms(schedule_to_close=60))
    with pytest.raises(errors.LeaseLost):
        await beat(worker, await worker.next(), 70)
    await after(60)
    assert failure(engine, task) == (Status.FAILED, "SCHEDULE_TO_CLOSE_TIMEOUT")


async def test_no_attempt_is_promised_that_would_come_too_late() -> None:
    """A failure whose retry would be due after the end of all is the end, with its own code."""
    engine = Engine().start()
    engine.app.leases._chance = lambda: 0.999
    worker = engine.worker()
    task = await engine.submit(terms=terms(schedule_to_close=30))
    given = await worker.next()
    await beat(worker, given, 29)
    await asyncio.sleep(0.5)
    await worker.fail(given)
    assert failure(engine, task) == (Status.FAILED, "BROKEN")


async def test_the_time_over_all_begins_anew_with_a_retry_by_hand() -> None:
    """Or it could not be tried again at all."""
    engine = Engine().start()
    task = await engine.submit(terms=terms(schedule_to_close=30))
    await after(30)
    await engine.app.tasks.retry(tenant(), task.id)
    await asyncio.sleep(20)
    worker = engine.worker()
    await worker.complete(await worker.next())


async def test_a_worker_may_be_silent_for_as_long_as_the_task_says() -> None:
    """The heartbeat timeout takes the place of the server's own, be it shorter or longer."""
    engine = Engine().start()
    engine.app.leases._chance = lambda: 0.999
    worker = engine.worker(room=2)
    hasty = await engine.submit(terms=terms(heartbeat=2))
    calm = await engine.submit(terms=terms(heartbeat=600))
    await worker.next()
    kept = await worker.next()
    await after(2)
    assert engine.task(hasty.key).events[-1].context["code"] == "LEASE_EXPIRED"
    await asyncio.sleep(590)
    await worker.heartbeat(kept)
    await asyncio.sleep(590)
    await worker.complete(kept)
    assert engine.task(calm.key).attempt == 1


async def test_a_scheduled_task_waits_for_its_time() -> None:
    """It is given out then, by the process that took it and without a sweep; its first event says so."""
    engine = Engine()
    worker = engine.worker()
    begin = virtual.clock()
    task = await engine.submit(schedule_time=begin + timedelta(seconds=1000))
    await asyncio.sleep(999.9)
    assert worker.inbox.empty()
    given = await worker.next()
    scheduled, started = engine.task(given.key).events
    assert scheduled.context == {"scheduled": True, "ready_in_ms": 1_000_000}
    assert started.at - begin == timedelta(seconds=1000)
    assert given.key == task.key


async def test_scheduled_tasks_past_what_memory_keeps_are_given_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are too many, or too far ahead, are found by the sweep, and when their time comes."""
    monkeypatch.setattr(dispatch, "LATER", 5)
    monkeypatch.setattr(dispatch, "LATER_SECONDS", 200.0)
    engine = Engine().start()
    worker = engine.worker(room=20)
    begin = virtual.clock()
    for seconds in (*[100] * 10, 300):
        await engine.submit(schedule_time=begin + timedelta(seconds=seconds))
    for seconds, count in ((100, 10), (300, 1)):
        await after(seconds - 1)
        assert worker.inbox.empty()
        await after(seconds)
        assert worker.inbox.qsize() == count
        for _ in range(count):
            await worker.complete(await worker.next())


async def test_very_many_of_one_moment_are_due_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of their arrival, none early: so no span has more of a queue than can be read at once."""
    monkeypatch.setattr(moments, "TOGETHER", 5)
    monkeypatch.setattr(moments, "SPANS", 4)
    engine = Engine()
    worker = engine.worker(room=20, workspace="ws-1")
    at = datetime.fromtimestamp(int(virtual.clock().timestamp()) + 100, UTC)
    crowd = [await engine.submit(schedule_time=at) for _ in range(10)]
    others = [
        await engine.submit(priority=HIGH, schedule_time=at),
        await engine.submit(tenant("ws-2"), schedule_time=at),
        await engine.submit(task_type="other", schedule_time=at),
        await engine.submit(task_type="other"),
    ]
    late = [(task.due_at - at) // timedelta(milliseconds=1) for task in crowd]
    assert late == [0] * 5 + [100, 120, 140, 160, 180]
    assert {task.schedule_time for task in crowd} == {at}
    assert [task.scheduled_for for task in others] == [None] * 4
    await asyncio.sleep((at - virtual.clock()).total_seconds() - 0.1)
    assert worker.inbox.empty()
    given = [await worker.next() for _ in range(11)]
    due = {task.key: task.due_at for task in (*crowd, others[0])}
    assert [due[task.key] for task in given] == sorted(due.values())
    assert all(task.updated_at >= due[task.key] for task in given)
    for seconds in range(101, 105):
        await engine.submit(schedule_time=at + timedelta(seconds=seconds))
    assert len(engine.app.submission._moments._spans) == 4


@pytest.mark.parametrize(("apart", "slack"), [(1, None), (0, 500), (7, 20)])
def test_no_span_holds_a_crowd(apart: int, slack: int | None) -> None:
    """Neither of tasks some milliseconds apart, nor of those that must end soon after: wherever a span begins."""
    ahead = timedelta(hours=1)
    close = None if slack is None else ahead + timedelta(milliseconds=slack)
    counts, placing = Counter[int](), moments.Moments()
    for number in range(6000):
        at = NOW + ahead + timedelta(milliseconds=apart * number % 100)
        task = placing.place(make_task(schedule_time=at, terms=Terms(schedule_to_close=close)))
        assert task.schedule_time == at <= task.due_at
        counts[(task.due_at - NOW) // moments.SHORT] += 1
    assert max(counts.values()) <= 2 * sweep.HINTS
    assert len(counts) <= 7


async def test_a_scheduled_task_survives_the_process_that_took_it() -> None:
    """Any other gives it out when its time comes; a time that is past is now."""
    engine = Engine()
    alive = Engine(engine.store).start()
    at = virtual.clock() + timedelta(seconds=500)
    task = await engine.submit(schedule_time=at)
    worker = alive.worker()
    await asyncio.sleep(499.9)
    assert worker.inbox.empty()
    given = await worker.next()
    assert given.key == task.key
    assert given.updated_at == at
    now = await alive.submit(schedule_time=at - timedelta(days=1))
    assert now.events[0].context == {}
    assert now.due_at == now.submitted_at


async def test_a_scheduled_task_may_be_cancelled_or_time_out_before_its_time() -> None:
    """When its time comes, nobody gets it."""
    engine = Engine().start()
    worker = engine.worker(room=2)
    at = virtual.clock() + timedelta(seconds=100)
    cancelled = await engine.submit(schedule_time=at)
    late = await engine.submit(schedule_time=at, terms=terms(schedule_to_close=50))
    await engine.app.tasks.cancel(tenant(), cancelled.id, "")
    await after(50)
    assert failure(engine, late) == (Status.FAILED, "SCHEDULE_TO_CLOSE_TIMEOUT")
    await after(110)
    assert worker.inbox.empty()
    assert engine.task(cancelled.key).failure == Failure("CANCELLED", "on request")


async def test_ended_tasks_are_deleted_when_they_have_been_kept_for_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever their end; each by its own retention, and nothing that has not ended."""
    monkeypatch.setattr(sweep, "DELETED", 3)
    engine = Engine().start()
    worker = engine.worker()
    short, long = terms(retention=100), terms(retention=1000)
    waiting = await engine.submit(task_type="nobody's", terms=short)
    for number in range(10):
        task = await engine.submit(terms=short if number else long)
        given = await worker.next()
        match number % 3:
            case 0:
                await worker.complete(given)
            case 1:
                await worker.fail(given, retryable=False)
            case _:
                await engine.app.tasks.cancel(tenant(), task.id, "")
                await worker.stop(given)
    await asyncio.sleep(99)
    assert len(engine.store._tasks) == 11
    await asyncio.sleep(sweep.DELETE_SECONDS + 5)
    assert len(engine.store._tasks) == 2
    with pytest.raises(errors.TaskNotFound):
        await engine.app.tasks.get(tenant(), task.id, View.BASIC)
    await asyncio.sleep(1000)
    assert set(engine.store._tasks) == {waiting.key}


def test_the_machines_time_is_in_whole_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every store keeps them exactly; none is ahead of the time."""
    began = 1_795_845_711_000_000_000
    for nanoseconds in range(began, began + 10**9, 99_999_937):
        monkeypatch.setattr(time, "time_ns", lambda told=nanoseconds: told)
        at = clock.system()
        assert (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == nanoseconds // 10**6 * 1000
