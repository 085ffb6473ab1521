"""A task and what belongs to it. Values only; `transitions` has the rules by which one becomes the next."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class Status(enum.StrEnum):
    """Where a task is in its life. The numbers on the wire are the transport's affair."""

    PENDING = "PENDING"
    """Waiting for a worker, from `due_at` on. A claim moves it out; a crash changes nothing."""
    RUNNING = "RUNNING"
    """A worker holds its lease. Its report moves the task out, or the lease's end if the worker dies."""
    SUCCEEDED = "SUCCEEDED"
    """Ended, with a result. Nothing moves it out; retention deletes it."""
    FAILED = "FAILED"
    """Ended, with a failure. Nothing moves it out; retention deletes it."""

    @property
    def terminal(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED)


class Priority(enum.IntEnum):
    """Orders a workspace's waiting tasks: a lower number goes first (Temporal's direction)."""

    HIGH = 1
    NORMAL = 3
    LOW = 5


class Key(NamedTuple):
    """A task's primary key. The workspace comes first, so that a cluster can be sharded by it."""

    workspace: str
    id: str


@dataclass(frozen=True, slots=True)
class Event:
    """One step in a task's life, never changed once written."""

    seq: int
    """1, 2, 3, … without gaps within a task."""
    status: Status
    """The task's status after it."""
    at: datetime
    context: Mapping[str, str | int]
    """What is worth knowing about it; plain JSON values."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one worker to report on a task for a while."""

    token: str
    """Unguessable, and new with each claim: it fences off every earlier holder."""
    worker: str
    """The worker's name, for people."""
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt, or a task, failed."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A unit of work, as it is stored: state and history in one value, so that they cannot disagree.

    Times are UTC, to the millisecond. Each stored change raises `version` by one; a write names the version that it was
    decided on, and loses if another came first.
    """

    workspace: str
    id: str
    type: str
    payload: bytes
    """The serialized `google.protobuf.Struct`, opaque here."""
    metadata: Mapping[str, str]
    priority: Priority
    fingerprint: bytes
    """Digest of the submitted request if it had a request_id, else empty."""
    traceparent: str
    """The W3C trace context of the submit, or empty."""
    max_attempts: int
    submitted_at: datetime

    version: int
    status: Status
    attempt: int
    """How many attempts have begun."""
    due_at: datetime | None
    """When somebody must see to it: PENDING, from when it may run; RUNNING, when its lease expires; ended, None."""
    lease: Lease | None
    """While RUNNING, the holder's. It stays after the end, so that a repeated report is known for what it is."""
    updated_at: datetime
    """When its last event happened."""
    events: tuple[Event, ...]
    result: bytes | None
    """The serialized `google.protobuf.Struct` of a SUCCEEDED task."""
    failure: Failure | None
    """Why a FAILED task failed."""
    expire_at: datetime | None
    """When retention deletes it; set when it ends."""

    @property
    def key(self) -> Key:
        return Key(self.workspace, self.id)


@dataclass(frozen=True, slots=True)
class Change:
    """A decided transition: what the task was when it was decided on, and what it is to become."""

    before: Task
    after: Task
