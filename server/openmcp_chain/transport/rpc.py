"""How every call goes through the house: one wrapper around each method, in this order.

1. identify    request id and trace context, so that all that follows can be found in log and trace
2. authorise   the token, before the request is read; and for as long as the call goes on, whatever it waits for
3. admit       refuse at once what is over the limit of calls under way
4. decode      bytes to message, in its turn if it is large; what can't be decoded names its field
5. run         the method, for no longer than a call may take
6. encode      message to bytes
7. refuse      any failure of the above, as a status with details

gRPC itself only ever sees bytes: were decoding and encoding left to it, the text of their exceptions would go to the
client, out of reach of any interceptor (grpc.aio answers `UNKNOWN: Unexpected <class …>: text`). So this is no
interceptor: handlers are wrapped once, when they are registered, and a call pays for no chain. The text of an
unforeseen exception goes nowhere, since nobody knows what is in it; the log has its type and place.

A call that fails is gone when it ends, with its request, and does not wait for the garbage collector: an exception has
the call's frames in its traceback, and a frame that has the exception closes a circle around all that the call holds.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc
import uuid_utils
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from opentelemetry import metrics, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from openmcp_chain import logs
from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.workspace import Principal, Scope
from openmcp_chain.engine.answers import Ask
from openmcp_chain.engine.bearers import Bearer, Bearers, Caller
from openmcp_chain.engine.identity import Identity
from openmcp_chain.engine.quotas import Streams
from openmcp_chain.engine.volume import SMALL
from openmcp_chain.transport import messages, status, wire
from openmcp_chain.transport.dues import Dues
from openmcp_chain.transport.encoded import Encoded
from openmcp_chain.transport.large import AT_ONCE, Large, Reading
from openmcp_chain.transport.messages import REQUEST_BYTES, Context

log = logging.getLogger(__name__)

UNARY_SECONDS = 30.0
"""No unary call takes longer, but for `bearers.LOOK_SECONDS`, whatever deadline the client sets or forgets to set."""
QUIET_SECONDS = 0.3
"""Without a call for so long, a server that shuts down takes it that nobody sends it any more."""
CALLS = 4000
WORKSPACE_CALLS = 1000
"""Unary calls under way at a time: of all, and of one workspace. Its plan may let it make more in the time that one may
take; whatever makes its calls slow is to keep nobody else out."""
REQUEST_ID = 48
"""Characters of a client's request id: more than a UUID has, fewer than a secret, which may be there by mistake."""

# The stubs know it as generic, the runtime does not.
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"

_tracer = trace.get_tracer("openmcp_chain.transport")
_propagator = TraceContextTextMapPropagator()
_duration = metrics.get_meter("openmcp_chain.transport").create_histogram(
    "rpc.server.duration", unit="s", description="Unary calls, by method and code."
)


@dataclass(frozen=True, slots=True)
class Call:
    """What a method knows of the call besides its request."""

    metadata: Mapping[str, str]
    """The request's metadata, keys in lower case, without binary entries."""
    known: Bearer | None
    """The bearer of the token, where the method needs one."""
    context: Context
    reading: Reading
    """How its request is read."""
    decode: Callable[[bytes], Any]
    """Decodes one of the requests of a caller that sends a stream of them. Raises RequestTooLarge, InvalidArgument."""
    may_read: Ask
    """For methods that read tasks, whose answers may be refused."""

    @property
    def bearer(self) -> Bearer:
        """The bearer of the token. For methods that need one."""
        if self.known is None:
            raise errors.TokenMissing
        return self.known

    @property
    def caller(self) -> Principal:
        """Whom the token names. For methods that need one."""
        return self.bearer.principal


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a method, and how it reads its request."""

    scope: Scope | None
    """None: open to all, without a token."""
    bulky: str | None = None
    """The field that may be large: its turn to be read goes on until the method says so. Else it is decoded in it."""
    last_words: Callable[[errors.Error], Message] | None = None
    """What a stream that has begun says before it ends by an error, where its callers don't see how it ends."""
    begins_trace: bool = True
    """Whether a call without a trace context is the first of a trace; not so for what Envoy asks every second or so."""


class Rpc:
    """Wraps methods and holds what all calls share."""

    def __init__(self, identity: Identity, bearers: Bearers, large: Large, dues: Dues, streams: Streams) -> None:
        self._streams = streams
        self._identity = identity
        self._bearers = bearers
        self._large = large
        self._dues = dues
        self._under_way = Counter[str]()
        self._latest = -math.inf
        # Without a provider, only the client's own context is there to be passed on.
        self._traced = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    def handler(
        self,
        path: str,
        access: Access,
        behaviour: Callable[..., Any],
        *,
        request: type[Message],
        client_streaming: bool,
        server_streaming: bool,
    ) -> Handler:
        """A method, wrapped. `behaviour(request, call)` is a coroutine function; an async generator if it streams.

        A caller's stream of requests is given as their bytes, since it is for the method when to decode which.
        """

        def decode(data: bytes) -> Message:
            if len(data) > REQUEST_BYTES:
                raise errors.RequestTooLarge(access.bulky or "request", len(data), REQUEST_BYTES)
            try:
                return request.FromString(data)
            except (DecodeError, ValueError, RecursionError):
                field = wire.blame(request, data)
                raise errors.InvalidArgument(
                    Violation(field, "cannot be decoded: malformed, not UTF-8, or nested too deep")
                ) from None

        async def unary(_: object, context: Context) -> bytes | None:
            started = time.perf_counter()
            if access.scope is not None:
                self._latest = started
            metadata, size = messages.metadata_of(context)
            code = "CANCELLED"
            with _in(self._identify(path, access, metadata)):
                try:
                    messages.weigh(size)
                    with await self._authorised(access, metadata, UNARY_SECONDS) as caller:
                        bearer = caller if isinstance(caller, Bearer) else None
                        data = await messages.only_message(context)
                        workspace, size = _workspace(bearer), len(data)
                        self._admit(workspace, size)
                        reading = self._large.reading(workspace, size)
                        try:
                            # Kept neither as bytes nor decoded: what is large is done with once it has been read.
                            decoded = [await reading.run(decode, data)]
                            data = b""
                            if access.bulky is None:
                                reading.end()
                            call = Call(metadata, bearer, context, reading, decode, partial(self._may_read, bearer))
                            answer: Message | Encoded = await behaviour(decoded.pop(), call)
                        finally:
                            reading.end()
                            self._ended(workspace, size)
                    encoded = messages.encode(answer)
                    self._charge(context, access, bearer, len(encoded))
                    code = "OK"
                    return encoded
                except BaseException as error:
                    if not _ours(error):
                        raise
                    refusal = status.refusal(_told(error))
                    code = refusal.code
                finally:
                    _duration.record(time.perf_counter() - started, {"rpc.method": path, "code": code})
                await status.refuse(context, refusal)
                return None

        async def streaming(_: object, context: Context) -> None:
            limit = asyncio.timeout(UNARY_SECONDS)
            metadata, size = messages.metadata_of(context)
            # Not made the current one: what happens in a stream's hours is not all of one trace.
            span = self._identify(path, access, metadata)
            sender, last_words, workspace, streamed = messages.Sender(context), b"", "", 0
            try:
                messages.weigh(size)
                with await self._authorised(access, metadata) as caller:
                    bearer = caller if isinstance(caller, Bearer) else None
                    workspace = _workspace(bearer)
                    requests: Message | AsyncIterator[bytes]
                    if client_streaming:
                        requests = messages.all_messages(context)
                    else:
                        async with limit:
                            requests = decode(await messages.only_message(context))
                    call = Call(metadata, bearer, context, AT_ONCE, decode, partial(self._may_read, bearer))
                    # Closed here and now, not when the garbage collector comes by: it holds subscriptions and leases.
                    # We write, not gRPC: a call whose caller does not read what is written must end as well.
                    async with aclosing(behaviour(requests, call)) as answers:
                        async for answer in answers:
                            data = messages.encode(answer)
                            if bearer is not None and access.scope is Scope.TASKS_READ:
                                streamed = self._dues.streamed(bearer.principal, streamed, len(data))
                            await sender.send(data)
                            del answer, data  # the next one may be hours away
                return
            except BaseException as error:
                if not _ours(error):
                    raise
                told = _told(errors.DeadlineExceeded() if limit.expired() else error)
                refusal = status.refusal(told)
                if access.last_words is not None and sender.begun:
                    last_words = messages.encode(access.last_words(told))
            finally:
                span.end()
            if sender.unread and workspace:
                self._streams.linger(workspace)
                messages.when_over(context, partial(self._streams.leave, workspace))
            await sender.settle()
            if last_words:
                await sender.send(last_words)
            await status.refuse(context, refusal)

        if not server_streaming:
            return grpc.stream_unary_rpc_method_handler(unary)
        return grpc.stream_stream_rpc_method_handler(streaming)

    async def quiet(self, seconds: float) -> None:
        """Returns when no call that needs a token has come for QUIET_SECONDS, or after `seconds`."""
        end = time.perf_counter() + seconds
        while True:
            wait = min(self._latest + QUIET_SECONDS, end) - time.perf_counter()
            if wait <= 0:
                return
            await asyncio.sleep(wait)

    def _admit(self, workspace: str, size: int) -> None:
        """Counts a call whose request is there; a caller who sends nothing takes nobody's place."""
        if self._under_way.total() >= CALLS or (workspace and self._under_way[workspace] >= WORKSPACE_CALLS):
            raise errors.Overloaded
        if self._large.unread.exceeded(workspace):
            raise errors.Overloaded
        if size > SMALL:
            self._large.requests.ask(workspace, size)
            self._large.requests.enter(workspace, size)
        self._under_way[workspace] += 1

    def _ended(self, workspace: str, size: int) -> None:
        """An admitted call has ended."""
        if size > SMALL:
            self._large.requests.leave(workspace, size)
        self._under_way[workspace] -= 1
        if not self._under_way[workspace]:
            del self._under_way[workspace]

    def _may_read(self, bearer: Bearer | None, size: int) -> None:
        """Raises what an answer of so many bytes to a read is refused for.

        Overloaded if too much is unread besides, RateLimited if others are owed for.
        """
        if size > SMALL:
            self._large.unread.ask(_workspace(bearer), size)
        if bearer is not None:
            self._dues.may_read(bearer.principal, size)

    def _charge(self, context: Context, access: Access, bearer: Bearer | None, size: int) -> None:
        """Counts an answer until the call has ended.

        Raises as `_may_read` does; not for a call that has changed something, which is done.
        """
        if bearer is not None and access.scope is Scope.TASKS_READ:
            self._may_read(bearer, size)
            self._dues.read(bearer.principal, size)
        if size > SMALL:
            messages.hold(context, self._large.unread, _workspace(bearer), size)

    def _identify(self, path: str, access: Access, metadata: Mapping[str, str]) -> trace.Span:
        """Names the call in the log, and begins its span: in the caller's trace, if it brings one."""
        request_id = metadata.get("x-request-id", "")
        logs.request_id.set(request_id if 0 < len(request_id) <= REQUEST_ID else str(uuid_utils.uuid4()))
        logs.method.set(path)
        traceparent = metadata.get("traceparent")
        if traceparent is None and not (self._traced and access.begins_trace):
            return trace.INVALID_SPAN
        # The trace's state is not ours to keep, and a malformed one would be quoted in the log.
        parent = _propagator.extract({"traceparent": traceparent}) if traceparent is not None else None
        span = _tracer.start_span(path.lstrip("/"), parent, kind=trace.SpanKind.SERVER)
        if span.get_span_context().is_valid:
            logs.trace_id.set(trace.format_trace_id(span.get_span_context().trace_id))
        return span

    async def _authorised(self, access: Access, metadata: Mapping[str, str], seconds: float = math.inf) -> Caller:
        """Who makes the call, for as long as it goes on: the bearer of its token, if the method needs one."""
        if access.scope is None:
            return self._bearers.stranger(seconds)
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        if not token:
            raise errors.TokenMissing
        if scheme.lower() != "bearer":
            raise errors.TokenInvalid
        return self._bearers.present(await self._identity.check(token.strip(), access.scope), seconds)


def methods(
    rpc: Rpc, descriptor: ServiceDescriptor, servicer: object, table: Mapping[str, Access]
) -> dict[str, Handler]:
    """Handlers for a service's methods, by path. Each method needs a line in `table` and a function in `servicer`."""
    handlers = {}
    for method in descriptor.methods:
        path = f"/{descriptor.full_name}/{method.name}"
        handlers[path] = rpc.handler(
            path,
            table[path],
            getattr(servicer, method.name),
            request=GetMessageClass(method.input_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )
    return handlers


def _workspace(bearer: Bearer | None) -> str:
    """Whose call it is; empty for those of strangers."""
    return bearer.principal.workspace if bearer is not None else ""


def _in(span: trace.Span) -> AbstractContextManager[object]:
    """Makes the span the current one, and ends it. The text of an exception must not get into the trace either."""
    if not span.get_span_context().is_valid:
        return nullcontext()
    return trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False)


def _ours(error: BaseException) -> bool:
    """Whether the call is refused for it; false if the call itself was cancelled, or closed with its connection."""
    if isinstance(error, grpc.aio.BaseError):
        return False  # it has ended
    if isinstance(error, asyncio.CancelledError):
        running = asyncio.current_task()
        return running is None or not running.cancelling()
    return isinstance(error, Exception)


def _told(error: BaseException) -> errors.Error:
    """What the client is told of the error, which is let go of the call whoever keeps it: a task, a queue, a frame."""
    told = _translate(error)
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return told


def _translate(error: BaseException) -> errors.Error:
    """What the client is told."""
    if isinstance(error, errors.Error):
        if error.status in (errors.Status.INTERNAL, errors.Status.UNAVAILABLE):
            log.warning("call refused", extra={"code": error.code})
        else:
            log.info("call refused", extra={"code": error.code})
        return error
    if isinstance(error, asyncio.CancelledError):
        # Something inside was cancelled, not this call. Passed on, it would leave the client to wait for its deadline.
        log.error("call lost inside the server")
        return errors.Aborted()
    log.error("unforeseen", exc_info=error)
    return errors.Internal()
