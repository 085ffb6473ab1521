"""A task's events over any number of cut streams: each once, in order, up to the last."""

from openmcp_chain.client.errors import CALL_INTERRUPTED, ApiError
from openmcp_chain.client.values import Event

HEALTHY_SECONDS = 10.0
"""A stream that was open for so long counts as one that worked, whether it brought anything or not. (A connection that
is not made in half of that counts as failed: see `connection.OPTIONS`.)"""


class Place:
    """How far the events have been had."""

    def __init__(self, after: int) -> None:
        self.after = after
        """The sequence of the last one."""
        self.moved = False
        """Whether the stream has brought any."""
        self._ended = False

    def stream_begins(self) -> None:
        """Another stream is opened, after `after`."""
        self.moved = False

    def take(self, event: Event) -> bool:
        """Whether the event is the next one; not if it was had before. Raises ApiError if one is missing before it."""
        if event.sequence <= self.after:
            return False
        if event.sequence > self.after + 1:
            raise interrupted(f"event {event.sequence} came after event {self.after}")
        self.after = event.sequence
        self._ended = event.status.ended
        self.moved = True
        return True

    @property
    def at_end(self) -> bool:
        """Whether a stream that has ended well has told all: the last event was terminal, or there were none to tell.

        A terminal event alone is no end: one that was retried has more after it.
        """
        return self._ended or not self.moved


def interrupted(what: str) -> ApiError:
    """The stream is of no more use, and another one may be."""
    return ApiError("UNAVAILABLE", CALL_INTERRUPTED, what)
