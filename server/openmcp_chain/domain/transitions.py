"""The life of a task: the one place that says what may become what.

    submit            claim              complete
    ──────▶ PENDING ─────────▶ RUNNING ───────────▶ SUCCEEDED
               ▲                  │ fail, expire: no attempt left, or not retryable
               └──────────────────┼─────────────────▶ FAILED
                 fail, expire:    │
                 attempts left    └─┐ extend (a heartbeat; no event)
                                  ▲─┘

Each function is pure: it takes a task, and returns the task that follows with the event appended, or raises
`LeaseLost`. `TABLE` is the same in data; the tests walk it.
"""

import enum
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from openmcp_chain.domain import errors, retry
from openmcp_chain.domain.task import Event, Failure, Lease, Priority, Status, Task


class Action(enum.Enum):
    """What moves a task."""

    SUBMIT = "submit"
    CLAIM = "claim"
    EXTEND = "extend"
    COMPLETE = "complete"
    FAIL = "fail"
    EXPIRE = "expire"


TABLE: Mapping[Action, tuple[Status | None, frozenset[Status]]] = {
    Action.SUBMIT: (None, frozenset({Status.PENDING})),
    Action.CLAIM: (Status.PENDING, frozenset({Status.RUNNING})),
    Action.EXTEND: (Status.RUNNING, frozenset({Status.RUNNING})),
    Action.COMPLETE: (Status.RUNNING, frozenset({Status.SUCCEEDED})),
    Action.FAIL: (Status.RUNNING, frozenset({Status.PENDING, Status.FAILED})),
    Action.EXPIRE: (Status.RUNNING, frozenset({Status.PENDING, Status.FAILED})),
}
"""For each action: the status that it needs, and those that it may lead to."""

LEASE_EXPIRED = Failure("LEASE_EXPIRED", "the worker stopped reporting before its lease ended")


def submit(
    *,
    workspace: str,
    task_id: str,
    task_type: str,
    payload: bytes,
    metadata: Mapping[str, str],
    priority: Priority,
    fingerprint: bytes,
    traceparent: str,
    max_attempts: int,
    now: datetime,
) -> Task:
    """A new task, ready at once."""
    return Task(
        workspace=workspace,
        id=task_id,
        type=task_type,
        payload=payload,
        metadata=metadata,
        priority=priority,
        fingerprint=fingerprint,
        traceparent=traceparent,
        max_attempts=max_attempts,
        submitted_at=now,
        version=1,
        status=Status.PENDING,
        attempt=0,
        due_at=now,
        lease=None,
        updated_at=now,
        events=(Event(1, Status.PENDING, now, {}),),
        result=None,
        failure=None,
        expire_at=None,
    )


def claim(task: Task, lease: Lease, now: datetime, worker_version: str = "") -> Task:
    """Gives a PENDING task to the holder of `lease`: its next attempt begins.

    Raises LeaseLost if it is not PENDING (any more).
    """
    if task.status is not Status.PENDING:
        raise errors.LeaseLost
    context: dict[str, str | int] = {"attempt": task.attempt + 1, "worker": lease.worker}
    if worker_version:
        context["worker_version"] = worker_version
    return replace(
        _step(task, Status.RUNNING, now, context), attempt=task.attempt + 1, lease=lease, due_at=lease.expires_at
    )


def extend(task: Task, token: str, expires_at: datetime) -> Task:
    """Keeps the lease `token` until `expires_at`. No event: nothing happened to the task."""
    lease = _held(task, token)
    return replace(task, version=task.version + 1, lease=replace(lease, expires_at=expires_at), due_at=expires_at)


def complete(task: Task, token: str, result: bytes, now: datetime, retention: timedelta) -> Task:
    """Ends the task with `result`, by the holder of the lease `token`.

    Returns the task unchanged if this very completion was recorded before: a repeated report is answered as the
    first was.
    """
    if task.status is Status.SUCCEEDED and _reported_by(task, token) and task.result == result:
        return task
    _held(task, token)
    return replace(
        _step(task, Status.SUCCEEDED, now, {"attempt": task.attempt}),
        due_at=None,
        result=result,
        expire_at=now + retention,
    )


def fail(
    task: Task, token: str, failure: Failure, *, retryable: bool, now: datetime, retention: timedelta, jitter: float
) -> Task:
    """Ends an attempt by the holder of the lease `token`: the task waits for its next attempt, or has FAILED.

    `jitter` is a random number in [0, 1). Returns the task unchanged if this very failure was recorded before.
    """
    if task.status is Status.FAILED and _reported_by(task, token) and task.failure == failure:
        return task
    _held(task, token)
    return _attempt_over(task, failure, retryable=retryable, now=now, retention=retention, jitter=jitter)


def expire(task: Task, *, now: datetime, retention: timedelta, jitter: float) -> Task:
    """Ends an attempt whose lease ran out. Raises LeaseLost if there is no such lease (any more)."""
    if task.status is not Status.RUNNING or task.lease is None or task.lease.expires_at > now:
        raise errors.LeaseLost
    return _attempt_over(task, LEASE_EXPIRED, retryable=True, now=now, retention=retention, jitter=jitter)


def _attempt_over(
    task: Task, failure: Failure, *, retryable: bool, now: datetime, retention: timedelta, jitter: float
) -> Task:
    context: dict[str, str | int] = {"attempt": task.attempt, "code": failure.code, "message": failure.message}
    if retryable and task.attempt < task.max_attempts:
        delay = retry.backoff(task.attempt, jitter)
        context["retry_in_ms"] = round(delay.total_seconds() * 1000)
        return replace(_step(task, Status.PENDING, now, context), lease=None, due_at=now + delay)
    return replace(_step(task, Status.FAILED, now, context), due_at=None, failure=failure, expire_at=now + retention)


def _held(task: Task, token: str) -> Lease:
    """The lease, if `token` is its own and the task still runs under it."""
    if task.status is not Status.RUNNING or task.lease is None or task.lease.token != token:
        raise errors.LeaseLost
    return task.lease


def _reported_by(task: Task, token: str) -> bool:
    return task.lease is not None and task.lease.token == token


def _step(task: Task, status: Status, now: datetime, context: Mapping[str, str | int]) -> Task:
    """The task with one more event. Clocks of two servers differ: an event is never dated before the one it follows."""
    at = max(now, task.updated_at)
    event = Event(len(task.events) + 1, status, at, context)
    return replace(task, version=task.version + 1, status=status, updated_at=at, events=(*task.events, event))
