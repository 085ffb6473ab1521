"""What users of the client get and give: plain values, named as the contract names them."""

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

Seconds: TypeAlias = float | timedelta
"""A length of time."""
View: TypeAlias = Literal["BASIC", "FULL"]
"""What of a task is wanted: all but payload and result, or everything."""


class Status(enum.StrEnum):
    """Where a task is in its life."""

    PENDING = "PENDING"
    """It waits: for a worker, for its time, or for its next attempt."""
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    """One that this client is too old to know; it counts as not ended."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the task by itself."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt says that it is."""

    fraction: float
    """From 0 to 1."""
    message: str = ""
    """What it is at, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """An accepted task: it is durable, and a worker will run it."""

    task_id: str
    status: Status
    submitted_at: datetime
    request_id: str
    """With the same one, the same submit is answered alike, however often it is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it was when the server was asked."""

    task_id: str
    type: str
    status: Status
    submitted_at: datetime
    updated_at: datetime
    """When its last event happened."""
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    """What it returned, as JSON values; set once it has succeeded, and not in the `BASIC` view."""
    error: str | None = None
    """Why it failed, as `CODE: message`."""
    payload: Mapping[str, Any] | None = field(default=None, repr=False)
    """As submitted; only in the `FULL` view."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 3
    """1 (first) to 5 (last)."""
    attempt: int = 0
    """How many attempts have begun, but for one that never reached its worker."""
    progress: Progress | None = None
    """Of the running attempt, if it has told any."""
    cancel_requested: bool = False
    schedule_time: datetime | None = None
    """When it may run or be tried again, if it waits."""
    expire_time: datetime | None = None
    """When it is deleted; set once it has ended."""
    dedupe_key: str = ""

    @property
    def error_code(self) -> str | None:
        """The stable part of `error`."""
        return self.error.partition(":")[0] if self.error else None


TaskId: TypeAlias = str | Task | Submitted
"""What names a task: its id, or what has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step in a task's life."""

    task_id: str
    sequence: int
    """Its place in the task's history: 1, 2, 3, … Events after it are got with `after=sequence`."""
    status: Status
    """The task's, after it."""
    occurred_at: datetime
    context: Mapping[str, Any]
    """What is worth knowing about it, such as `attempt`, `worker`, or the `code` and `message` of a failure."""

    @property
    def progress(self) -> Progress | None:
        """What it says of how far the attempt is."""
        fraction = self.context.get("progress")
        if not isinstance(fraction, int | float):
            return None
        return Progress(float(fraction), str(self.context.get("message", "")))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed attempt is tried again; what is None has the server's default.

    The wait is random (full jitter), of at most `initial_interval * backoff_coefficient ** (attempt - 1)` and at most
    `maximum_interval`.
    """

    initial_interval: Seconds | None = None
    """Default: half a second."""
    backoff_coefficient: float | None = None
    """Default: 2."""
    maximum_interval: Seconds | None = None
    """Default: a minute."""
    maximum_attempts: int | None = None
    """How often it is tried at all. Default: 5."""
    non_retryable_error_codes: Collection[str] = ()
    """Codes of failures that are final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many tasks there are; may be some seconds old."""

    total: int
    by_status: Mapping[Status, int]
    """Only those that occur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskType:
    """A task type, as the workspace uses it."""

    type: str
    paused: bool
    paused_at: datetime | None = None
    reason: str = ""
    """Why it was paused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """Which tasks `batch_retry` has set going again."""

    task_ids: tuple[str, ...]
    more: bool
    """Whether the filter may select more of them."""
    next_page_token: str = ""
    """With `more`: the `page_token` by which the next call goes on, with the same filter."""
