"""TaskService."""

from collections.abc import AsyncIterator

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.domain import errors, ids
from openmcp_chain.domain.task import Key
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine.events import EventHub, Subscription
from openmcp_chain.engine.identity import Identity
from openmcp_chain.engine.submission import Submission, Submit
from openmcp_chain.transport import codec
from openmcp_chain.transport.checks import Checks
from openmcp_chain.transport.rpc import Call

LONG_WAIT_SECONDS = 3600.0
"""A typed stream sends nothing while nothing happens; HTTP/2's own pings keep its connection."""


class TaskService:
    """See `tasks.proto`."""

    def __init__(self, submission: Submission, events: EventHub, identity: Identity) -> None:
        self._submission = submission
        self._events = events
        self._identity = identity

    async def SubmitTask(self, request: tasks_pb2.SubmitTaskRequest, call: Call) -> tasks_pb2.TaskSummary:
        """Accepts a task."""
        if request.workspace_id and request.workspace_id != call.caller.workspace:
            raise errors.WorkspaceMismatch
        checks = Checks()
        checks.task_type("type", request.type)
        priority = checks.metadata("metadata", request.metadata)
        checks.request_id("request_id", request.request_id)
        await checks.struct("payload", request.payload)
        checks.done()
        task = await self._submission.submit(
            call.caller,
            Submit(
                type=request.type,
                payload=codec.struct_to_bytes(request.payload, deterministic=bool(request.request_id)),
                metadata=dict(request.metadata),
                priority=priority,
                request_id=request.request_id,
            ),
        )
        return codec.summary(task)

    async def GetTask(self, request: tasks_pb2.GetTaskRequest, call: Call) -> tasks_pb2.TaskDetail:
        """Reads a task."""
        checks = Checks()
        checks.required("task_id", request.task_id)
        checks.done()
        return codec.detail(await self._submission.get(call.caller, request.task_id))

    async def StreamTaskEvents(
        self, request: tasks_pb2.StreamTaskEventsRequest, call: Call
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        """Sends a task's events until the terminal one."""
        async with follow(self._events, self._identity, call.caller, request.task_id, request.after_sequence) as events:
            while not events.ended:
                for step in await events.next(LONG_WAIT_SECONDS):
                    yield codec.event(events.task_id, step)


def follow(hub: EventHub, identity: Identity, caller: Principal, task_id: str, after: int) -> Subscription:
    """Follows a task for a caller: the fields checked, the limit that of its plan. Used by gRPC and by SSE."""
    checks = Checks()
    checks.required("task_id", task_id)
    checks.at_least("after_sequence", after, 0, 2**31 - 1)
    checks.done()
    if not ids.is_uuid(task_id):
        raise errors.TaskNotFound(task_id)
    key = Key(caller.workspace, task_id.lower())
    return hub.subscribe(key, after, identity.plan(caller).streams, lambda: identity.recheck(caller))
