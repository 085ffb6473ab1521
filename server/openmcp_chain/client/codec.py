"""Contract ↔ values: requests from what the user gave, values from what the server said."""

import math
import uuid
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias, get_args

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.client import payloads
from openmcp_chain.client.errors import ApiError
from openmcp_chain.client.submission import NewTask
from openmcp_chain.client.values import (
    Counts,
    Event,
    Progress,
    RetryPolicy,
    Seconds,
    Status,
    Submitted,
    Task,
    TaskType,
    View,
)

_Time: TypeAlias = Literal[
    "schedule_to_start_timeout",
    "start_to_close_timeout",
    "schedule_to_close_timeout",
    "heartbeat_timeout",
    "retention",
]

VIEWS: dict[View | None, tasks_pb2.TaskView.ValueType] = {
    None: tasks_pb2.TASK_VIEW_UNSPECIFIED,
    "BASIC": tasks_pb2.TASK_VIEW_BASIC,
    "FULL": tasks_pb2.TASK_VIEW_FULL,
}
_CONFLICT = {
    None: tasks_pb2.CONFLICT_POLICY_UNSPECIFIED,
    "FAIL": tasks_pb2.CONFLICT_POLICY_FAIL,
    "USE_EXISTING": tasks_pb2.CONFLICT_POLICY_USE_EXISTING,
}
_TIMES: tuple[_Time, ...] = get_args(_Time)
_STATUS: dict[int, Status] = {
    tasks_pb2.TASK_STATUS_PENDING: Status.PENDING,
    tasks_pb2.TASK_STATUS_RUNNING: Status.RUNNING,
    tasks_pb2.TASK_STATUS_SUCCEEDED: Status.SUCCEEDED,
    tasks_pb2.TASK_STATUS_FAILED: Status.FAILED,
    tasks_pb2.TASK_STATUS_CANCELLED: Status.CANCELLED,
}


def seconds(length: Seconds) -> float:
    """A length of time in seconds. Raises ValueError if it is none."""
    value = length.total_seconds() if isinstance(length, timedelta) else float(length)
    if not math.isfinite(value):
        raise ValueError(f"a length of time is wanted, not {value}")
    return value


def duration(length: Seconds) -> Duration:
    """A length of time as it is sent. Raises ValueError if it is none."""
    message = Duration()
    message.FromNanoseconds(round(seconds(length) * 1e9))
    return message


def submit_request(task: NewTask) -> tasks_pb2.SubmitTaskRequest:
    """The request, with a `request_id`. Raises PayloadError, and ValueError for an option that can't be sent."""
    options = task.options
    request = tasks_pb2.SubmitTaskRequest(
        type=task.type,
        payload=payloads.to_struct(task.payload),
        metadata=options.get("metadata"),
        labels=options.get("labels"),
        priority=options.get("priority", 0),
        dedupe_key=options.get("dedupe_key", ""),
        conflict_policy=_CONFLICT[options.get("on_conflict")],
        request_id=options.get("request_id") or str(uuid.uuid4()),
    )
    if at := options.get("schedule_time"):
        if at.tzinfo is None:
            raise ValueError("schedule_time: needs a time zone")
        request.schedule_time.FromDatetime(at)
    if policy := options.get("retry_policy"):
        request.retry_policy.CopyFrom(_retry_policy(policy))
    for name in _TIMES:
        if (length := options.get(name)) is not None:
            getattr(request, name).CopyFrom(duration(length))
    return request


def _retry_policy(policy: RetryPolicy) -> tasks_pb2.RetryPolicy:
    message = tasks_pb2.RetryPolicy(
        backoff_coefficient=policy.backoff_coefficient or 0.0,
        maximum_attempts=policy.maximum_attempts or 0,
        non_retryable_error_codes=policy.non_retryable_error_codes,
    )
    if policy.initial_interval is not None:
        message.initial_interval.CopyFrom(duration(policy.initial_interval))
    if policy.maximum_interval is not None:
        message.maximum_interval.CopyFrom(duration(policy.maximum_interval))
    return message


def submitted(summary: tasks_pb2.TaskSummary, request_id: str) -> Submitted:
    """The answer to a submit."""
    return Submitted(
        task_id=summary.task_id,
        status=_status(summary.status),
        submitted_at=_time(summary.submitted_at),
        request_id=request_id,
    )


def outcome(result: tasks_pb2.BatchSubmitResult, request_id: str) -> Submitted | ApiError:
    """What has become of one task of a batch."""
    if result.HasField("task"):
        return submitted(result.task, request_id)
    return ApiError("", result.error.code, result.error.message)


def task(detail: tasks_pb2.TaskDetail) -> Task:
    """A task's state."""
    return Task(
        task_id=detail.task_id,
        type=detail.type,
        status=_status(detail.status),
        submitted_at=_time(detail.submitted_at),
        updated_at=_time(detail.updated_at),
        result=payloads.from_struct(detail.result) if detail.HasField("result") else None,
        error=detail.error or None,
        payload=payloads.from_struct(detail.payload) if detail.HasField("payload") else None,
        metadata=dict(detail.metadata),
        labels=dict(detail.labels),
        priority=detail.priority,
        attempt=detail.attempt,
        progress=Progress(detail.progress.fraction, detail.progress.message) if detail.HasField("progress") else None,
        cancel_requested=detail.cancel_requested,
        schedule_time=_time(detail.schedule_time) if detail.HasField("schedule_time") else None,
        expire_time=_time(detail.expire_time) if detail.HasField("expire_time") else None,
        dedupe_key=detail.dedupe_key,
    )


def event(message: tasks_pb2.TaskEvent) -> Event:
    """One event of a task."""
    return Event(
        task_id=message.task_id,
        sequence=message.sequence,
        status=_status(message.status),
        occurred_at=_time(message.occurred_at),
        context=payloads.from_struct(message.context),
    )


def counts(answer: tasks_pb2.CountTasksResponse) -> Counts:
    """How many tasks there are; statuses that this client does not know are counted together."""
    by_status: dict[Status, int] = {}
    for one in answer.counts:
        status = _status(one.status)
        by_status[status] = by_status.get(status, 0) + one.count
    return Counts(total=answer.total, by_status=by_status)


def task_type(message: tasks_pb2.TaskType) -> TaskType:
    """A task type."""
    return TaskType(
        type=message.type,
        paused=message.paused,
        paused_at=_time(message.paused_at) if message.HasField("paused_at") else None,
        reason=message.reason,
    )


def _time(at: Timestamp) -> datetime:
    return at.ToDatetime(UTC)


def _status(number: int) -> Status:
    return _STATUS.get(number, Status.UNKNOWN)
