"""Windows of time, quiet and attacked in turns, by which two load generators go at once."""

import time
from dataclasses import dataclass

GAP_SECONDS = 0.25
"""Of each window's beginning nothing counts: what the one before has left is still done."""


@dataclass(frozen=True, slots=True)
class Windows:
    """So many of one length, the first of them quiet. All times are `time.monotonic`'s, which processes share."""

    begun: float
    seconds: float
    """Of one window."""
    count: int

    @property
    def end(self) -> float:
        """When the last one ends."""
        return self.begin(self.count)

    def begin(self, number: int) -> float:
        """When this one begins; the first is 0."""
        return self.begun + number * self.seconds

    def counted(self, began: float, ended: float) -> int | None:
        """The window in which something counts; None for what began in a gap, or in another window than it ended."""
        number, passed = divmod(began - self.begun, self.seconds)
        inside = 0 <= number < self.count and passed >= GAP_SECONDS and ended < self.begin(int(number) + 1)
        return int(number) if inside else None


def attacked(number: int) -> bool:
    """Whether wrong secrets are sent in this window."""
    return number % 2 == 1


def until(at: float) -> float:
    """Seconds to that time; none if it has passed."""
    return max(0.0, at - time.monotonic())
