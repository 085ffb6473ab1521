"""Ends, rule by rule: repeated reports, cancelling, trying again by hand, giving a dedupe_key away."""

from dataclasses import replace
from datetime import timedelta

import pytest
from support.samples import NOW, PROGRESS, SECOND, at, make_lease, make_task

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Event, Failure, Status, Task, Terms
from openmcp_chain.domain.transitions import EVENTS, SCHEDULE_TO_CLOSE, Moment

LATER = NOW + 5 * SECOND
FAILURE = Failure("BROKEN", "it broke")
TERMS = Terms(RetryPolicy(maximum_attempts=2), schedule_to_close=60 * SECOND)

PENDING = make_task(terms=TERMS)
RUNNING = transitions.claim(PENDING, make_lease("token"), NOW)
STOPPING = transitions.cancel(RUNNING, "not needed", at(NOW))
SUCCEEDED = transitions.complete(RUNNING, "token", b"result", at(NOW))


def fail(task: Task, token: str = "token", failure: Failure = FAILURE, *, retryable: bool = False) -> Task:
    return transitions.fail(task, token, failure, at(LATER), retryable=retryable)


# --- a report that is sent again, since its answer was lost


def test_a_repeated_completion_is_answered_as_the_first() -> None:
    """The same holder, the same result: nothing changes. Another result is another completion, and too late."""
    assert transitions.complete(SUCCEEDED, "token", b"result", at(LATER)) is SUCCEEDED
    for token, result in (("token", b"other"), ("other", b"result")):
        with pytest.raises(errors.LeaseLost):
            transitions.complete(SUCCEEDED, token, result, at(LATER))


@pytest.mark.parametrize("task", [RUNNING, STOPPING], ids=["failed", "cancelled"])
def test_a_repeated_final_failure_is_answered_as_the_first(task: Task) -> None:
    """The same holder, the same failure: nothing changes, whether the task failed by it or was to stop anyway."""
    ended = fail(task)
    assert fail(ended) is ended
    for token, failure in (("token", Failure("BROKEN", "otherwise")), ("other", FAILURE)):
        with pytest.raises(errors.LeaseLost):
            fail(ended, token, failure)


def test_a_repeated_stop_is_answered_as_the_first() -> None:
    """By the same holder; anyone else has lost the lease."""
    stopped = transitions.stop(STOPPING, "token", at(LATER))
    assert transitions.stop(stopped, "token", at(LATER)) is stopped
    with pytest.raises(errors.LeaseLost):
        transitions.stop(stopped, "other", at(LATER))


def test_a_late_report_of_another_kind_is_refused() -> None:
    """One end is one end: who has failed, or was cancelled, has not succeeded as well."""
    stopped = transitions.stop(STOPPING, "token", at(LATER))
    for ended in (fail(RUNNING), stopped):
        with pytest.raises(errors.LeaseLost):
            transitions.complete(ended, "token", b"result", at(LATER))
    for ended in (SUCCEEDED, stopped):
        with pytest.raises(errors.LeaseLost):
            fail(ended)
    for ended in (SUCCEEDED, fail(RUNNING)):
        with pytest.raises(errors.LeaseLost):
            transitions.stop(ended, "token", at(LATER))


# --- cancel


def test_a_waiting_task_is_cancelled_at_once() -> None:
    """With the reason, and the day that it is deleted."""
    moment = at(LATER)
    task = transitions.cancel(PENDING, "not needed", moment)
    assert (task.status, task.cancel, task.failure) == (
        Status.CANCELLED,
        "not needed",
        Failure("CANCELLED", "not needed"),
    )
    assert task.events[-1] == Event(2, Status.CANCELLED, LATER, {"reason": "not needed"})
    assert (task.due_at, task.start_by) == (LATER + moment.retention, None)


def test_a_running_task_is_asked_to_stop() -> None:
    """It keeps its lease, which is not shortened: until its worker answers or the lease ends."""
    assert (STOPPING.status, STOPPING.cancel) == (Status.RUNNING, "not needed")
    assert (STOPPING.lease, STOPPING.due_at, STOPPING.failure) == (RUNNING.lease, RUNNING.due_at, None)
    assert STOPPING.events[-1].context == {"attempt": 1, "cancel_requested": True, "reason": "not needed"}
    assert transitions.extend(STOPPING, "token", NOW + 60 * SECOND).due_at == NOW + 60 * SECOND


@pytest.mark.parametrize("reason", ["", "another"])
def test_cancelling_again_changes_nothing(reason: str) -> None:
    """The first reason stands, even one that was empty."""
    for first in ("", "not needed"):
        for task in (PENDING, RUNNING):
            once = transitions.cancel(task, first, at(NOW))
            assert transitions.cancel(once, reason, at(LATER)) is once


def test_what_was_cancelled_without_a_reason_has_an_error_all_the_same() -> None:
    """So that who reads the task sees why it ended."""
    assert transitions.cancel(PENDING, "", at(NOW)).failure == Failure("CANCELLED", "on request")


def test_what_has_ended_otherwise_cannot_be_cancelled() -> None:
    """Who cancels must not believe that it did not happen."""
    for task in (SUCCEEDED, fail(RUNNING)):
        with pytest.raises(errors.TaskEnded):
            transitions.cancel(task, "", at(LATER))


def test_a_worker_that_was_asked_to_stop_may_come_to_its_end_all_the_same() -> None:
    """It succeeded before it heard of it; that is what happened."""
    done = transitions.complete(STOPPING, "token", b"result", at(LATER))
    assert (done.status, done.result, done.failure) == (Status.SUCCEEDED, b"result", None)


def test_a_task_that_was_to_stop_is_not_tried_again() -> None:
    """However its attempt ends, it is CANCELLED; the event also says how the attempt ended."""
    ends = {
        "stopped": transitions.stop(STOPPING, "token", at(LATER)),
        "failed": fail(STOPPING, retryable=True),
        "failed for good": fail(STOPPING),
        "undelivered": transitions.release(STOPPING, "token", FAILURE, at(LATER)),
        "silent": transitions.expire(STOPPING, at(NOW + 30 * SECOND)),
        "out of time": transitions.expire(STOPPING, at(NOW + 60 * SECOND)),
    }
    for task in ends.values():
        assert (task.status, task.failure) == (Status.CANCELLED, Failure("CANCELLED", "not needed"))
        assert task.events[-1].context["reason"] == "not needed"
    assert "code" not in ends["stopped"].events[-1].context
    assert ends["failed"].events[-1].context["code"] == "BROKEN"
    assert ends["out of time"].events[-1].context["code"] == SCHEDULE_TO_CLOSE.code


# --- retry by hand


def test_a_retry_begins_a_life_with_all_its_attempts() -> None:
    """At once, with a whole new time in which to end; history, and the count of attempts, go on."""
    told = transitions.note(replace(RUNNING, attempt=2), "token", NOW, progress=PROGRESS)
    for ended in (fail(told), fail(transitions.cancel(told, "", at(NOW)))):
        task = transitions.retry(ended, LATER)
        assert (task.status, task.attempt, task.tried_before) == (Status.PENDING, 2, 2)
        assert (task.due_at, task.close_by) == (LATER, LATER + 60 * SECOND)
        assert (task.lease, task.cancel, task.progress, task.failure, task.result) == (None, None, None, None, None)
        assert task.events == (*ended.events, Event(len(ended.events) + 1, Status.PENDING, LATER, {"retried": True}))
        assert task.notes == 1
        third = transitions.claim(task, make_lease("token"), LATER)
        waits = fail(third, retryable=True)
        assert (third.attempt, waits.status) == (3, Status.PENDING)
        last = transitions.claim(waits, make_lease("token"), waits.due_at)
        assert fail(last, retryable=True).status is Status.FAILED


def test_a_retried_task_waits_no_longer_than_a_new_one() -> None:
    """Its schedule_to_start counts from the retry."""
    ended = fail(replace(RUNNING, terms=Terms(schedule_to_start=10 * SECOND)))
    assert transitions.retry(ended, LATER).start_by == LATER + 10 * SECOND


def test_a_retry_has_its_conditions() -> None:
    """It needs a failure or a cancellation, its dedupe_key, and room for more history."""
    failed = fail(RUNNING)
    for task, reason in (
        (PENDING, "it is PENDING"),
        (RUNNING, "it is RUNNING"),
        (SUCCEEDED, "it is SUCCEEDED"),
        (transitions.supersede(failed, LATER), "another task has its dedupe_key"),
        (replace(failed, events=failed.events[:1] * EVENTS), f"it has {EVENTS} events"),
    ):
        with pytest.raises(errors.TaskNotRetryable, match=f"can't be tried again: {reason}."):
            transitions.retry(task, LATER)


def test_the_lease_of_an_earlier_life_is_lost() -> None:
    """A report that comes after the retry finds no lease, or another."""
    waiting = transitions.retry(fail(RUNNING), LATER)
    again = transitions.claim(waiting, make_lease("new"), LATER)
    for task in (waiting, again):
        with pytest.raises(errors.LeaseLost):
            fail(task)


# --- the dedupe_key


def test_superseding_is_no_event_and_done_once() -> None:
    """Nothing happened to the task; it only can't be tried again."""
    task = transitions.supersede(SUCCEEDED, LATER)
    assert task == replace(SUCCEEDED, superseded=True, version=SUCCEEDED.version + 1)
    assert transitions.supersede(task, LATER) is task


def test_a_superseded_task_stays_for_a_while() -> None:
    """However soon retention would take it: a submit elsewhere may not know yet that the key is another's."""
    task = transitions.supersede(SUCCEEDED, SUCCEEDED.due_at)
    assert task.due_at == SUCCEEDED.due_at + 60 * SECOND


def test_a_task_that_has_not_ended_keeps_its_key() -> None:
    """The refusal names it."""
    with pytest.raises(errors.DedupeKeyTaken, match=PENDING.id):
        transitions.supersede(PENDING, LATER)


# --- retention


@pytest.mark.parametrize("kept", [None, timedelta(), 7200 * SECOND])
def test_an_ended_task_is_kept_as_long_as_its_submit_said(kept: timedelta | None) -> None:
    """Or, if it said nothing, as the server is set; not at all is a time too."""
    task = replace(RUNNING, terms=Terms(retention=kept))
    ended = transitions.complete(task, "token", b"", Moment(LATER, 60 * SECOND))
    assert ended.due_at == LATER + (60 * SECOND if kept is None else kept)
