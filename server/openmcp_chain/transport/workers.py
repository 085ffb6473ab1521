"""WorkerService: workers' streams, and the same by calls."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from weakref import WeakValueDictionary

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import answers
from openmcp_chain.engine.allowance import Allowance
from openmcp_chain.engine.dispatch import Dispatcher
from openmcp_chain.engine.identity import Identity
from openmcp_chain.engine.leases import Leases
from openmcp_chain.engine.leasing import Ask, Leasing
from openmcp_chain.engine.quotas import Streams
from openmcp_chain.transport import codec, messages
from openmcp_chain.transport.checks import Checks
from openmcp_chain.transport.dues import Dues
from openmcp_chain.transport.encoded import Encoded, encode
from openmcp_chain.transport.large import Large
from openmcp_chain.transport.reports import Completed, Reports, allow, demand, introduce
from openmcp_chain.transport.rpc import Call
from openmcp_chain.transport.workstream import REPORT_BYTES, WorkerStream

WAIT_SECONDS = 25.0
LEASED = 100


class WorkerService:
    """See `workers.proto`."""

    def __init__(
        self,
        leases: Leases,
        leasing: Leasing,
        dispatcher: Dispatcher,
        identity: Identity,
        quota: Streams,
        dues: Dues,
        large: Large,
    ) -> None:
        self._leases = leases
        self._leasing = leasing
        self._reports = Reports(leases)
        self._dispatcher = dispatcher
        self._identity = identity
        self._quota = quota
        self._dues = dues
        self._large = large
        self._unread = large.unread
        self._streams: set[WorkerStream] = set()
        self._allowances = WeakValueDictionary[str, Allowance]()
        """By workspace, as long as it has a stream."""
        self.draining = False

    async def Work(
        self, requests: AsyncIterator[bytes], call: Call
    ) -> AsyncIterator[workers_pb2.WorkResponse | Encoded]:
        """Holds one worker's conversation."""
        if self.draining:
            raise errors.ServerDraining
        with self._quota.hold(call.caller.workspace, self._identity.quotas(call.caller).streams):
            allowance = self._allowances.setdefault(call.caller.workspace, Allowance(REPORT_BYTES))
            stream = WorkerStream(
                self._leases,
                self._dispatcher,
                self._identity,
                call.bearer,
                allowance,
                self._large,
                self._dues,
                call.decode,
            )
            self._streams.add(stream)
            try:
                async with aclosing(stream.run(requests)) as responses:
                    async for response in responses:
                        yield response
                        del response  # the next one may be hours away
            finally:
                self._streams.discard(stream)
                await stream.close()
                # Its status waits behind what its worker has not read.
                if stream.unread:
                    messages.hold(call.context, self._unread, call.caller.workspace, stream.unread)

    async def LeaseTasks(self, request: workers_pb2.LeaseTasksRequest, call: Call) -> Encoded:
        """Leases tasks."""
        checks = Checks()
        introduce(checks, "", request)
        checks.at_least("max_tasks", request.max_tasks, 0, LEASED)
        checks.request_id("request_id", request.request_id)
        wait = checks.duration("wait", request.wait if request.HasField("wait") else None, 0, WAIT_SECONDS)
        checks.done()
        allow(call.caller, request.task_types)
        if self.draining:
            raise errors.ServerDraining
        leasing = self._leasing.lease(
            call.caller.workspace,
            self._identity.quotas(call.caller).streams,
            Ask(
                worker=request.worker_name,
                version=request.worker_version,
                demand=demand(call.caller, request.task_types),
                most=request.max_tasks or 1,
                wait=wait.total_seconds() if wait else 0.0,
                request_id=request.request_id.lower(),
                most_bytes=answers.BYTES,
            ),
            lambda: self._admit_lease(call.caller),
        )
        async with leasing as (tasks, again):
            leased = [codec.leased_task(task, self._dispatcher.lease_duration(task)) for task in tasks]
            answer = encode(workers_pb2.LeaseTasksResponse(), tasks=leased)
            if again:
                self._unread.ask(call.caller.workspace, len(answer))
                self._dues.repeated(call.caller, len(answer))  # last: who is refused pays nothing
            else:
                self._dues.leased(call.caller, len(answer))
        return answer

    def _admit_lease(self, caller: Principal) -> None:
        """Raises what the answer could be refused for, before its tasks are given away."""
        self._dues.may_lease(caller)
        self._unread.ask(caller.workspace, answers.BYTES)

    async def HeartbeatTask(
        self, request: workers_pb2.HeartbeatTaskRequest, call: Call
    ) -> workers_pb2.HeartbeatTaskResponse:
        """Extends a lease."""
        _check(request.lease)
        progress = request.progress if request.HasField("progress") else None
        ref = codec.lease_ref(request.lease)
        task = await self._reports.heartbeat(call.caller, ref, progress, "", request.log)
        return workers_pb2.HeartbeatTaskResponse(
            cancel_requested=task.cancel is not None,
            lease_duration=codec.duration_of(self._dispatcher.lease_duration(task)),
        )

    async def CompleteTask(
        self, request: workers_pb2.CompleteTaskRequest, call: Call
    ) -> workers_pb2.CompleteTaskResponse:
        """Ends a task with success."""
        _check(request.lease)
        report = await call.reading.run(Completed.read, "result", request.lease, request.result)
        del request
        call.reading.end()
        await self._reports.complete(call.caller, report)
        return workers_pb2.CompleteTaskResponse()

    async def FailTask(self, request: workers_pb2.FailTaskRequest, call: Call) -> workers_pb2.FailTaskResponse:
        """Ends an attempt with failure."""
        _check(request.lease)
        delay = request.retry_delay if request.HasField("retry_delay") else None
        task = await self._reports.fail(
            call.caller,
            codec.lease_ref(request.lease),
            request.code,
            request.message,
            delay,
            "",
            retryable=request.retryable,
        )
        return workers_pb2.FailTaskResponse(status=codec.status(task.status))

    async def StopTask(self, request: workers_pb2.StopTaskRequest, call: Call) -> workers_pb2.StopTaskResponse:
        """Ends a task that was to stop."""
        _check(request.lease)
        await self._leases.stop(call.caller, codec.lease_ref(request.lease))
        return workers_pb2.StopTaskResponse()

    def drain(self) -> None:
        """Tells every worker to go elsewhere, and ends its stream once its reports are answered."""
        self.draining = True
        self._leasing.drain()
        for stream in self._streams:
            stream.drain()


def _check(lease: workers_pb2.LeaseRef) -> None:
    checks = Checks()
    checks.lease("lease", lease)
    checks.done()
