"""An attempt, rule by rule: its lease, what its worker says meanwhile, how it ends, and whether another follows."""

from dataclasses import replace
from datetime import timedelta

import pytest
from support.samples import NOW, PROGRESS, SECOND, at, make_lease, make_task

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Event, Failure, Progress, Status, Task, Terms
from openmcp_chain.domain.transitions import (
    EVENTS,
    LEASE_EXPIRED,
    NOTES,
    SCHEDULE_TO_CLOSE,
    SCHEDULE_TO_START,
    START_TO_CLOSE,
)

LATER = NOW + 5 * SECOND
MOMENT = timedelta(milliseconds=1)
FAILURE = Failure("BROKEN", "it broke")
POLICY = RetryPolicy(maximum_attempts=2, non_retryable_error_codes=frozenset({"INPUT_NOT_FOUND"}))


def running(**terms: timedelta) -> Task:
    """In its first attempt, under the lease `token` for 30 seconds."""
    return transitions.claim(make_task(terms=Terms(POLICY, **terms)), make_lease("token"), NOW)


RUNNING = running()
LAST = replace(RUNNING, attempt=2)


# --- the claim


def test_a_claim_begins_an_attempt_under_the_lease() -> None:
    """The task is due when the lease ends; the event says which attempt, whose, and with which version of its code."""
    task = transitions.claim(make_task(), make_lease("token"), LATER, "1.2")
    assert (task.attempt, task.lease) == (1, make_lease("token"))
    assert task.due_at == make_lease().expires_at
    assert task.events[1] == Event(
        2, Status.RUNNING, LATER, {"attempt": 1, "worker": "worker-1", "worker_version": "1.2"}
    )
    assert RUNNING.events[1].context == {"attempt": 1, "worker": "worker-1"}


def test_a_task_is_not_claimed_before_its_time() -> None:
    """Neither one submitted for later nor one that waits to be tried again: a hint of it may be old."""
    scheduled = make_task(schedule_time=LATER)
    assert scheduled.events[0].context == {"scheduled": True, "ready_in_ms": (LATER - NOW) // timedelta(milliseconds=1)}
    failed = transitions.fail(RUNNING, "token", FAILURE, at(NOW), retryable=True, delay=5 * SECOND)
    for task in (scheduled, failed):
        with pytest.raises(errors.LeaseLost):
            transitions.claim(task, make_lease(), LATER - MOMENT)
        assert transitions.claim(task, make_lease(), LATER).status is Status.RUNNING


def test_one_of_very_many_of_a_time_is_due_later_and_keeps_its_time() -> None:
    """Until it is due; what counts from when it may run counts from then, and the end of its time stays."""
    terms = Terms(schedule_to_start=10 * SECOND)
    task = transitions.stagger(make_task(schedule_time=LATER, terms=terms), 3 * SECOND)
    assert (task.schedule_time, task.due_at, task.start_by) == (LATER, LATER + 3 * SECOND, LATER + 13 * SECOND)
    with pytest.raises(errors.LeaseLost):
        transitions.claim(task, make_lease(), task.due_at - MOMENT)
    claimed = transitions.claim(task, make_lease("token"), task.due_at)
    waits = transitions.fail(claimed, "token", FAILURE, at(LATER), retryable=True, delay=5 * SECOND)
    ended = transitions.cancel(task, "", at(LATER))
    assert [one.scheduled_for for one in (claimed, waits, ended)] == [None] * 3
    assert waits.schedule_time == waits.due_at == LATER + 5 * SECOND
    left = LATER - NOW + 2 * SECOND
    short = transitions.stagger(make_task(schedule_time=LATER, terms=Terms(schedule_to_close=left)), 3 * SECOND)
    assert (short.due_at, short.close_by, short.deadline) == (LATER + 3 * SECOND, LATER + 2 * SECOND, short.close_by)


def test_a_schedule_time_in_the_past_is_now() -> None:
    """And is nothing to tell."""
    task = make_task(schedule_time=NOW - SECOND)
    assert (task.due_at, task.events[0].context) == (NOW, {})


def test_a_lease_does_not_outlast_its_attempt() -> None:
    """It ends with start_to_close, or with schedule_to_close if that comes first; a heartbeat doesn't change that."""
    for terms, deadline in (
        ({"start_to_close": 10 * SECOND}, NOW + 10 * SECOND),
        ({"start_to_close": 10 * SECOND, "schedule_to_close": 8 * SECOND}, NOW + 8 * SECOND),
        ({"start_to_close": 60 * SECOND}, NOW + 60 * SECOND),
    ):
        task = running(**terms)
        assert task.lease
        assert task.lease.deadline == deadline
        assert task.due_at == task.lease.expires_at == min(deadline, NOW + 30 * SECOND)
        extended = transitions.extend(task, "token", NOW + 90 * SECOND)
        assert extended.lease
        assert extended.due_at == extended.lease.expires_at == deadline


# --- meanwhile


def test_an_extension_moves_the_lease_and_tells_nobody() -> None:
    """A heartbeat is no event, and `updated_at` is that of the last event."""
    after = transitions.extend(RUNNING, "token", LATER + 60 * SECOND)
    assert after.lease == make_lease("token", ends=LATER + 60 * SECOND)
    assert after.due_at == LATER + 60 * SECOND
    assert (after.events, after.updated_at) == (RUNNING.events, RUNNING.updated_at)
    assert transitions.complete(after, "token", b"", at(LATER)).events[-1].seq == 3


def test_an_extension_never_shortens_a_lease() -> None:
    """A server whose clock is behind takes nothing from what another one promised."""
    assert transitions.extend(RUNNING, "token", NOW + 29 * SECOND) is RUNNING
    trace = transitions.extend(RUNNING, "token", NOW + 29 * SECOND, trace=True)
    assert trace.lease
    assert RUNNING.lease
    assert trace == replace(RUNNING, version=RUNNING.version + 1, lease=replace(RUNNING.lease, heard=1))


def test_progress_is_state_and_event() -> None:
    """It replaces what was said before; the same again is nothing new."""
    one = transitions.note(RUNNING, "token", LATER, progress=PROGRESS)
    assert (one.progress, one.notes, one.updated_at) == (PROGRESS, 1, LATER)
    assert one.events[-1] == Event(3, Status.RUNNING, LATER, {"attempt": 1, "progress": 0.5, "message": "half"})
    assert transitions.note(one, "token", LATER, progress=PROGRESS) is one
    assert transitions.note(one, "token", LATER) is one
    assert transitions.note(one, "token", LATER, progress=Progress(1.0, "")).progress == Progress(1.0, "")


def test_a_line_is_an_event_each_time() -> None:
    """The same words twice are two lines; progress stays what it was."""
    task = transitions.note(RUNNING, "token", NOW, progress=PROGRESS)
    for _ in range(2):
        task = transitions.note(task, "token", LATER, line="hello")
        assert task.events[-1].context == {"attempt": 1, "log": "hello"}
    assert (task.progress, task.notes) == (PROGRESS, 3)


def test_when_the_notes_are_full_progress_goes_on_and_lines_are_refused() -> None:
    """So that a talkative worker can't make a task too large to be stored."""
    full = RUNNING
    for number in range(NOTES):
        full = transitions.note(full, "token", NOW, line=f"line {number}")
    with pytest.raises(errors.EventsFull):
        transitions.note(full, "token", LATER, line="one more")
    after = transitions.note(full, "token", LATER, progress=PROGRESS)
    assert (after.progress, after.notes, after.events) == (PROGRESS, NOTES, full.events)
    assert after.version == full.version + 1


def test_progress_is_that_of_the_present_attempt() -> None:
    """It can be read while the task waits, and begins anew with the next attempt."""
    waiting = transitions.fail(
        transitions.note(RUNNING, "token", NOW, progress=PROGRESS), "token", FAILURE, at(NOW), retryable=True
    )
    assert waiting.progress == PROGRESS
    assert transitions.claim(waiting, make_lease(), NOW).progress is None


# --- how it ends


def test_a_failed_attempt_waits_for_the_next() -> None:
    """Until the backoff is over; the event says why and for how long."""
    after = transitions.fail(RUNNING, "token", FAILURE, at(LATER, jitter=0.5), retryable=True)
    assert (after.status, after.lease, after.due_at) == (Status.PENDING, RUNNING.lease, LATER + 250 * MOMENT)
    assert after.events[-1] == Event(
        3, Status.PENDING, LATER, {"attempt": 1, "code": "BROKEN", "message": "it broke", "retry_in_ms": 250}
    )
    assert (after.failure, after.start_by) == (None, None)


def test_a_worker_may_say_when_to_try_again() -> None:
    """In place of the retry policy."""
    after = transitions.fail(RUNNING, "token", FAILURE, at(LATER, jitter=0.5), retryable=True, delay=90 * SECOND)
    assert (after.due_at, after.events[-1].context["retry_in_ms"]) == (LATER + 90 * SECOND, 90_000)


@pytest.mark.parametrize(
    ("task", "code", "retryable"),
    [(RUNNING, "BROKEN", False), (RUNNING, "INPUT_NOT_FOUND", True), (LAST, "BROKEN", True)],
    ids=["not retryable", "never retried code", "last"],
)
def test_a_failure_that_is_not_tried_again_ends_the_task(task: Task, code: str, retryable: bool) -> None:
    """With the failure, and the day that it is deleted."""
    moment = at(LATER)
    after = transitions.fail(task, "token", Failure(code, "why"), moment, retryable=retryable)
    assert (after.status, after.failure) == (Status.FAILED, Failure(code, "why"))
    assert after.due_at == LATER + moment.retention
    kept = transitions.fail(
        replace(task, terms=replace(task.terms, retention=SECOND)), "token", FAILURE, moment, retryable=False
    )
    assert kept.due_at == LATER + SECOND


def test_there_is_no_further_attempt_for_which_no_time_is_left() -> None:
    """If it could begin only when all of it must have ended, the task has failed as its attempt has."""
    task = running(schedule_to_close=10 * SECOND)
    for delay, status in ((4999 * MOMENT, Status.PENDING), (5 * SECOND, Status.FAILED)):
        after = transitions.fail(task, "token", FAILURE, at(LATER), retryable=True, delay=delay)
        assert (after.status, after.failure) == (status, FAILURE if status is Status.FAILED else None)


def test_a_lease_expires_when_it_ends_and_not_before() -> None:
    """At `expires_at` it is over, a moment earlier it isn't; the task says that its worker stopped reporting."""
    end = make_lease().expires_at
    with pytest.raises(errors.LeaseLost):
        transitions.expire(RUNNING, at(end - MOMENT))
    assert transitions.expire(LAST, at(end)).failure == LEASE_EXPIRED
    assert transitions.expire(RUNNING, at(end)).status is Status.PENDING


@pytest.mark.parametrize("late", [0, 3600])
def test_an_attempt_that_takes_too_long_is_tried_again(late: int) -> None:
    """A living worker's lease ends at start_to_close; a silent one's before. How late that is found doesn't matter."""
    task = replace(running(start_to_close=60 * SECOND), attempt=2)
    alive = transitions.extend(task, "token", NOW + 90 * SECOND)
    with pytest.raises(errors.LeaseLost):
        transitions.expire(alive, at(NOW + 60 * SECOND - MOMENT))
    assert transitions.expire(alive, at(NOW + (60 + late) * SECOND)).failure == START_TO_CLOSE
    assert transitions.expire(task, at(NOW + (30 + late) * SECOND)).failure == LEASE_EXPIRED
    assert transitions.expire(replace(alive, attempt=1), at(NOW + 60 * SECOND)).status is Status.PENDING


def test_when_all_of_it_takes_too_long_it_has_failed() -> None:
    """Though it has attempts left: running or waiting."""
    task = running(schedule_to_close=20 * SECOND)
    assert transitions.expire(task, at(NOW + 20 * SECOND)).failure == SCHEDULE_TO_CLOSE
    waiting = transitions.release(task, "token", FAILURE, at(LATER))
    with pytest.raises(errors.LeaseLost):
        transitions.time_out(waiting, at(NOW + 20 * SECOND - MOMENT))
    assert transitions.time_out(waiting, at(NOW + 20 * SECOND)).failure == SCHEDULE_TO_CLOSE
    with pytest.raises(errors.LeaseLost):
        transitions.claim(waiting, make_lease(), NOW + 20 * SECOND)


def test_a_task_that_no_worker_takes_in_time_has_failed() -> None:
    """Counted from when it may run: from its schedule_time, and again from when it may be tried again."""
    task = make_task(schedule_time=LATER, terms=Terms(POLICY, schedule_to_start=10 * SECOND))
    assert task.deadline == task.start_by == LATER + 10 * SECOND
    with pytest.raises(errors.LeaseLost):
        transitions.time_out(task, at(LATER + 10 * SECOND - MOMENT))
    out = transitions.time_out(task, at(LATER + 10 * SECOND))
    assert (out.status, out.failure, out.start_by) == (Status.FAILED, SCHEDULE_TO_START, None)
    assert out.events[-1].context == {"code": SCHEDULE_TO_START.code, "message": SCHEDULE_TO_START.message}
    leased = transitions.claim(task, make_lease("token"), LATER)
    assert (leased.deadline, leased.start_by) == (None, None)
    again = transitions.fail(leased, "token", FAILURE, at(LATER), retryable=True, delay=20 * SECOND)
    assert again.start_by == LATER + 30 * SECOND


def test_an_attempt_that_never_reached_its_worker_does_not_count() -> None:
    """The task waits again at once; the event says why."""
    after = transitions.release(LAST, "token", Failure("WORKER_GONE", "gone"), at(LATER))
    assert (after.status, after.attempt, after.lease, after.due_at) == (Status.PENDING, 1, None, LATER)
    assert after.events[-1].context == {"attempt": 2, "code": "WORKER_GONE", "message": "gone"}


def test_attempts_that_never_reach_a_worker_count_in_the_end() -> None:
    """Once the task has as many events as are kept: so nothing goes on for ever."""
    task = make_task(terms=Terms(POLICY))
    for _ in range(EVENTS):
        task = transitions.release(transitions.claim(task, make_lease("token"), NOW), "token", FAILURE, at(NOW))
        if task.status.terminal:
            break
    assert task.status is Status.FAILED
    assert len(task.events) <= EVENTS + 2 * POLICY.maximum_attempts
