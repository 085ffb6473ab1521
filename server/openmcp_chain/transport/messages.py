"""What goes over one call, as bytes: its metadata, the messages that come, and those that go."""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import TypeAlias

import grpc
from google.protobuf.message import Message

from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation
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
WRITE_SECONDS = 60.0
"""How long a stream's caller may take to read one message, of a mebibyte at 20 KB a second."""
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


class Sender:
    """What a stream says, message by message."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._stream = asyncio.current_task()
        self._writing_since = math.inf
        self._watch: asyncio.TimerHandle | None = None
        self._headers = False
        self.stuck = False
        """Whether the stream was cancelled, since nobody read what it said."""
        self.begun = False
        """Whether something was said, and all of it is on its way: gRPC takes one message at a time."""

    async def send(self, data: bytes) -> None:
        if not self._headers:
            # By themselves: if they waited with a message that nobody reads, gRPC could not refuse the call any more.
            await send_headers(self._context)
            self._headers = True
        self.begun = False
        self._writing_since = self._loop.time()
        if self._watch is None:  # one that outlives many a message: to begin and end it for each would cost more
            self._watch = self._loop.call_later(WRITE_SECONDS, self._look)
        await self._context.write(data)
        self._writing_since = math.inf
        self.begun = True

    def end(self) -> None:
        """Nothing more will be said."""
        if self._watch is not None:
            self._watch.cancel()

    def _look(self) -> None:
        self._watch = None
        left = self._writing_since + WRITE_SECONDS - self._loop.time()
        if left == math.inf:
            return
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        elif self._stream is not None:
            self.stuck = True
            self._stream.cancel()
