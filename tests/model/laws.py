"""What holds of every task and every step, whatever came before.

Said apart from `transitions`, and in another way: of states, of histories, and of what differs between the two sides of
a step.
"""

import enum
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from itertools import pairwise

from model.deeds import Deed

from openmcp_chain.domain import transitions
from openmcp_chain.domain.task import Event, Failure, Lease, Status, Task
from openmcp_chain.domain.transitions import TABLE, Action

STEP = frozenset({"version", "status", "due_at", "updated_at", "events"})
OVER = STEP | {"lease", "scheduled_for", "start_by", "failure"}
TOUCHES: Mapping[Action, frozenset[str]] = {
    Action.CLAIM: STEP | {"attempt", "lease", "scheduled_for", "start_by", "progress"},
    Action.EXTEND: frozenset({"version", "lease", "due_at"}),
    Action.NOTE: frozenset({"version", "progress", "notes", "updated_at", "events"}),
    Action.COMPLETE: STEP | {"result"},
    Action.FAIL: OVER,
    Action.STOP: STEP | {"failure"},
    Action.RELEASE: OVER | {"attempt"},
    Action.EXPIRE: OVER,
    Action.TIME_OUT: OVER,
    Action.CANCEL: OVER | {"cancel"},
    Action.RETRY: OVER | {"tried_before", "close_by", "cancel", "progress"},
    Action.SUPERSEDE: frozenset({"version", "superseded", "due_at"}),
}
"""What an action may change of a task."""
SILENT = (Action.EXTEND, Action.SUPERSEDE)
"""What is no event."""


class Verdict(enum.Enum):
    """What an actor hears."""

    REFUSED = "refused"
    IDLE = "nothing left to do"
    CHANGES = "a change"


def verdict(deed: Deed, task: Task) -> Verdict:
    """What is to be said of the deed, when the task is as it is."""
    held = task.status is Status.RUNNING and task.lease is not None and task.lease.token == deed.token
    ended_by_it = task.status.terminal and task.lease is not None and task.lease.token == deed.token
    match deed.action:
        case Action.CLAIM:
            in_time = task.deadline is None or deed.now < task.deadline
            return _if(task.status is Status.PENDING and task.due_at <= deed.now and in_time)
        case Action.EXTEND:
            return _if(held, idle=task.lease is None or _until(deed, task.lease) <= task.lease.expires_at)
        case Action.NOTE:
            room = not deed.line or task.notes < transitions.NOTES
            return _if(held and room, idle=not deed.line and deed.progress in (None, task.progress))
        case Action.COMPLETE:
            again = ended_by_it and task.status is Status.SUCCEEDED and task.result == deed.result
            return _if(held or again, idle=again)
        case Action.FAIL:
            said = task.events[-1].context
            failed = said.get("code") == deed.failure.code and said.get("message") == deed.failure.message
            told = ended_by_it or (task.status is Status.PENDING and task.lease and task.lease.token == deed.token)
            again = bool(told and failed)
            return _if(held or again, idle=again)
        case Action.STOP:
            again = ended_by_it and task.status is Status.CANCELLED
            return _if((held and task.cancel is not None) or again, idle=again)
        case Action.RELEASE:
            return _if(held)
        case Action.EXPIRE:
            return _if(task.status is Status.RUNNING and task.due_at <= deed.now)
        case Action.TIME_OUT:
            return _if(task.deadline is not None and task.deadline <= deed.now)
        case Action.CANCEL:
            return _if(task.status not in (Status.SUCCEEDED, Status.FAILED), idle=task.cancel is not None)
        case Action.RETRY:
            room = len(task.events) < transitions.EVENTS
            return _if(task.status in (Status.FAILED, Status.CANCELLED) and room and not task.superseded)
        case _:
            return _if(task.status.terminal, idle=task.superseded)


def _if(granted: bool, *, idle: bool = False) -> Verdict:
    return Verdict.REFUSED if not granted else Verdict.IDLE if idle else Verdict.CHANGES


def _until(deed: Deed, lease: Lease) -> datetime:
    return min(deed.lease_until, lease.deadline or deed.lease_until)


def step(deed: Deed, before: Task, after: Task) -> None:
    """A change that was made is a step of the table, one version and at most one event further, and as was agreed."""
    assert (before.status, after.status) in TABLE[deed.action]
    assert after.version == before.version + 1
    changed = {field.name for field in fields(Task) if getattr(before, field.name) != getattr(after, field.name)}
    assert changed <= TOUCHES[deed.action], f"{deed.action} changed {changed - TOUCHES[deed.action]}"
    assert after.events[: len(before.events)] == before.events
    new = after.events[len(before.events) :]
    quiet = deed.action in SILENT or (deed.action is Action.NOTE and before.notes >= transitions.NOTES)
    assert [event.status for event in new] == ([] if quiet else [after.status])
    if deed.action is Action.CLAIM:
        assert after.attempt == before.attempt + 1
        assert after.lease
        assert after.due_at == _until(deed, after.lease)
        assert after.progress is None
    elif deed.action is Action.EXTEND:
        assert before.due_at < after.due_at <= deed.lease_until
    elif before.status is Status.RUNNING and after.status is not Status.RUNNING:
        assert after.status in _ends(deed, before, new[0])
    if after.status.terminal and not before.status.terminal:
        kept = deed.moment.retention if after.terms.retention is None else after.terms.retention
        assert after.due_at == deed.now + kept
    if deed.action is Action.RETRY:
        assert (after.due_at, after.progress) == (deed.now, None)
        assert after.close_by == _after(deed.now, after.terms.schedule_to_close)


def _ends(deed: Deed, before: Task, said: Event) -> set[Status]:
    """In which statuses this end of an attempt may leave the task."""
    if deed.action is Action.COMPLETE:
        return {Status.SUCCEEDED}
    if before.cancel is not None:
        return {Status.CANCELLED}
    if deed.action is Action.RELEASE and len(before.events) < transitions.EVENTS:
        return {Status.PENDING}
    policy, tries = before.terms.retry, before.attempt - before.tried_before
    delay = policy.backoff(tries, deed.moment.jitter)
    if deed.action is Action.FAIL and deed.delay is not None:
        delay = deed.delay
    out_of_time = before.close_by is not None and before.close_by <= deed.now + delay
    final = deed.action is Action.FAIL and not deed.retryable
    if (
        final
        or out_of_time
        or tries >= policy.maximum_attempts
        or said.context["code"] in policy.non_retryable_error_codes
    ):
        return {Status.FAILED}
    assert said.context["retry_in_ms"] == delay / timedelta(milliseconds=1)
    return {Status.PENDING}


def whole(task: Task) -> None:
    """A task agrees with itself: no field is set that its status has no use for, and none is missing."""
    tries, terms = task.attempt - task.tried_before, task.terms
    assert (task.result is not None) == (task.status is Status.SUCCEEDED)
    assert (task.failure is not None) == (task.status in (Status.FAILED, Status.CANCELLED))
    assert task.status.terminal or not task.superseded
    assert task.start_by == (_after(task.due_at, terms.schedule_to_start) if task.status is Status.PENDING else None)
    assert task.scheduled_for is None or (task.status is Status.PENDING and task.scheduled_for < task.due_at)
    assert (task.close_by is None) == (terms.schedule_to_close is None)
    assert 0 <= tries <= terms.retry.maximum_attempts
    match task.status:
        case Status.PENDING:
            assert tries < terms.retry.maximum_attempts
            assert task.cancel is None
            assert task.lease is None or "retry_in_ms" in task.events[-1].context
        case Status.RUNNING:
            assert tries >= 1
            assert task.lease
            assert task.due_at == task.lease.expires_at
            assert (task.lease.deadline is None) == (terms.start_to_close is None and task.close_by is None)
            assert task.lease.deadline is None or task.due_at <= task.lease.deadline
            assert not (task.lease.deadline and task.close_by) or task.lease.deadline <= task.close_by
        case Status.CANCELLED:
            assert task.cancel is not None
            assert task.failure == Failure("CANCELLED", task.cancel or "on request")
        case Status.FAILED:
            assert task.cancel is None
            assert task.failure
            assert task.events[-1].context["code"] == task.failure.code


def history(task: Task) -> None:
    """Its events are contiguous and in order, end once in each life, and tell by themselves what has become of it."""
    assert [event.seq for event in task.events] == list(range(1, len(task.events) + 1))
    assert all(one.at <= next_one.at for one, next_one in pairwise(task.events))
    assert task.updated_at == task.events[-1].at
    first, attempt, tried_before, notes, cancel = task.events[0], 0, 0, 0, None
    assert first.status is Status.PENDING
    for last, event in pairwise(task.events):
        said = event.context
        if last.status is Status.RUNNING:
            assert said["attempt"] == attempt
        match last.status, event.status:
            case Status.PENDING, Status.RUNNING:
                attempt += 1
                assert said["attempt"] == attempt
            case Status.RUNNING, Status.RUNNING:
                if "cancel_requested" in said:
                    assert cancel is None
                    cancel = said["reason"]
                else:
                    notes += 1
            case Status.RUNNING, Status.PENDING:
                assert cancel is None
                if "retry_in_ms" not in said:
                    attempt -= 1  # it never reached its worker
            case ((Status.PENDING | Status.RUNNING), Status.CANCELLED):
                assert cancel in (None, said["reason"])
                cancel = said["reason"]
            case (Status.PENDING, Status.FAILED) | (Status.RUNNING, Status.FAILED | Status.SUCCEEDED):
                pass
            case ((Status.FAILED | Status.CANCELLED), Status.PENDING):
                assert said == {"retried": True}
                tried_before, cancel = attempt, None
            case _:
                raise AssertionError(f"{last.status} was followed by {event.status}")
    told = (task.events[-1].status, attempt, tried_before, notes, cancel)
    assert told == (task.status, task.attempt, task.tried_before, task.notes, task.cancel)
    # A life ends within its attempts, each a claim and an end, once there is no more room for undelivered ones.
    assert len(task.events) <= transitions.EVENTS + 2 * task.terms.retry.maximum_attempts + transitions.NOTES + 2


def _after(start: datetime, span: timedelta | None) -> datetime | None:
    return None if span is None else start + span
