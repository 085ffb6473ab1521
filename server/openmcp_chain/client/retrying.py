"""When a call that failed is made again.

Every call of the client may be repeated: a submit carries a `request_id`, the others change nothing the second time
(`RetryTask` is seen to in `calls`). So what decides is only whether another try could go better, and whether there is
time for one.
"""

from collections.abc import Callable

from openmcp_chain.client.errors import CALL_INTERRUPTED, ApiError

REPEATED = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"})
PASSING = frozenset({"UNAVAILABLE", "OVERLOADED", "SERVER_DRAINING", "UPSTREAM_UNAVAILABLE", "ABORTED"})
"""The codes of what is repeated whatever the details say: a task of a batch is told its code alone."""
BACKOFF_SECONDS = 0.1
BACKOFF_MAXIMUM_SECONDS = 5.0


class Tries:
    """The tries at one call: how long there is for them, and how long to wait for the next."""

    def __init__(self, seconds: float, clock: Callable[[], float], chance: Callable[[], float]) -> None:
        self._clock = clock
        self._chance = chance
        self._deadline = clock() + seconds
        self.failed = 0
        """How many have failed."""
        self.renewed = False
        """Whether a token that was refused has been replaced."""

    @property
    def left(self) -> float:
        """Seconds until it is too late; below zero afterwards."""
        return self._deadline - self._clock()

    def pause(self, error: ApiError) -> float | None:
        """Seconds until the next try, or None if there is none: the failure is final.

        What the server asks for in RetryInfo is waited for in full, and full jitter comes on top of it, so that a
        thousand clients that were refused together do not come back together.
        """
        self.failed += 1
        error.tries = self.failed
        if not _repeatable(error):
            return None
        ceiling = min(BACKOFF_SECONDS * 2.0 ** (self.failed - 1), BACKOFF_MAXIMUM_SECONDS)
        seconds = (error.retry_after or 0.0) + self._chance() * ceiling
        return seconds if seconds < self.left else None


def passes(error: ApiError) -> bool:
    """Whether one task of a batch was refused for a reason that passes."""
    return error.code in PASSING


def _repeatable(error: ApiError) -> bool:
    if error.status == "RESOURCE_EXHAUSTED" and error.retry_after is None:
        # gRPC's own word for a message that is too large: ours all say when to come back.
        return False
    return error.status in REPEATED or passes(error) or error.code == CALL_INTERRUPTED
