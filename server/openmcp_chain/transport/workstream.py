"""One worker's stream: its reports are carried out, and leased tasks and cancellations go back."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.task import Task
from openmcp_chain.domain.workspace import Scope
from openmcp_chain.engine import answers
from openmcp_chain.engine.allowance import Allowance
from openmcp_chain.engine.bearers import Bearer
from openmcp_chain.engine.dispatch import PAUSED, Dispatcher
from openmcp_chain.engine.identity import Identity
from openmcp_chain.engine.leases import Leases
from openmcp_chain.engine.sessions import Session
from openmcp_chain.engine.volume import Share
from openmcp_chain.transport import codec, outline
from openmcp_chain.transport.checks import Checks
from openmcp_chain.transport.dues import Dues
from openmcp_chain.transport.encoded import Encoded, encode
from openmcp_chain.transport.intake import KINDS, Intake
from openmcp_chain.transport.large import Large
from openmcp_chain.transport.reports import allow, demand, introduce

log = logging.getLogger(__name__)

CONCURRENCY = 1000
OUTBOX_BYTES = 1024 * 1024
"""What tasks may have together that are claimed for a stream and not sent yet, but for the first: for a worker that
does not read, no more is claimed."""
REPORT_BYTES = 32 * 1024 * 1024
"""What the reports that are being carried out may have together, of all streams of a workspace or operator."""
PLAIN_BYTES = 2048
"""A message of no more is decoded as it comes; of others it is seen first what they are (`outline`)."""
HELLO_BYTES = 256 * 1024
"""What a message may have that is no report: enough for a hello with a thousand leases."""
HELLO_SECONDS = 30.0
"""How long a stream may be open without a hello."""


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
        allowance: Allowance,
        large: Large,
        dues: Dues,
        decode: Callable[[bytes], Any],
    ) -> None:
        """`allowance`, `decode`: see `Intake`."""
        self._leases = leases
        self._unread = large.unread
        self._dues = dues
        self._decode = decode
        self._dispatcher = dispatcher
        self._identity = identity
        self._bearer = bearer
        self._session: Session | None = None
        self._outbox: asyncio.Queue[workers_pb2.WorkResponse | _Unsent | errors.Error | None] = asyncio.Queue()
        self._intake = Intake(leases, dispatcher, bearer, allowance, large, dues, decode, self._outbox.put_nowait)
        self._writing: _Unsent | None = None
        """What is being written: the worker reads it or not."""
        self._under_way: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def workspace(self) -> str:
        return self._bearer.principal.workspace

    @property
    def unread(self) -> int:
        """Bytes of the task that is being written, about; 0 if none is."""
        return answers.given_weight(self._writing.task) if self._writing is not None else 0

    async def run(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[workers_pb2.WorkResponse | Encoded, None]:
        """Answers the worker until it hangs up, or the server drains. Raises what ends the stream with an error."""
        reader = asyncio.create_task(self._read(requests))
        mute = asyncio.get_running_loop().call_later(HELLO_SECONDS, self._mute)
        try:
            while (message := await self._next()) is not None:
                yield message
                self._written()
                if isinstance(message, workers_pb2.WorkResponse) and message.HasField("ack"):
                    self._intake.answered()
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
        self._intake.close()
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
        others = (self._under_way | self._intake.under_way) - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        self._outbox.put_nowait(None)

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        """Reads what the worker says; its end, or its fault, goes to the outbox behind the answers."""
        try:
            while (data := await anext(requests, None)) is not None:
                taking = self._take(data) if len(data) <= PLAIN_BYTES else self._take_large(data)
                del data  # the next one may be hours away
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

    async def _take_large(self, data: bytes) -> None:
        """Takes a message of which it is seen what it is before it is decoded."""
        kind, lease = outline.of(data)
        if lease is not None:
            taking = self._intake.take_large(self._introduced(), kind, lease, data)
            del data
            await taking
            return
        if len(data) > HELLO_BYTES:
            raise errors.RequestTooLarge(kind, len(data), HELLO_BYTES)
        await self._take(data)

    async def _take(self, data: bytes) -> None:
        request = self._decode(data)
        kind = request.WhichOneof("message")
        if kind == "hello":
            self._hello(request.hello)
            return
        session = self._introduced()
        if kind in KINDS:
            await self._intake.take(session, request)
        elif kind in ("refresh", "drain"):
            await self._leases.admit(self._bearer.principal, session)
            if kind == "refresh":
                await self._refresh(request.refresh.token)
            else:
                self._dispatcher.leave(session)
        else:
            raise errors.InvalidArgument(Violation("message", "is empty, or of a kind that this server does not know"))

    def _introduced(self) -> Session:
        """Raises InvalidArgument if there was no hello."""
        if self._session is None:
            raise errors.InvalidArgument(Violation("hello", "must be the first message of a stream"))
        return self._session

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
            share=Share(self._unread, self.workspace),
            owes=lambda: self._dues.owes(self._bearer.principal),
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

    def _deliver(self, session: Session, task: Task) -> None:
        if self._closed:
            self._spawn(self._leases.give_back(task))
        else:
            self._leases.waits(task)
            self._outbox.put_nowait(_Unsent(session, task))

    def _cancel(self, task: Task) -> None:
        cancel = workers_pb2.Cancel(lease=codec.lease_of(task), reason=task.cancel or "")
        self._outbox.put_nowait(workers_pb2.WorkResponse(cancel=cancel))

    def _spawn(self, doing: Coroutine[None, None, None]) -> None:
        """Does it beside the rest."""
        begun = asyncio.create_task(doing)
        self._under_way.add(begun)
        begun.add_done_callback(self._under_way.discard)
