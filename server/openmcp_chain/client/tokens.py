"""The client's token: when it is good, and when it wants replacing."""

from collections.abc import Callable
from datetime import UTC, datetime

USED = 0.8
"""The part of its life after which a token is replaced."""
LEAST_SECONDS = 10.0
"""So long a new token is used whatever this machine's clock makes of when it expires: one that is fast would otherwise
sign in for every call."""


class Tokens:
    """The newest token, or none."""

    def __init__(self, clock: Callable[[], float], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`clock` tells seconds that never go back; `now` is the time of day, by which `expires_at` is understood."""
        self._clock = clock
        self._now = now
        self._token = ""
        self._good_until = 0.0

    def current(self) -> str:
        """The token, or an empty string if a new one is wanted."""
        return self._token if self._clock() < self._good_until else ""

    def keep(self, token: str, expires_at: datetime) -> None:
        """A new one."""
        life = (expires_at - self._now()).total_seconds()
        self._token = token
        self._good_until = self._clock() + max(life * USED, LEAST_SECONDS)

    def refused(self, token: str) -> None:
        """The server did not take this one; another that has come meanwhile is kept."""
        if token == self._token:
            self._token = ""
