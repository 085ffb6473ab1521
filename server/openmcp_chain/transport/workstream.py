"""One worker's stream: its reports are carried out, and leased tasks and cancellations go back."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import NamedTuple

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.task import Task
from openmcp_chain.domain.workspace import Scope
from openmcp_chain.engine import answers
from openmcp_chain.engine.bearers import Bearer
from openmcp_chain.engine.dispatch import PAUSED, Dispatcher
from openmcp_chain.engine.identity import Identity
from openmcp_chain.engine.leases import Leases
from openmcp_chain.engine.sessions import Session
from openmcp_chain.engine.volume import Share, Volume
from openmcp_chain.transport import codec, reports
from openmcp_chain.transport.allowance import Allowance
from openmcp_chain.transport.checks import Checks
from openmcp_chain.transport.encoded import Encoded, encode
from openmcp_chain.transport.large import Reading
from openmcp_chain.transport.reports import Completed, Report, Reports, allow, demand, introduce

log = logging.getLogger(__name__)

CONCURRENCY = 1000
OUTBOX_BYTES = 1024 * 1024
"""What tasks may have together that are claimed for a stream and not sent yet, but for the first: for a worker that
does not read, no more is claimed."""
REPORTS = 1024
"""Reports of a stream that are not answered on the wire yet; past it, the server reads no more from the worker."""
REPORT_BYTES = 32 * 1024 * 1024
"""What the reports that are being carried out may have together, of all streams of a workspace or operator."""
REPORT_MEMORY = 2048
"""What one takes besides its bytes, about."""
HELLO_SECONDS = 30.0
"""How long a stream may be open without a hello."""

KINDS = ("heartbeat", "complete", "fail", "stopped", "log")
_KIND: dict[type[Report], workers_pb2.ReportKind.ValueType] = {
    workers_pb2.Heartbeat: workers_pb2.REPORT_KIND_HEARTBEAT,
    Completed: workers_pb2.REPORT_KIND_COMPLETE,
    workers_pb2.Fail: workers_pb2.REPORT_KIND_FAIL,
    workers_pb2.Stopped: workers_pb2.REPORT_KIND_STOPPED,
    workers_pb2.Log: workers_pb2.REPORT_KIND_LOG,
}
_NO_HELLO = Violation("hello", "must be the first message of a stream")


class _Unsent(NamedTuple):
    """A task that was given out, and waits for its turn to be sent."""

    session: Session
    task: Task


class WorkerStream:
    """The state of one stream."""

    def __init__(
        self,
        leases: Leases,
        dispatcher: Dispatcher,
        identity: Identity,
        bearer: Bearer,
        reading: Reading,
        allowance: Allowance,
        unread: Volume,
    ) -> None:
        """`allowance`: for its reports, and those of its workspace's other streams; `unread`: for what it is sent."""
        self._leases = leases
        self._reports = Reports(leases)
        self._reading = reading
        self._dispatcher = dispatcher
        self._identity = identity
        self._bearer = bearer
        self._session: Session | None = None
        self._outbox: asyncio.Queue[workers_pb2.WorkResponse | _Unsent | errors.Error | None] = asyncio.Queue()
        self._slots = asyncio.Semaphore(REPORTS)
        self._allowance = allowance
        self._volume = unread
        self._writing: _Unsent | None = None
        """What is being written: the worker reads it or not."""
        self._under_way: set[asyncio.Task[None]] = set()
        self._answering: set[asyncio.Task[None]] = set()
        """Of those, the reports that are being carried out."""
        self._closed = False

    @property
    def workspace(self) -> str:
        return self._bearer.principal.workspace

    @property
    def unread(self) -> int:
        """Bytes of the task that is being written, about; 0 if none is."""
        return answers.given_weight(self._writing.task) if self._writing is not None else 0

    async def run(
        self, requests: AsyncIterator[workers_pb2.WorkRequest]
    ) -> AsyncGenerator[workers_pb2.WorkResponse | Encoded, None]:
        """Answers the worker until it hangs up, or the server drains. Raises what ends the stream with an error."""
        reader = asyncio.create_task(self._read(requests))
        mute = asyncio.get_running_loop().call_later(HELLO_SECONDS, self._mute)
        try:
            while (message := await self._next()) is not None:
                yield message
                self._written()
                if isinstance(message, workers_pb2.WorkResponse) and message.HasField("ack"):
                    self._slots.release()
                del message  # the next one may be hours away
        finally:
            reader.cancel()
            mute.cancel()

    async def _next(self) -> workers_pb2.WorkResponse | Encoded | None:
        """What is to be sent next; None at the stream's end. Raises what ends it with an error."""
        while True:
            message = await self._outbox.get()
            if isinstance(message, errors.Error):
                raise message
            if not isinstance(message, _Unsent):
                return message
            duration = self._dispatcher.lease_duration(message.task)
            response = encode(workers_pb2.WorkResponse(), task=codec.leased_task(message.task, duration))
            if await self._lets_go(message):
                return response

    async def _lets_go(self, unsent: _Unsent) -> bool:
        """Whether the task may still go to the worker; if not, gives it back, unless its lease has ended."""
        session, task = unsent
        try:
            allowed = await self._dispatcher.lets_go(task)
        except BaseException:
            self._outbox.put_nowait(unsent)  # `close` gives it back
            raise
        if self._leases.goes_out(task, session, allowed=allowed):
            self._writing = unsent
            return True
        self._dispatcher.sent(session, task)
        if self._leases.lives(task):
            self._spawn(self._leases.give_back(task, PAUSED))
        return False

    def _written(self) -> None:
        if self._writing is not None:
            self._dispatcher.sent(*self._writing)
            self._writing = None

    async def close(self) -> None:
        """Takes the worker out of dispatch, and gives back what did not reach it."""
        self._closed = True
        if self._session is not None:
            self._dispatcher.leave(self._session)
            self._leases.left(self._session)
            self._session.end()
        for report in self._answering:
            report.cancel()  # what it writes goes on; the rest has no answer, and its worker will say it again
        while not self._outbox.empty():
            message = self._outbox.get_nowait()
            if isinstance(message, _Unsent):
                await self._leases.give_back(message.task)

    def drain(self) -> None:
        """Announces the shutdown; the stream ends once the reports that were read are answered."""
        if self._session is not None:
            self._dispatcher.leave(self._session)
        self._outbox.put_nowait(workers_pb2.WorkResponse(drain=workers_pb2.Drain()))
        self._spawn(self._finish())

    def _mute(self) -> None:
        """Ends a stream that holds a place and says nothing."""
        if self._session is None:
            self._outbox.put_nowait(errors.DeadlineExceeded())

    async def _finish(self) -> None:
        others = self._under_way - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        self._outbox.put_nowait(None)

    async def _read(self, requests: AsyncIterator[workers_pb2.WorkRequest]) -> None:
        """Reads what the worker says; its end, or its fault, goes to the outbox behind the answers."""
        try:
            while (request := await anext(requests, None)) is not None:
                taking = self._take(request)
                del request  # it may be large, and the next one hours away
                await taking
                if self._session is not None:
                    self._dispatcher.heard(self._session)
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
        if kind == "complete":
            # Before anything else is waited for: whoever comes next may wait for this one to have been read.
            complete = request.complete
            report = await self._reading.run(Completed.read, "complete.result", complete.lease, complete.result)
            del request, complete
            self._reading.end()
            await self._report(kind, report)
            return
        self._reading.end()
        if kind == "hello":
            self._hello(request.hello)
        elif self._session is None:
            raise errors.InvalidArgument(_NO_HELLO)
        elif kind in KINDS:
            said = reports.cut(getattr(request, kind))
            del request
            await self._report(kind, said)
        elif kind == "refresh":
            await self._leases.admit(self._bearer.principal, self._session)
            await self._refresh(request.refresh.token)
        elif kind == "drain":
            await self._leases.admit(self._bearer.principal, self._session)
            self._dispatcher.leave(self._session)
        else:
            raise errors.InvalidArgument(Violation("message", "is empty, or of a kind that this server does not know"))

    async def _report(self, kind: str, report: Report) -> None:
        """Begins to carry a report out, when its stream has room for it; what says too much is left out or refused."""
        if self._session is None:
            raise errors.InvalidArgument(_NO_HELLO)
        checks = Checks()
        checks.lease(f"{kind}.lease", report.lease)
        checks.done()
        ref, principal = codec.lease_ref(report.lease), self._bearer.principal
        held, refusal = self._leases.held_by(self._session, ref), None
        allowed: Report | None = report
        if held is None:
            await self._leases.admit(principal, self._session, ref)
        else:
            self._reading.needed()
            await self._leases.hear(principal)
            try:
                allowed = self._reports.allowed(principal, held, report)
            except errors.RateLimited as error:
                allowed, refusal = None, error
        await self._slots.acquire()
        if allowed is None:
            self._acknowledge(report, refusal)
            return
        size = allowed.ByteSize() + REPORT_MEMORY
        await self._allowance.take(size)
        answering = self._spawn(self._answer(allowed), self._answering)
        # Not in it: it may be cancelled before it begins.
        answering.add_done_callback(lambda _: self._allowance.give_back(size))

    def _hello(self, hello: workers_pb2.Hello) -> None:
        checks = Checks()
        if self._session is not None:
            checks.refuse("hello", "must come once, as the first message")
        introduce(checks, "hello.", hello)
        checks.at_least("hello.max_concurrency", hello.max_concurrency, 1, CONCURRENCY)
        if len(hello.held) > hello.max_concurrency:
            checks.refuse("hello.held", "names more leases than max_concurrency")
        for index, ref in enumerate(hello.held[:CONCURRENCY]):
            checks.lease(f"hello.held[{index}]", ref)
        if len({ref.lease_token for ref in hello.held}) < len(hello.held):
            checks.refuse("hello.held", "names a lease twice")
        checks.done()
        allow(self._bearer.principal, hello.task_types)
        duration = codec.duration_of(self._dispatcher.standard_lease)
        self._outbox.put_nowait(workers_pb2.WorkResponse(welcome=workers_pb2.Welcome(lease_duration=duration)))
        session = Session(
            worker=hello.worker_name,
            version=hello.worker_version,
            demand=demand(self._bearer.principal, hello.task_types),
            room=hello.max_concurrency - len(hello.held),
            deliver=lambda task: self._deliver(session, task),
            cancel=self._cancel,
            most_bytes=OUTBOX_BYTES,
            share=Share(self._volume, self.workspace),
        )
        for ref in hello.held:
            self._leases.claimed(self._bearer.principal, codec.lease_ref(ref), session)
        self._session = session
        self._dispatcher.join(session)

    async def _refresh(self, token: str) -> None:
        principal = await self._identity.check(token, Scope.WORKER)
        if principal.workspace != self.workspace:
            raise errors.InvalidArgument(Violation("refresh.token", "belongs to another identity than the stream's"))
        self._bearer.principal = principal

    async def _answer(self, report: Report) -> None:
        """Carries out a report, beside others so that they share their writes, and answers it."""
        refusal = None
        try:
            await self._reports.carry_out(self._bearer.principal, report)
        except errors.Error as error:
            refusal = error
        except Exception:
            log.exception("unforeseen")
            self._outbox.put_nowait(errors.Internal())
            return
        self._acknowledge(report, refusal)
        if self._session is not None:
            # However long that has taken: it was not the worker that was silent, and it may have nothing more to say.
            self._dispatcher.heard(self._session)

    def _acknowledge(self, report: Report, refusal: errors.Error | None) -> None:
        ack = workers_pb2.Ack(lease=report.lease, kind=_KIND[type(report)])
        if refusal is not None:
            ack.error_code = refusal.code
            ack.error_message = refusal.message
        self._outbox.put_nowait(workers_pb2.WorkResponse(ack=ack))

    def _deliver(self, session: Session, task: Task) -> None:
        if self._closed:
            self._spawn(self._leases.give_back(task))
        else:
            self._leases.waits(task)
            self._outbox.put_nowait(_Unsent(session, task))

    def _cancel(self, task: Task) -> None:
        cancel = workers_pb2.Cancel(lease=codec.lease_of(task), reason=task.cancel or "")
        self._outbox.put_nowait(workers_pb2.WorkResponse(cancel=cancel))

    def _spawn(self, doing: Awaitable[None], *kinds: set[asyncio.Task[None]]) -> asyncio.Future[None]:
        """Does it beside the rest; as long as it goes on it is one of these, and one of all that is under way."""
        begun = asyncio.ensure_future(doing)
        for kind in (self._under_way, *kinds):
            kind.add(begun)
            begun.add_done_callback(kind.discard)
        return begun
