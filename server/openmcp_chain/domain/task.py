"""A task and what belongs to it. Values only; `transitions` has the rules by which one becomes the next."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias

from openmcp_chain.domain import retry
from openmcp_chain.domain.retry import RetryPolicy

Context: TypeAlias = Mapping[str, str | float | bool]
"""What is worth knowing about an event; plain JSON values."""


class Status(enum.StrEnum):
    """Where a task is in its life. The numbers on the wire are the transport's affair."""

    PENDING = "PENDING"
    """Waiting for a worker, from `due_at` on. A claim moves it out; a crash changes nothing."""
    RUNNING = "RUNNING"
    """A worker holds its lease. Its report moves the task out, or the lease's end if the worker dies."""
    SUCCEEDED = "SUCCEEDED"
    """Ended, with a result. Nothing moves it out; retention deletes it."""
    FAILED = "FAILED"
    """Ended, with a failure. A retry moves it out, else retention deletes it."""
    CANCELLED = "CANCELLED"
    """Ended, since its workspace asked for it. A retry moves it out, else retention deletes it."""

    @property
    def terminal(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


HIGH, NORMAL, LOW = 1, 3, 5
PRIORITIES = range(HIGH, LOW + 1)
"""Priorities, out of 1 to 5: a lower number goes first (Temporal's direction)."""


class Key(NamedTuple):
    """A task's primary key. The workspace comes first, so that a cluster can be sharded by it."""

    workspace: str
    id: str


class DedupeKey(NamedTuple):
    """What one task of a workspace has at a time, of those that have not ended."""

    workspace: str
    key: str


class Queue(NamedTuple):
    """Where a task waits: with the others of its type in its workspace."""

    workspace: str
    type: str


@dataclass(frozen=True, slots=True)
class Event:
    """One step in a task's life, never changed once written."""

    seq: int
    """1, 2, 3, … without gaps within a task."""
    status: Status
    """The task's status after it."""
    at: datetime
    context: Context


class View(enum.Enum):
    """What of a task is wanted. Its events may be megabytes; only what adds to them reads all, followers a part."""

    OUTLINE = enum.auto()
    """Which request made it, and where it is now: all but payload, result, metadata, labels and events."""
    BASIC = enum.auto()
    """All but payload, result and events."""
    RESULT = enum.auto()
    """All but payload and events."""
    FULL = enum.auto()
    """All but the events."""
    HISTORY = enum.auto()
    """All but the payload: what a change is decided on."""
    WHOLE = enum.auto()
    """All of it."""


class Call(NamedTuple):
    """A call that may be repeated, whose answer is kept: by whom, and its name among that one's."""

    workspace: str
    name: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one worker to report on a task for a while."""

    token: str
    """Unguessable, and new with each claim: it fences off every earlier holder."""
    worker: str
    """The worker's name, for people."""
    expires_at: datetime
    deadline: datetime | None = None
    """When the attempt must have ended: the lease is never extended beyond."""
    heard: int = 0
    """How often its holder was heard of that `expires_at` does not tell."""
    call: Call | None = None
    """The call that it was the answer to, if that may be repeated."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt, or a task, failed."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt says that it is."""

    fraction: float
    """From 0 to 1."""
    message: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What a task was submitted under, besides what it is: how long each thing may take, and how often."""

    retry: RetryPolicy = retry.DEFAULT
    schedule_to_start: timedelta | None = None
    """From when it may run until a worker has it."""
    start_to_close: timedelta | None = None
    """For one attempt."""
    schedule_to_close: timedelta | None = None
    """For all of it, from the submit (or the retry) on."""
    heartbeat: timedelta | None = None
    """How long its worker may be silent; the server's own time if None."""
    retention: timedelta | None = None
    """How long it is kept once it has ended; the server's own time if None."""


STANDARD = Terms()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A unit of work, as it is stored: state and history in one value, so that they cannot disagree.

    Times are UTC, to the millisecond. Each stored change raises `version` by one; a write names the version that it was
    decided on, and loses if another came first. The first version is the time of the submit, in milliseconds: a key may
    be used again once retention is over, and a write that was decided on the old task must not meet the new one.
    """

    workspace: str
    id: str
    type: str
    payload: bytes
    """The serialized `google.protobuf.Struct`, opaque here."""
    metadata: Mapping[str, str]
    labels: Mapping[str, str]
    priority: int
    """1 (first) to 5 (last)."""
    terms: Terms
    dedupe_key: str
    """While it has not ended, no other task of its workspace has the same; empty: none."""
    fingerprint: bytes
    """Digest of the submitted request if it had a request_id; random if it had a dedupe_key only; else empty."""
    traceparent: str
    """The W3C trace context of the submit, or empty."""
    submitted_at: datetime

    version: int
    status: Status
    attempt: int
    """How many attempts have begun, but for one that was taken back before it reached its worker."""
    tried_before: int
    """How many of them don't count against the retry policy: those before a retry by hand."""
    due_at: datetime
    """When somebody must see to it: PENDING, from when it may run; RUNNING, when its lease expires; ended, when
    retention deletes it."""
    scheduled_for: datetime | None
    """While PENDING: when it was to run, if it is due later, since very many were to run at that time."""
    start_by: datetime | None
    """While PENDING: when a worker must have it."""
    close_by: datetime | None
    """When it must have ended."""
    lease: Lease | None
    """While RUNNING, the holder's. It stays after the end, and after a failure that the task is tried again for until
    that begins, so that a repeated report is known for what it is."""
    cancel: str | None
    """The reason (may be empty) for which it is to stop, or was stopped."""
    progress: Progress | None
    """Of the present attempt, or the last."""
    notes: int
    """How many of its events are progress or log lines."""
    updated_at: datetime
    """When its last event happened."""
    events: tuple[Event, ...]
    """At least one, as stored: a task without was read without them."""
    result: bytes | None
    """The serialized `google.protobuf.Struct` of a SUCCEEDED task."""
    failure: Failure | None
    """Why a FAILED or CANCELLED task ended."""
    superseded: bool
    """Whether another task has taken over its `dedupe_key`."""

    @property
    def key(self) -> Key:
        return Key(self.workspace, self.id)

    @property
    def queue(self) -> Queue:
        return Queue(self.workspace, self.type)

    @property
    def held_key(self) -> DedupeKey:
        """The key that it has if it has a `dedupe_key`."""
        return DedupeKey(self.workspace, self.dedupe_key)

    @property
    def schedule_time(self) -> datetime:
        """While PENDING, when it is to run, as its workspace knows it."""
        return self.scheduled_for or self.due_at

    @property
    def deadline(self) -> datetime | None:
        """While PENDING, when it fails unless a worker has it by then; a lease ends in time by itself."""
        return deadline(self.status, self.start_by, self.close_by)


def seen(task: Task, view: View) -> Task:
    """What a view has of the task; what it leaves out is empty, or None."""
    match view:
        case View.OUTLINE:
            return replace(task, payload=b"", result=None, metadata={}, labels={}, events=())
        case View.BASIC:
            return replace(task, payload=b"", result=None, events=())
        case View.RESULT:
            return replace(task, payload=b"", events=())
        case View.FULL:
            return replace(task, events=())
        case View.HISTORY:
            return replace(task, payload=b"")
        case View.WHOLE:
            return task


def deadline(status: Status, start_by: datetime | None, close_by: datetime | None) -> datetime | None:
    """`Task.deadline` of a task with these."""
    if status is not Status.PENDING:
        return None
    return min((at for at in (start_by, close_by) if at is not None), default=None)


class Position(NamedTuple):
    """A place in a task's history: behind the event with this number; 0 is its beginning."""

    key: Key
    after: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """What follows a place in a task's history, or the first of it."""

    version: int
    status: Status
    """The task's, as of this version."""
    events: tuple[Event, ...]
    last: int
    """The number of the last of these; if there are none, of the last that the task has."""


def stretch(task: Task, after: int, limit: int) -> Stretch:
    """The first `limit` events behind the one with the number `after`."""
    events = task.events[after : after + limit]
    return Stretch(task.version, task.status, events, (events or task.events)[-1].seq)


@dataclass(frozen=True, slots=True)
class Change:
    """A decided transition: what the task was when it was decided on, and what it is to become.

    Raises ValueError unless the history goes on: of a task that was read without its events it would begin anew.
    """

    before: Task
    after: Task

    def __post_init__(self) -> None:
        if not 0 < len(self.before.events) <= len(self.after.events):
            raise ValueError("not decided on a task with its events")
