"""Proto ↔ domain, in pairs: the only place where one becomes the other."""

import json
from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from openmcp.chain.v1 import tasks_pb2, workers_pb2, workspaces_pb2
from openmcp_chain.domain import audit
from openmcp_chain.domain.queue import QueueState
from openmcp_chain.domain.task import Event, Key, Status, Task, View
from openmcp_chain.domain.workspace import Kind, Quotas, Secret, State, Workspace
from openmcp_chain.engine.leases import LeaseRef
from openmcp_chain.transport.encoded import Encoded, encode

_STATUS = {
    Status.PENDING: tasks_pb2.TASK_STATUS_PENDING,
    Status.RUNNING: tasks_pb2.TASK_STATUS_RUNNING,
    Status.SUCCEEDED: tasks_pb2.TASK_STATUS_SUCCEEDED,
    Status.FAILED: tasks_pb2.TASK_STATUS_FAILED,
    Status.CANCELLED: tasks_pb2.TASK_STATUS_CANCELLED,
}
_KIND = {
    Kind.TENANT: workspaces_pb2.WORKSPACE_KIND_TENANT,
    Kind.OPERATOR: workspaces_pb2.WORKSPACE_KIND_OPERATOR,
    Kind.ADMINISTRATOR: workspaces_pb2.WORKSPACE_KIND_ADMINISTRATOR,
}
_STATE = {
    State.ACTIVE: workspaces_pb2.WORKSPACE_STATE_ACTIVE,
    State.DISABLED: workspaces_pb2.WORKSPACE_STATE_DISABLED,
    State.DELETING: workspaces_pb2.WORKSPACE_STATE_DELETING,
}


def status(of: Status) -> tasks_pb2.TaskStatus.ValueType:
    """A status on the wire."""
    return _STATUS[of]


def struct_to_bytes(struct: Struct, *, deterministic: bool) -> bytes:
    """A Struct as it is stored. Deterministic where two of them are to be compared by their bytes."""
    # What a Struct does not define must not be carried along unseen.
    struct.DiscardUnknownFields()
    return struct.SerializeToString(deterministic=deterministic)


def timestamp(at: datetime) -> Timestamp:
    """A time, which is in whole milliseconds."""
    milliseconds = round(at.timestamp() * 1000)
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def summary(task: Task) -> tasks_pb2.TaskSummary:
    """The answer to a submit. Always PENDING, so that a repeated submit gets the first answer."""
    return tasks_pb2.TaskSummary(
        task_id=task.id, status=tasks_pb2.TASK_STATUS_PENDING, submitted_at=timestamp(task.submitted_at)
    )


def view(wanted: tasks_pb2.TaskView.ValueType, default: View) -> View:
    """The view that a request asks for; an unknown one counts as none."""
    return {tasks_pb2.TASK_VIEW_BASIC: View.BASIC, tasks_pb2.TASK_VIEW_FULL: View.FULL}.get(wanted, default)


def detail(task: Task, wanted: View = View.RESULT) -> Encoded:
    """A task's present state, a TaskDetail."""
    state = tasks_pb2.TaskDetail(
        task_id=task.id,
        status=_STATUS[task.status],
        submitted_at=timestamp(task.submitted_at),
        updated_at=timestamp(task.updated_at),
        error=str(task.failure) if task.failure else "",
        type=task.type,
        metadata=task.metadata,
        labels=task.labels,
        priority=task.priority,
        attempt=task.attempt,
        progress=tasks_pb2.TaskProgress(fraction=task.progress.fraction, message=task.progress.message)
        if task.progress
        else None,
        cancel_requested=task.cancel is not None,
        schedule_time=timestamp(task.schedule_time) if task.status is Status.PENDING else None,
        expire_time=timestamp(task.due_at) if task.status.terminal else None,
        dedupe_key=task.dedupe_key,
    )
    return encode(
        state,
        result=task.result if wanted is not View.BASIC else None,
        payload=task.payload if wanted is View.FULL else None,
    )


def task_type(state: QueueState) -> tasks_pb2.TaskType:
    """A type, as its workspace uses it."""
    return tasks_pb2.TaskType(
        type=state.queue.type,
        paused=state.paused_at is not None,
        paused_at=timestamp(state.paused_at) if state.paused_at else None,
        reason=state.reason,
    )


def event(task_id: str, step: Event) -> tasks_pb2.TaskEvent:
    """One event of a task."""
    context = Struct()
    context.update(dict(step.context))
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


def leased_task(task: Task, duration: timedelta) -> Encoded:
    """A task for the worker that holds its lease, which lasts `duration` without a heartbeat: a LeasedTask."""
    deadline = task.lease.deadline if task.lease else None
    leased = workers_pb2.LeasedTask(
        lease=lease_of(task),
        type=task.type,
        metadata=task.metadata,
        attempt=task.attempt,
        traceparent=task.traceparent,
        lease_duration=duration_of(duration),
        deadline=timestamp(deadline) if deadline else None,
        labels=task.labels,
    )
    return encode(leased, payload=task.payload)


def duration_of(span: timedelta) -> Duration:
    """A span of time."""
    duration = Duration()
    duration.FromTimedelta(span)
    return duration


def lease_of(task: Task) -> workers_pb2.LeaseRef:
    """The lease under which a task runs, for its worker."""
    token = task.lease.token if task.lease else ""
    return workers_pb2.LeaseRef(workspace_id=task.workspace, task_id=task.id, lease_token=token)


def named_lease(ref: LeaseRef) -> workers_pb2.LeaseRef:
    """The same of one that is known by its names."""
    return workers_pb2.LeaseRef(workspace_id=ref.key.workspace, task_id=ref.key.id, lease_token=ref.token)


def lease_ref(ref: workers_pb2.LeaseRef) -> LeaseRef:
    """The lease that a worker names."""
    return LeaseRef(Key(ref.workspace_id, ref.task_id), ref.lease_token)


def workspace(known: Workspace) -> workspaces_pb2.Workspace:
    """A workspace, as administrators see it."""
    return workspaces_pb2.Workspace(
        workspace_id=known.id,
        kind=_KIND[known.kind],
        state=_STATE[known.state],
        plan=known.plan,
        quotas=workspaces_pb2.Quotas(pending_tasks=known.quotas.pending_tasks, streams=known.quotas.streams),
        worker_types=sorted(known.worker_types),
        created_at=timestamp(known.created_at),
        updated_at=timestamp(known.updated_at),
    )


def quotas(wanted: workspaces_pb2.Quotas) -> Quotas:
    """What a workspace is to be allowed."""
    return Quotas(pending_tasks=wanted.pending_tasks, streams=wanted.streams)


def secret_info(kept: Secret) -> workspaces_pb2.SecretInfo:
    """What may be told of a secret."""
    return workspaces_pb2.SecretInfo(
        secret_id=kept.id,
        created_at=timestamp(kept.created_at),
        expires_at=timestamp(kept.expires_at) if kept.expires_at else None,
    )


def audit_event(done: audit.Event) -> workspaces_pb2.AuditEvent:
    """An entry of the audit log."""
    return workspaces_pb2.AuditEvent(
        event_id=done.id,
        occurred_at=timestamp(done.at),
        actor=done.actor.name,
        action=done.action.value,
        workspace_id=done.workspace,
        details=done.details,
        request_id=done.actor.request_id,
    )
