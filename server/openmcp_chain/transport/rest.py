"""RestService: what REST needs and JSON can't carry. Envoy sends its bytes on as they are."""

from collections.abc import AsyncIterator, Iterator, Sequence

from google.api.httpbody_pb2 import HttpBody

from openmcp.chain.v1 import rest_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.task import Event
from openmcp_chain.engine.events import EventHub
from openmcp_chain.engine.identity import Identity
from openmcp_chain.engine.keys import Keys
from openmcp_chain.transport import codec, status
from openmcp_chain.transport.messages import send_headers
from openmcp_chain.transport.rpc import Call
from openmcp_chain.transport.tasks import follow

PING_SECONDS = 15.0
"""A proxy on the way may cut a connection that is silent for a minute."""
SENT_BYTES = 8 * 1024
"""Of events in one part: the first of a stream is small, so that who owes for large answers gets on all the same."""
RETRY_MILLISECONDS = 1000
"""How soon an EventSource comes back after a cut."""
LAST_EVENT_ID = "Last-Event-ID"
NOTHING_FOLLOWS = (("x-openmcp-end-of-stream", "1"),)
"""Tells Envoy to answer 204: the caller has had the terminal event, and is to stop coming back."""


class RestService:
    """See `rest.proto`."""

    def __init__(self, events: EventHub, identity: Identity, keys: Keys) -> None:
        self._events = events
        self._identity = identity
        self._keys = keys

    async def ServeTaskEvents(self, request: rest_pb2.ServeTaskEventsRequest, call: Call) -> AsyncIterator[HttpBody]:
        """Sends a task's events as Server-Sent Events."""
        resumed = _last_event_id(call)
        after, named = (request.after_sequence, "after_sequence") if resumed is None else (resumed, LAST_EVENT_ID)
        async with follow(self._events, self._identity, call, request.task_id, after, named) as events:
            if events.ended:
                await send_headers(call.context, NOTHING_FOLLOWS)
                return
            content_type, preface = "text/event-stream", f"retry: {RETRY_MILLISECONDS}\n\n".encode()
            # The first message comes at once, since the response's headers come with it: to an EventSource it is open.
            wait = 0.0
            while not events.ended:
                # Nothing of one answer is kept while the next is waited for: it may have megabytes.
                for data in _told(events.task_id, await events.next(wait)):
                    # Only the first message names the media type (Envoy issue #10673).
                    yield HttpBody(content_type=content_type, data=preface + data)
                    content_type, preface, wait = "", b"", PING_SECONDS

    async def ServeJsonWebKeySet(self, _: rest_pb2.ServeJsonWebKeySetRequest, __: Call) -> HttpBody:
        """The public keys."""
        return HttpBody(content_type="application/json", data=await self._keys.key_set())


def _told(task_id: str, steps: Sequence[Event]) -> Iterator[bytes]:
    """The events in parts, each made when the one before has gone out: many may follow a task that has megabytes."""
    part = bytearray()
    for step in steps:
        told = codec.server_sent_event(task_id, step)
        if part and len(part) + len(told) > SENT_BYTES:
            yield bytes(part)
            part.clear()
        part += told
    if part or not steps:
        yield bytes(part) or b": ping\n\n"


def last_words(error: errors.Error) -> HttpBody:
    """What an event stream says when it ends early.

    The response began with 200, and HTTP has no other place for it: without, its end would look like the task's.
    """
    return HttpBody(data=f"event: error\ndata: {status.shown(error)}\n\n".encode())


def _last_event_id(call: Call) -> int | None:
    """The sequence that an EventSource resumes after; None if it doesn't."""
    text = call.metadata.get("last-event-id", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise errors.InvalidArgument(Violation(LAST_EVENT_ID, "must be the id of an event of this stream"))
    return int(text)
