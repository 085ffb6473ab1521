"""The life of a task: the one place that says what may become what.

    submit            claim              complete
    ──────▶ PENDING ─────────▶ RUNNING ───────────▶ SUCCEEDED
             ▲ │ │                │
             │ │ │     time_out   │ fail, expire: no attempt left, or not retryable
             │ │ └────────────────┼─▶ FAILED ────────┐
             │ │       cancel     │ stop; fail, expire, release: once asked to stop
             │ └──────────────────┼─▶ CANCELLED ─────┤
             │ fail, expire: attempts left; release  │ retry (by hand)
             └────────────────────┴──────────────────┘

A RUNNING task stays so on `extend` (a heartbeat; no event), `note` (progress or a line) and `cancel` (it is asked to
stop). An ended one stays what it is on `supersede`.

Each function is pure: it takes a task, and returns the task that follows with the event appended, or raises what the
caller is told. `TABLE` is the same in data; the tests walk it.
"""

import enum
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Context, Event, Failure, Lease, Progress, Status, Task, Terms


class Action(enum.Enum):
    """What moves a task."""

    SUBMIT = "submit"
    CLAIM = "claim"
    EXTEND = "extend"
    NOTE = "note"
    COMPLETE = "complete"
    FAIL = "fail"
    STOP = "stop"
    RELEASE = "release"
    EXPIRE = "expire"
    TIME_OUT = "time_out"
    CANCEL = "cancel"
    RETRY = "retry"
    SUPERSEDE = "supersede"


_OVER = frozenset((Status.RUNNING, end) for end in (Status.PENDING, Status.FAILED, Status.CANCELLED))

TABLE: Mapping[Action, AbstractSet[tuple[Status | None, Status]]] = {
    Action.SUBMIT: {(None, Status.PENDING)},
    Action.CLAIM: {(Status.PENDING, Status.RUNNING)},
    Action.EXTEND: {(Status.RUNNING, Status.RUNNING)},
    Action.NOTE: {(Status.RUNNING, Status.RUNNING)},
    Action.COMPLETE: {(Status.RUNNING, Status.SUCCEEDED)},
    Action.FAIL: _OVER,
    Action.STOP: {(Status.RUNNING, Status.CANCELLED)},
    Action.RELEASE: _OVER,
    Action.EXPIRE: _OVER,
    Action.TIME_OUT: {(Status.PENDING, Status.FAILED)},
    Action.CANCEL: {(Status.PENDING, Status.CANCELLED), (Status.RUNNING, Status.RUNNING)},
    Action.RETRY: {(Status.FAILED, Status.PENDING), (Status.CANCELLED, Status.PENDING)},
    Action.SUPERSEDE: {(status, status) for status in Status if status.terminal},
}
"""For each action: the steps that it may be, from which status (None: there is no task yet) to which."""

_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)

NOTES = 200
"""How many events of a task may be progress or log lines."""
EVENTS = 1000
"""Past so many events, what could go on for ever does not: an undelivered attempt counts, a retry is refused."""
SUPERSEDED_STAYS = timedelta(minutes=1)
"""Longer, by much, than a server may take from seeing that a task has a dedupe_key to what follows from it."""

LEASE_EXPIRED = Failure("LEASE_EXPIRED", "the worker stopped reporting before its lease ended")
START_TO_CLOSE = Failure("START_TO_CLOSE_TIMEOUT", "the attempt took longer than start_to_close_timeout")
SCHEDULE_TO_START = Failure("SCHEDULE_TO_START_TIMEOUT", "no worker took the task within schedule_to_start_timeout")
SCHEDULE_TO_CLOSE = Failure("SCHEDULE_TO_CLOSE_TIMEOUT", "the task did not end within schedule_to_close_timeout")


Decision: TypeAlias = Callable[[Task], Task]
"""What a task is to become; the same one: nothing."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What an end or a retry depends on besides the task: time, chance, and the server's own settings."""

    now: datetime
    retention: timedelta
    """How long an ended task is kept whose submit did not say."""
    jitter: float = 0.0
    """A random number in [0, 1)."""


def submit(
    *,
    workspace: str,
    task_id: str,
    task_type: str,
    payload: bytes,
    metadata: Mapping[str, str],
    labels: Mapping[str, str],
    priority: int,
    terms: Terms,
    dedupe_key: str,
    fingerprint: bytes,
    traceparent: str,
    schedule_time: datetime | None,
    now: datetime,
) -> Task:
    """A new task, ready at `schedule_time`, or at once if that is None or past."""
    due_at = max(now, schedule_time) if schedule_time else now
    delay = round((due_at - now).total_seconds() * 1000)
    context: Context = {"scheduled": True, "ready_in_ms": delay} if delay > 0 else {}
    return Task(
        workspace=workspace,
        id=task_id,
        type=task_type,
        payload=payload,
        metadata=metadata,
        labels=labels,
        priority=priority,
        terms=terms,
        dedupe_key=dedupe_key,
        fingerprint=fingerprint,
        traceparent=traceparent,
        submitted_at=now,
        version=(now - _EPOCH) // _MILLISECOND,
        status=Status.PENDING,
        attempt=0,
        tried_before=0,
        due_at=due_at,
        scheduled_for=None,
        start_by=_after(due_at, terms.schedule_to_start),
        close_by=_after(now, terms.schedule_to_close),
        lease=None,
        cancel=None,
        progress=None,
        notes=0,
        updated_at=now,
        events=(Event(1, Status.PENDING, now, context),),
        result=None,
        failure=None,
        superseded=False,
    )


def stagger(task: Task, by: timedelta) -> Task:
    """A new task, due so much later than it was to run; its `close_by` stays, and may come first."""
    due_at = task.due_at + by
    start_by = _after(due_at, task.terms.schedule_to_start)
    return replace(task, due_at=due_at, scheduled_for=task.due_at, start_by=start_by)


def claim(task: Task, lease: Lease, now: datetime, worker_version: str = "") -> Task:
    """Gives a PENDING task to the holder of `lease`: its next attempt begins.

    The lease gets the attempt's deadline, and does not outlast it. Raises LeaseLost if the task is not PENDING (any
    more), its time has not come, or is up.
    """
    if task.status is not Status.PENDING or task.due_at > now or _past(task.deadline, now):
        raise errors.LeaseLost
    context: dict[str, str | float | bool] = {"attempt": task.attempt + 1, "worker": lease.worker}
    if worker_version:
        context["worker_version"] = worker_version
    deadline = _earliest(_after(now, task.terms.start_to_close), task.close_by)
    lease = replace(lease, deadline=deadline, expires_at=_earliest(lease.expires_at, deadline) or lease.expires_at)
    return replace(
        _step(task, Status.RUNNING, now, context),
        attempt=task.attempt + 1,
        lease=lease,
        due_at=lease.expires_at,
        scheduled_for=None,
        start_by=None,
        progress=None,
    )


def extend(task: Task, token: str, expires_at: datetime, *, trace: bool = False) -> Task:
    """Keeps the lease `token` until `expires_at`, or its deadline. No event: nothing happened to the task.

    If it is kept so long already, that its holder was heard of is kept only if that is to leave a `trace`.
    """
    lease = _held(task, token)
    until = _earliest(expires_at, lease.deadline) or expires_at
    if until <= lease.expires_at:
        heard = replace(lease, heard=lease.heard + 1)
        return replace(task, version=task.version + 1, lease=heard) if trace else task
    return replace(task, version=task.version + 1, lease=replace(lease, expires_at=until), due_at=until)


def note(task: Task, token: str, now: datetime, *, progress: Progress | None = None, line: str = "") -> Task:
    """Keeps what the holder of the lease `token` says of its attempt: how far it is, or a line.

    Progress replaces what was said before, and is an event too while there is room for it; a line without room raises
    EventsFull. Returns the task unchanged if there is nothing new.
    """
    _held(task, token)
    if not line and progress in (None, task.progress):
        return task
    context: dict[str, str | float | bool] = {"attempt": task.attempt}
    if line:
        if task.notes >= NOTES:
            raise errors.EventsFull(NOTES)
        context["log"] = line
    if progress is not None:
        context |= {"progress": progress.fraction, "message": progress.message}
        if task.notes >= NOTES:
            return replace(task, version=task.version + 1, progress=progress)
    return replace(_step(task, Status.RUNNING, now, context), progress=progress or task.progress, notes=task.notes + 1)


def complete(task: Task, token: str, result: bytes, moment: Moment) -> Task:
    """Ends the task with `result`, by the holder of the lease `token`.

    Returns the task unchanged if this very completion was recorded before: a repeated report is answered as the first
    was.
    """
    if task.status is Status.SUCCEEDED and reported_by(task, token) and task.result == result:
        return task
    _held(task, token)
    return replace(_end(task, Status.SUCCEEDED, {"attempt": task.attempt}, moment), result=result)


def fail(
    task: Task, token: str, failure: Failure, moment: Moment, *, retryable: bool, delay: timedelta | None = None
) -> Task:
    """Ends an attempt by the holder of the lease `token`: the task waits for its next attempt, or has ended.

    `delay` takes the place of the retry policy's. Returns the task unchanged if this very failure ended it before, or
    ended the attempt after which it waits.
    """
    over = task.status is not Status.RUNNING
    if over and reported_by(task, token) and _last_failure(task) == (failure.code, failure.message):
        return task
    _held(task, token)
    after = _attempt_over(task, failure, moment, retryable=retryable, delay=delay)
    return replace(after, lease=task.lease)


def stop(task: Task, token: str, moment: Moment) -> Task:
    """Ends a task that was to stop, by the holder of the lease `token`. Raises CancelNotRequested if it was not.

    Returns the task unchanged if this was recorded before.
    """
    if task.status is Status.CANCELLED and reported_by(task, token):
        return task
    _held(task, token)
    if task.cancel is None:
        raise errors.CancelNotRequested
    return _cancelled(task, {"attempt": task.attempt}, moment)


def release(task: Task, token: str, failure: Failure, moment: Moment) -> Task:
    """Takes the lease `token` back from a worker that never got the task: the attempt does not count, it waits again.

    Raises LeaseLost if it runs under another.
    """
    _held(task, token)
    if len(task.events) >= EVENTS or task.cancel is not None:
        return _attempt_over(task, failure, moment, retryable=True)
    context: Context = {"attempt": task.attempt, "code": failure.code, "message": failure.message}
    return replace(_wait(task, moment.now, context, moment.now), attempt=task.attempt - 1)


def expire(task: Task, moment: Moment) -> Task:
    """Ends an attempt whose lease ran out. Raises LeaseLost if there is no such lease (any more)."""
    lease = task.lease
    if task.status is not Status.RUNNING or lease is None or lease.expires_at > moment.now:
        raise errors.LeaseLost
    if _past(task.close_by, moment.now):
        return _attempt_over(task, SCHEDULE_TO_CLOSE, moment, retryable=False)
    # Not whether the deadline is past by now: a lease may be found long after a silent worker let it run out.
    failure = START_TO_CLOSE if lease.expires_at == lease.deadline else LEASE_EXPIRED
    return _attempt_over(task, failure, moment, retryable=True)


def time_out(task: Task, moment: Moment) -> Task:
    """Fails a task that waited too long. Raises LeaseLost if it does not wait (any more), or has time left."""
    if not _past(task.deadline, moment.now):
        raise errors.LeaseLost
    failure = SCHEDULE_TO_CLOSE if _past(task.close_by, moment.now) else SCHEDULE_TO_START
    context: Context = {"code": failure.code, "message": failure.message}
    return replace(_end(task, Status.FAILED, context, moment), failure=failure, lease=None)


def cancel(task: Task, reason: str, moment: Moment) -> Task:
    """Ends a waiting task; asks a running one to stop. Unchanged if that was done before.

    Raises TaskEnded if it has succeeded or failed.
    """
    if task.status in (Status.SUCCEEDED, Status.FAILED):
        raise errors.TaskEnded(task.id, task.status)
    if task.cancel is not None:
        return task
    task = replace(task, cancel=reason)
    if task.status is Status.PENDING:
        return replace(_cancelled(task, {}, moment), lease=None)
    context: Context = {"attempt": task.attempt, "cancel_requested": True, "reason": reason}
    return _step(task, Status.RUNNING, moment.now, context)


def retry(task: Task, now: datetime) -> Task:
    """Makes a task that failed or was cancelled wait again, with all its attempts. Raises TaskNotRetryable."""
    if task.status not in (Status.FAILED, Status.CANCELLED):
        raise errors.TaskNotRetryable(task.id, f"it is {task.status}")
    if task.superseded:
        raise errors.TaskNotRetryable(task.id, "another task has its dedupe_key")
    if len(task.events) >= EVENTS:
        raise errors.TaskNotRetryable(task.id, f"it has {EVENTS} events")
    return replace(
        _wait(task, now, {"retried": True}, now),
        tried_before=task.attempt,
        close_by=_after(now, task.terms.schedule_to_close),
        cancel=None,
        progress=None,
        failure=None,
    )


def supersede(task: Task, now: datetime) -> Task:
    """Gives an ended task's dedupe_key away: it can't be tried again. Raises DedupeKeyTaken if it has not ended.

    It stays for SUPERSEDED_STAYS at least.
    """
    if not task.status.terminal:
        raise errors.DedupeKeyTaken(task.id)
    if task.superseded:
        return task
    stays = max(task.due_at, now + SUPERSEDED_STAYS)
    return replace(task, version=task.version + 1, superseded=True, due_at=stays)


def _attempt_over(
    task: Task, failure: Failure, moment: Moment, *, retryable: bool, delay: timedelta | None = None
) -> Task:
    context: dict[str, str | float | bool] = {
        "attempt": task.attempt,
        "code": failure.code,
        "message": failure.message,
    }
    if task.cancel is not None:
        return _cancelled(task, context, moment)
    policy = task.terms.retry
    tries = task.attempt - task.tried_before
    if retryable and tries < policy.maximum_attempts and failure.code not in policy.non_retryable_error_codes:
        delay = policy.backoff(tries, moment.jitter) if delay is None else delay
        due_at = moment.now + delay
        if not _past(task.close_by, due_at):
            context["retry_in_ms"] = round(delay.total_seconds() * 1000)
            return _wait(task, moment.now, context, due_at)
    return replace(_end(task, Status.FAILED, context, moment), failure=failure)


def _wait(task: Task, now: datetime, context: Context, due_at: datetime) -> Task:
    start_by = _after(due_at, task.terms.schedule_to_start)
    waits = _step(task, Status.PENDING, now, context)
    return replace(waits, lease=None, due_at=due_at, scheduled_for=None, start_by=start_by)


def _cancelled(task: Task, context: Context, moment: Moment) -> Task:
    reason = task.cancel or ""
    failure = Failure("CANCELLED", reason or "on request")
    return replace(_end(task, Status.CANCELLED, {**context, "reason": reason}, moment), failure=failure)


def _end(task: Task, status: Status, context: Context, moment: Moment) -> Task:
    kept = moment.retention if task.terms.retention is None else task.terms.retention
    ended = _step(task, status, moment.now, context)
    return replace(ended, due_at=moment.now + kept, scheduled_for=None, start_by=None)


def _held(task: Task, token: str) -> Lease:
    """The lease, if `token` is its own and the task still runs under it."""
    if task.status is not Status.RUNNING or task.lease is None or task.lease.token != token:
        raise errors.LeaseLost
    return task.lease


def reported_by(task: Task, token: str) -> bool:
    """Whether the lease `token` is the task's last: if that has ended, its holder has said how."""
    return task.lease is not None and task.lease.token == token


def _last_failure(task: Task) -> tuple[object, object]:
    """Code and message of what its last event says went wrong; that may be so though it is CANCELLED."""
    said = task.events[-1].context
    return said.get("code"), said.get("message")


def _step(task: Task, status: Status, now: datetime, context: Context) -> Task:
    """The task with one more event. Clocks of two servers differ: an event is never dated before the one it follows."""
    at = max(now, task.updated_at)
    event = Event(len(task.events) + 1, status, at, context)
    return replace(task, version=task.version + 1, status=status, updated_at=at, events=(*task.events, event))


def _after(start: datetime, span: timedelta | None) -> datetime | None:
    return None if span is None else start + span


def _past(deadline: datetime | None, now: datetime) -> bool:
    return deadline is not None and deadline <= now


def _earliest(*times: datetime | None) -> datetime | None:
    return min((at for at in times if at is not None), default=None)
