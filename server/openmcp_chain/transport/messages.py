"""What goes over one call, as bytes: its metadata, the messages that come, and those that go."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TypeAlias

import grpc
from google.protobuf.message import Message

from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation
from openmcp_chain.engine.volume import Volume
from openmcp_chain.transport.encoded import Encoded

log = logging.getLogger(__name__)

REQUEST_BYTES = 4 * 1024 * 1024
"""What a request may have as a whole. A larger one is refused by us, with details; past RECEIVE_BYTES, by gRPC."""
RECEIVE_BYTES = REQUEST_BYTES + 64 * 1024
"""What reaches us at all: of each worker's stream that much may be on its way. For a call that needs a token,
gRPC keeps no more than a window of it until the token has been checked."""
METADATA_BYTES = 16 * 1024
METADATA_ENTRIES = 500
"""What a request's metadata may have. Past RECEIVE_METADATA_BYTES, it is gRPC that refuses."""
RECEIVE_METADATA_BYTES = 64 * 1024
SEND_BYTES = 20 * 1024 * 1024
"""What an answer may have. Each method keeps its own well below, so that all clients can read it."""

# The stubs know it as generic, the runtime does not.
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


def metadata_of(context: Context) -> tuple[dict[str, str], int]:
    """The call's metadata, and how many bytes it has: if too many, that is all.

    What comes twice is joined, as HTTP has it (RFC 9110, 5.3): two tokens are then none.
    """
    sent = context.invocation_metadata() or ()
    size = sum(len(key) + len(value) for key, value in sent)
    if size > METADATA_BYTES or len(sent) > METADATA_ENTRIES:
        return {}, max(size, METADATA_BYTES + 1)
    entries = [(key, value) for key, value in sent if isinstance(value, str)]
    found = dict(entries)
    if len(found) < len(entries):
        found = {name: ", ".join(value for key, value in entries if key == name) for name in found}
    return found, size


def weigh(size: int) -> None:
    """Raises RequestTooLarge for metadata of so many bytes, if they are too many."""
    if size > METADATA_BYTES:
        raise errors.RequestTooLarge("metadata", size, METADATA_BYTES)


async def next_message(context: Context) -> bytes | None:
    """The next message of a call, None when there are no more.

    Not from the iterator that grpc.aio makes of them: it and its generator hold each other, and so the last message.
    """
    data: object = await context.read()
    return data if isinstance(data, bytes) else None


async def all_messages(context: Context) -> AsyncIterator[bytes]:
    """The messages of a call, each as it comes."""
    while (data := await next_message(context)) is not None:
        held = [data]
        del data  # the next one may be hours away
        yield held.pop()


async def only_message(context: Context) -> bytes:
    """The one message of a call.

    Read by us: grpc.aio never answers, nor ends, a unary call that ends before its message or in the middle of it.
    """
    data = await next_message(context)
    if data is None:
        raise errors.InvalidArgument(Violation("request", "is missing: the call ended before its message"))
    return data


def encode(answer: Message | Encoded) -> bytes:
    """Raises Internal for an answer that gRPC would refuse to send, in words of its own."""
    encoded = answer.SerializeToString() if isinstance(answer, Message) else answer
    if len(encoded) > SEND_BYTES:
        log.error("answer too large", extra={"bytes": len(encoded)})
        raise errors.Internal
    return encoded


async def send_headers(context: Context, headers: Sequence[tuple[str, str]] = ()) -> None:
    """Begins a stream's answer. All of it, even if the call is ended meanwhile: gRPC would begin again to refuse it."""
    sending = asyncio.ensure_future(context.send_initial_metadata(tuple(headers)))
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.gather(sending, return_exceptions=True)
        raise


def hold(context: Context, unread: Volume, workspace: str, size: int) -> None:
    """Counts so many bytes until the call has ended: until then gRPC keeps what its caller does not read."""
    unread.enter(workspace, size)
    when_over(context, partial(unread.leave, workspace, size))


def when_over(context: Context, then: Callable[[], None]) -> None:
    """Calls `then` when the call has ended, and its caller has had all of it or is gone."""
    context.add_done_callback(lambda _: then())  # type: ignore[arg-type]  # the stubs have a class there


class Sender:
    """What a stream says, message by message."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._headers = False
        self._writing: asyncio.Future[None] | None = None
        self.begun = False
        """Whether something was said, and all of it is on its way: gRPC takes one message at a time."""

    async def send(self, data: bytes) -> None:
        if not self._headers:
            # By themselves: if they waited with a message that nobody reads, gRPC could not refuse the call any more.
            await send_headers(self._context)
            self._headers = True
        self.begun = False
        # It goes on, whatever becomes of the stream: gRPC would not take the status beside it, and the call never end.
        self._writing = asyncio.ensure_future(self._context.write(data))
        self._writing.add_done_callback(_heard)
        await asyncio.shield(self._writing)
        self.begun = True

    @property
    def unread(self) -> bool:
        """Whether the reader has not had what was written last."""
        return self._writing is not None and not self._writing.done()

    async def settle(self) -> None:
        """Returns when the reader has had what was being written; till then there is no way to end the call."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])


def _heard(writing: "asyncio.Future[None]") -> None:
    if not writing.cancelled():
        writing.exception()  # that the call is gone, which who waits for it is told as well
