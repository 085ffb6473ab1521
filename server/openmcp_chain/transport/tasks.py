"""TaskService."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from openmcp.chain.v1 import errors_pb2, tasks_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Queue, View
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.events import EventHub, Subscription
from openmcp_chain.engine.few import Few
from openmcp_chain.engine.identity import Identity
from openmcp_chain.engine.queues import Queues
from openmcp_chain.engine.submission import Submission, Submit
from openmcp_chain.engine.tasks import Tasks, key_of
from openmcp_chain.engine.volume import SMALL
from openmcp_chain.transport import codec, messages, submits
from openmcp_chain.transport.checks import Checks
from openmcp_chain.transport.encoded import Encoded, encode
from openmcp_chain.transport.rpc import Call

LONG_WAIT_SECONDS = 3600.0
"""A typed stream sends nothing while nothing happens; HTTP/2's own pings keep its connection."""
PART_BYTES = 64 * 1024
"""Of a stream's events about so much is on its way at a time, or one event."""
WAIT_SECONDS = 25.0
"""How long a call may wait for something to happen: less than any call may take."""
PAGE = 50
LONGEST_PAGE = 1000
FULL_PAGE = 100
"""A page with payloads and results has no more tasks."""
BATCH_SUBMIT = 1000
READ = 16
"""So many of a batch are read, or begun, in one go: others have their turn then, and a caller who left is noticed."""
BATCH_GET = 100
RETRIED = 100
MOST_RETRIED = 1000
REASON_CHARACTERS = 512


class TaskService:
    """See `tasks.proto`."""

    def __init__(
        self,
        submission: Submission,
        tasks: Tasks,
        queues: Queues,
        events: EventHub,
        identity: Identity,
        clock: Clock,
    ) -> None:
        self._submission = submission
        self._tasks = tasks
        self._queues = queues
        self._events = events
        self._identity = identity
        self._clock = clock
        self._batches = Few(1)

    async def SubmitTask(self, request: tasks_pb2.SubmitTaskRequest, call: Call) -> tasks_pb2.TaskSummary:
        """Accepts a task."""
        submit = await call.reading.run(submits.read, request, call.caller.workspace, self._clock)
        del request
        call.reading.end()
        return codec.summary(await self._submission.submit(call.caller, submit))

    async def BatchSubmitTasks(
        self, request: tasks_pb2.BatchSubmitTasksRequest, call: Call
    ) -> tasks_pb2.BatchSubmitTasksResponse:
        """Accepts tasks, each by itself."""
        checks = Checks()
        _between(checks, "requests", len(request.requests), BATCH_SUBMIT)
        checks.done()
        read = []
        for begin in range(0, len(request.requests), READ):
            part = request.requests[begin : begin + READ]
            read += await call.reading.run(self._read, part, call.caller.workspace)
            del part
            await asyncio.sleep(0)
        del request
        call.reading.end()
        begun: list[asyncio.Task[tasks_pb2.BatchSubmitResult]] = []
        # A workspace's batches begin one after the other: side by side, all would end as late as the last.
        async with asyncio.TaskGroup() as group, self._batches.turn(call.caller.workspace):
            for begin in range(0, len(read), READ):
                begun += [group.create_task(self._submit(call.caller, one)) for one in read[begin : begin + READ]]
                await asyncio.sleep(0)
        return tasks_pb2.BatchSubmitTasksResponse(results=[submit.result() for submit in begun])

    async def GetTask(self, request: tasks_pb2.GetTaskRequest, call: Call) -> Encoded:
        """Reads a task."""
        _require(request.task_id)
        view = codec.view(request.view, View.RESULT)
        return codec.detail(await self._tasks.get(call.caller, request.task_id, view, call.may_read), view)

    async def BatchGetTasks(self, request: tasks_pb2.BatchGetTasksRequest, call: Call) -> Encoded:
        """Reads tasks."""
        checks = Checks()
        _between(checks, "task_ids", len(request.task_ids), BATCH_GET)
        checks.done()
        view = codec.view(request.view, View.RESULT)
        found = await self._tasks.get_many(call.caller, request.task_ids, view, call.may_read)
        rest = tasks_pb2.BatchGetTasksResponse(
            not_found=[task_id for task_id, task in zip(request.task_ids, found, strict=False) if task is None],
            omitted=request.task_ids[len(found) :],
        )
        return encode(rest, tasks=[codec.detail(task, view) for task in found if task is not None])

    async def WaitTask(self, request: tasks_pb2.WaitTaskRequest, call: Call) -> Encoded:
        """Waits for a task's end."""
        checks = Checks()
        asked = request.timeout if request.HasField("timeout") else None
        timeout = checks.duration("timeout", asked, 0, WAIT_SECONDS)
        checks.required("task_id", request.task_id)
        checks.done()
        seconds = WAIT_SECONDS if timeout is None else timeout.total_seconds()
        await self._tasks.ask(call.caller, request.task_id, View.RESULT, call.may_read)
        key, limit = key_of(call.caller, request.task_id), self._identity.quotas(call.caller).streams
        async with self._events.ending(key, limit) as ending:
            return codec.detail(await ending.task(seconds))

    async def ListTasks(self, request: tasks_pb2.ListTasksRequest, call: Call) -> Encoded:
        """Lists tasks."""
        checks = Checks()
        checks.at_least("page_size", request.page_size, 0, 2**31 - 1)
        checks.done()
        view = codec.view(request.view, View.BASIC)
        size = min(request.page_size or PAGE, FULL_PAGE if view is View.FULL else LONGEST_PAGE)
        listed = await self._tasks.list(call.caller, request.filter, size, request.page_token, view, call.may_read)
        rest = tasks_pb2.ListTasksResponse(next_page_token=listed.next_page_token)
        return encode(rest, tasks=[codec.detail(task, view) for task in listed.tasks])

    async def CountTasks(self, request: tasks_pb2.CountTasksRequest, call: Call) -> tasks_pb2.CountTasksResponse:
        """Counts tasks."""
        counts = await self._tasks.count(call.caller, request.filter)
        return tasks_pb2.CountTasksResponse(
            counts=[
                tasks_pb2.StatusCount(status=codec.status(status), count=count) for status, count in counts.items()
            ],
            total=sum(counts.values()),
        )

    async def CancelTask(self, request: tasks_pb2.CancelTaskRequest, call: Call) -> Encoded:
        """Ends a task early."""
        checks = Checks()
        checks.required("task_id", request.task_id)
        checks.at_most("reason", request.reason, REASON_CHARACTERS)
        checks.done()
        return codec.detail(await self._tasks.cancel(call.caller, request.task_id, request.reason))

    async def RetryTask(self, request: tasks_pb2.RetryTaskRequest, call: Call) -> Encoded:
        """Tries a task again."""
        _require(request.task_id)
        return codec.detail(await self._tasks.retry(call.caller, request.task_id))

    async def BatchRetryTasks(
        self, request: tasks_pb2.BatchRetryTasksRequest, call: Call
    ) -> tasks_pb2.BatchRetryTasksResponse:
        """Tries tasks again."""
        checks = Checks()
        checks.at_least("limit", request.limit, 0, MOST_RETRIED)
        checks.done()
        limit = request.limit or RETRIED
        retried = await self._tasks.retry_many(call.caller, request.filter, limit, request.page_token)
        return tasks_pb2.BatchRetryTasksResponse(
            task_ids=retried.task_ids, more=retried.more, next_page_token=retried.next_page_token
        )

    async def StreamTaskEvents(
        self, request: tasks_pb2.StreamTaskEventsRequest, call: Call
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        """Sends a task's events until the terminal one."""
        async with follow(self._events, self._identity, call, request.task_id, request.after_sequence) as events:
            while not events.ended:
                for step in await events.next(LONG_WAIT_SECONDS):
                    yield codec.event(events.task_id, step)

    async def ListTaskTypes(self, _: tasks_pb2.ListTaskTypesRequest, call: Call) -> tasks_pb2.ListTaskTypesResponse:
        """Lists the types that the workspace uses."""
        await self._queues.refresh()
        states = self._queues.of_workspace(call.caller.workspace)
        return tasks_pb2.ListTaskTypesResponse(task_types=[codec.task_type(state) for state in states])

    async def PauseTaskType(
        self, request: tasks_pb2.PauseTaskTypeRequest, call: Call
    ) -> tasks_pb2.PauseTaskTypeResponse:
        """Pauses a type."""
        checks = Checks()
        checks.task_type("type", request.type)
        checks.at_most("reason", request.reason, REASON_CHARACTERS)
        checks.done()
        state = await self._queues.pause(Queue(call.caller.workspace, request.type), request.reason)
        return tasks_pb2.PauseTaskTypeResponse(task_type=codec.task_type(state))

    async def ResumeTaskType(
        self, request: tasks_pb2.ResumeTaskTypeRequest, call: Call
    ) -> tasks_pb2.ResumeTaskTypeResponse:
        """Ends a type's pause."""
        checks = Checks()
        checks.task_type("type", request.type)
        checks.done()
        state = await self._queues.resume(Queue(call.caller.workspace, request.type))
        return tasks_pb2.ResumeTaskTypeResponse(task_type=codec.task_type(state))

    async def _submit(
        self, caller: Principal, submit: Submit | tasks_pb2.BatchSubmitResult
    ) -> tasks_pb2.BatchSubmitResult:
        """Accepts one of a batch, unless it was refused when it was read."""
        if isinstance(submit, tasks_pb2.BatchSubmitResult):
            return submit
        try:
            task = await self._submission.submit(caller, submit)
        except errors.Error as error:
            return _refused(error)
        return tasks_pb2.BatchSubmitResult(task=codec.summary(task))

    def _read(
        self, requests: Sequence[tasks_pb2.SubmitTaskRequest], workspace: str
    ) -> list[Submit | tasks_pb2.BatchSubmitResult]:
        """Reads some of a batch: each is what to accept, or refused by itself."""
        read: list[Submit | tasks_pb2.BatchSubmitResult] = []
        for request in requests:
            try:
                read.append(submits.read(request, workspace, self._clock))
            except errors.Error as error:
                read.append(_refused(error))
        return read


@asynccontextmanager
async def follow(
    hub: EventHub, identity: Identity, call: Call, task_id: str, after: int, named: str = "after_sequence"
) -> AsyncIterator[Subscription]:
    """Follows a task for a stream of its events: the fields checked, the limit that of its caller's plan.

    `named` is the field that `after` comes from. Used by gRPC and by SSE.
    """
    checks = Checks()
    checks.required("task_id", task_id)
    checks.at_least(named, after, 0, 2**31 - 1)
    checks.done()
    key = key_of(call.caller, task_id)
    async with hub.subscribe(key, after, identity.quotas(call.caller).streams, named) as events:
        try:
            yield events
        finally:
            # The stream has ended, but its status waits behind the part that is on its way.
            if events.unsent > SMALL:
                messages.hold(call.context, hub.unread, key.workspace, min(events.unsent, PART_BYTES))


def _refused(error: errors.Error) -> tasks_pb2.BatchSubmitResult:
    return tasks_pb2.BatchSubmitResult(error=errors_pb2.Error(code=error.code, message=error.message))


def _require(task_id: str) -> None:
    checks = Checks()
    checks.required("task_id", task_id)
    checks.done()


def _between(checks: Checks, field: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        checks.refuse(field, f"has {count} entries; 1 to {most} are allowed")
