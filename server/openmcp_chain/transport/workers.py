"""WorkerService: one worker's stream. Reports become calls of `engine.leases`; leased tasks go back."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.task import Failure, Task
from openmcp_chain.domain.workspace import Principal, Scope
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import Demand, Dispatcher, Session
from openmcp_chain.engine.identity import Identity
from openmcp_chain.engine.leases import Leases
from openmcp_chain.engine.tokens import CLOCK_SKEW
from openmcp_chain.transport import codec
from openmcp_chain.transport.allowance import Allowance
from openmcp_chain.transport.checks import Checks
from openmcp_chain.transport.rpc import Call

log = logging.getLogger(__name__)

TASK_TYPES = 64
CONCURRENCY = 1000
REPORTS = 1024
"""Reports of a stream that are not answered on the wire yet; past it, the server reads no more from the worker."""
REPORT_BYTES = 8 * 1024 * 1024
"""What those reports that are being carried out may have together."""
FAILURE_CODE_CHARACTERS = 64
FAILURE_MESSAGE_CHARACTERS = 2048
RECHECK_SECONDS = 2.0
"""How often the stream's token is looked at again."""

_Report: TypeAlias = workers_pb2.Heartbeat | workers_pb2.Complete | workers_pb2.Fail


class WorkerService:
    """See `workers.proto`."""

    def __init__(self, leases: Leases, dispatcher: Dispatcher, identity: Identity, clock: Clock) -> None:
        self._leases = leases
        self._dispatcher = dispatcher
        self._identity = identity
        self._clock = clock
        self._streams: set[WorkerStream] = set()
        self.draining = False

    async def Work(
        self, requests: AsyncIterator[workers_pb2.WorkRequest], call: Call
    ) -> AsyncIterator[workers_pb2.WorkResponse]:
        """Holds one worker's conversation."""
        if self.draining:
            raise errors.ServerDraining
        limit = self._identity.plan(call.caller).streams
        if sum(stream.workspace == call.caller.workspace for stream in self._streams) >= limit:
            raise errors.TooManyStreams(limit)
        stream = WorkerStream(self._leases, self._dispatcher, self._identity, self._clock, call.caller)
        self._streams.add(stream)
        try:
            async with aclosing(stream.run(requests)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._streams.discard(stream)
            await stream.close()

    def drain(self) -> None:
        """Tells every worker to go elsewhere, and ends its stream once its reports are answered."""
        self.draining = True
        for stream in self._streams:
            stream.drain()


class WorkerStream:
    """The state of one stream."""

    def __init__(
        self, leases: Leases, dispatcher: Dispatcher, identity: Identity, clock: Clock, principal: Principal
    ) -> None:
        self._leases = leases
        self._dispatcher = dispatcher
        self._identity = identity
        self._clock = clock
        self._principal = principal
        self._session: Session | None = None
        self._outbox: asyncio.Queue[workers_pb2.WorkResponse | Task | errors.Error | None] = asyncio.Queue()
        self._slots = asyncio.Semaphore(REPORTS)
        self._allowance = Allowance(REPORT_BYTES)
        self._reports: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def workspace(self) -> str:
        return self._principal.workspace

    async def run(
        self, requests: AsyncIterator[workers_pb2.WorkRequest]
    ) -> AsyncGenerator[workers_pb2.WorkResponse, None]:
        """Answers the worker until it hangs up, or the server drains. Raises what ends the stream with an error."""
        reader = asyncio.create_task(self._read(requests))
        guard = asyncio.create_task(self._recheck())
        try:
            while True:
                message = await self._outbox.get()
                if message is None:
                    return
                if isinstance(message, errors.Error):
                    raise message
                if isinstance(message, Task):
                    message = workers_pb2.WorkResponse(task=codec.leased_task(message))
                yield message
                if message.HasField("ack"):
                    self._slots.release()
        finally:
            reader.cancel()
            guard.cancel()

    async def close(self) -> None:
        """Takes the worker out of dispatch, and gives back what did not reach it."""
        self._closed = True
        if self._session is not None:
            self._dispatcher.leave(self._session)
        while not self._outbox.empty():
            message = self._outbox.get_nowait()
            if isinstance(message, Task):
                await self._undelivered(message)

    def drain(self) -> None:
        """Announces the shutdown; the stream ends once the reports that were read are answered."""
        if self._session is not None:
            self._dispatcher.leave(self._session)
        self._outbox.put_nowait(workers_pb2.WorkResponse(drain=workers_pb2.Drain()))
        self._spawn(self._finish())

    async def _recheck(self) -> None:
        """Ends the stream when its token ends: by its time, with its workspace, or with its secret."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            try:
                if self._clock() > self._principal.expires_at + CLOCK_SKEW:
                    raise errors.TokenExpired
                await self._identity.recheck(self._principal)
            except errors.Unavailable:
                continue  # not known for the moment
            except errors.Error as error:
                self._outbox.put_nowait(error)
                return

    async def _finish(self) -> None:
        others = self._reports - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        self._outbox.put_nowait(None)

    async def _read(self, requests: AsyncIterator[workers_pb2.WorkRequest]) -> None:
        """Reads what the worker says; its end, or its fault, goes to the outbox behind the answers."""
        try:
            async for request in requests:
                await self._take(request)
            await self._finish()
        except asyncio.CancelledError:
            raise
        except errors.Error as error:
            self._outbox.put_nowait(error)
        except Exception:
            log.exception("unforeseen")
            self._outbox.put_nowait(errors.Internal())

    async def _take(self, request: workers_pb2.WorkRequest) -> None:
        kind = request.WhichOneof("message")
        if kind == "hello":
            self._hello(request.hello)
        elif self._session is None:
            raise errors.InvalidArgument(Violation("hello", "must be the first message of a stream"))
        elif kind in ("heartbeat", "complete", "fail"):
            report = getattr(request, kind)
            checks = Checks()
            checks.lease(f"{kind}.lease", report.lease)
            checks.done()
            await self._slots.acquire()
            await self._allowance.take(report.ByteSize())
            self._spawn(self._answer(self._session, report))
        elif kind == "refresh":
            await self._refresh(request.refresh.token)
        elif kind == "drain":
            self._dispatcher.leave(self._session)
        else:
            raise errors.InvalidArgument(Violation("message", "is empty, or of a kind that this server does not know"))

    def _hello(self, hello: workers_pb2.Hello) -> None:
        checks = Checks()
        if self._session is not None:
            checks.refuse("hello", "must come once, as the first message")
        checks.name("hello.worker_name", hello.worker_name)
        if hello.worker_version:
            checks.name("hello.worker_version", hello.worker_version)
        checks.at_least("hello.max_concurrency", hello.max_concurrency, 1, CONCURRENCY)
        if not 1 <= len(hello.task_types) <= TASK_TYPES:
            checks.refuse("hello.task_types", f"must name 1 to {TASK_TYPES} types")
        for index, task_type in enumerate(hello.task_types[:TASK_TYPES]):
            checks.task_type(f"hello.task_types[{index}]", task_type)
        if len(hello.held) > hello.max_concurrency:
            checks.refuse("hello.held", "names more leases than max_concurrency")
        for index, ref in enumerate(hello.held[:CONCURRENCY]):
            checks.lease(f"hello.held[{index}]", ref)
        checks.done()
        allowed = self._principal.worker_types
        for task_type in hello.task_types:
            if allowed and task_type not in allowed:
                raise errors.TypeNotAllowed(task_type)
        duration = Duration()
        duration.FromTimedelta(self._dispatcher.lease_duration)
        self._outbox.put_nowait(workers_pb2.WorkResponse(welcome=workers_pb2.Welcome(lease_duration=duration)))
        self._session = Session(
            worker=hello.worker_name,
            version=hello.worker_version,
            demand=Demand(frozenset(hello.task_types), None if allowed else self._principal.workspace),
            room=hello.max_concurrency - len(hello.held),
            held=(ref.lease_token for ref in hello.held),
            deliver=self._deliver,
        )
        self._dispatcher.join(self._session)

    async def _complete(self, session: Session, complete: workers_pb2.Complete) -> None:
        checks = Checks()
        await checks.struct("complete.result", complete.result)
        try:
            checks.done()
        except errors.InvalidArgument as error:
            # It would be refused as often as it were sent again: the task fails, and says why.
            failure = Failure("RESULT_INVALID", error.message[:FAILURE_MESSAGE_CHARACTERS])
            await self._leases.fail(self._principal, session, codec.lease_ref(complete.lease), failure, retryable=False)
            raise
        result = codec.struct_to_bytes(complete.result, deterministic=True)
        await self._leases.complete(self._principal, session, codec.lease_ref(complete.lease), result)

    async def _fail(self, session: Session, fail: workers_pb2.Fail) -> None:
        code = fail.code[:FAILURE_CODE_CHARACTERS] or "FAILED"
        failure = Failure(code, fail.message[:FAILURE_MESSAGE_CHARACTERS])
        await self._leases.fail(
            self._principal, session, codec.lease_ref(fail.lease), failure, retryable=fail.retryable
        )

    async def _refresh(self, token: str) -> None:
        principal = await self._identity.check(token, Scope.WORKER)
        if principal.workspace != self._principal.workspace:
            raise errors.InvalidArgument(Violation("refresh.token", "belongs to another identity than the stream's"))
        self._principal = principal

    async def _answer(self, session: Session, report: _Report) -> None:
        """Carries out a report, beside others so that they share their writes, and answers it."""
        ack = workers_pb2.Ack(lease=report.lease)
        try:
            if isinstance(report, workers_pb2.Complete):
                await self._complete(session, report)
            elif isinstance(report, workers_pb2.Fail):
                await self._fail(session, report)
            else:
                await self._leases.heartbeat(self._principal, session, codec.lease_ref(report.lease))
        except errors.Error as error:
            ack.error_code = error.code
            ack.error_message = error.message
        except Exception:
            log.exception("unforeseen")
            self._outbox.put_nowait(errors.Internal())
            return
        finally:
            self._allowance.give_back(report.ByteSize())
        self._outbox.put_nowait(workers_pb2.WorkResponse(ack=ack))

    def _deliver(self, task: Task) -> None:
        if self._closed:
            self._spawn(self._undelivered(task))
        else:
            self._outbox.put_nowait(task)

    async def _undelivered(self, task: Task) -> None:
        try:
            await self._leases.undelivered(task)
        except errors.Error as error:
            # The lease will run out instead.
            log.info("lease not given back", extra={"task_id": task.id, "code": error.code})

    def _spawn(self, doing: Awaitable[None]) -> None:
        report = asyncio.ensure_future(doing)
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)
