"""Proto ↔ domain, in pairs: the only place where one becomes the other."""

import json
from datetime import datetime

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain.domain.task import Event, Key, Status, Task
from openmcp_chain.engine.leases import LeaseRef

_STATUS = {
    Status.PENDING: tasks_pb2.TASK_STATUS_PENDING,
    Status.RUNNING: tasks_pb2.TASK_STATUS_RUNNING,
    Status.SUCCEEDED: tasks_pb2.TASK_STATUS_SUCCEEDED,
    Status.FAILED: tasks_pb2.TASK_STATUS_FAILED,
}


def struct_to_bytes(struct: Struct, *, deterministic: bool) -> bytes:
    """A Struct as it is stored. Deterministic where two of them are to be compared by their bytes."""
    # What a Struct does not define must not be carried along unseen.
    struct.DiscardUnknownFields()
    return struct.SerializeToString(deterministic=deterministic)


def struct_from_bytes(data: bytes) -> Struct:
    """A stored Struct."""
    return Struct.FromString(data)


def timestamp(at: datetime) -> Timestamp:
    """A time, which is in whole milliseconds."""
    milliseconds = round(at.timestamp() * 1000)
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def summary(task: Task) -> tasks_pb2.TaskSummary:
    """The answer to a submit. Always PENDING, so that a repeated submit gets the first answer."""
    return tasks_pb2.TaskSummary(
        task_id=task.id, status=tasks_pb2.TASK_STATUS_PENDING, submitted_at=timestamp(task.submitted_at)
    )


def detail(task: Task) -> tasks_pb2.TaskDetail:
    """A task's present state."""
    return tasks_pb2.TaskDetail(
        task_id=task.id,
        status=_STATUS[task.status],
        submitted_at=timestamp(task.submitted_at),
        updated_at=timestamp(task.updated_at),
        result=struct_from_bytes(task.result) if task.result is not None else None,
        error=str(task.failure) if task.failure else "",
    )


def event(task_id: str, step: Event) -> tasks_pb2.TaskEvent:
    """One event of a task."""
    context = Struct()
    context.update(step.context)
    return tasks_pb2.TaskEvent(
        task_id=task_id,
        status=_STATUS[step.status],
        occurred_at=timestamp(step.at),
        context=context,
        sequence=step.seq,
    )


def server_sent_event(task_id: str, step: Event) -> bytes:
    """One event as a Server-Sent Event. Its data is what Envoy would make of the TaskEvent; a test holds it to that."""
    shown = {
        "task_id": task_id,
        "status": step.status.value,
        "occurred_at": timestamp(step.at).ToJsonString(),
        "context": dict(step.context),
        "sequence": step.seq,
    }
    data = json.dumps(shown, separators=(",", ":"))
    return f"id: {step.seq}\nevent: status\ndata: {data}\n\n".encode()


def leased_task(task: Task) -> workers_pb2.LeasedTask:
    """A task for the worker that holds its lease."""
    return workers_pb2.LeasedTask(
        lease=workers_pb2.LeaseRef(
            workspace_id=task.workspace, task_id=task.id, lease_token=task.lease.token if task.lease else ""
        ),
        type=task.type,
        payload=struct_from_bytes(task.payload),
        metadata=task.metadata,
        attempt=task.attempt,
        traceparent=task.traceparent,
    )


def lease_ref(ref: workers_pb2.LeaseRef) -> LeaseRef:
    """The lease that a worker names."""
    return LeaseRef(Key(ref.workspace_id, ref.task_id), ref.lease_token)
