"""Time that passes when there is nothing else to do.

A test that waits for an hour takes no time, what it sees does not hang on how fast the machine is, and one that waits
in vain fails at once. After trio's `MockClock`. Not for tests with threads or sockets: time leaps past those.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BEGIN_SECONDS = 1000.0
"""Some while after the machine was started, as a monotonic clock has it."""
_LONGEST_SECONDS = 7200.0
"""A test that is not over by then waits for what never comes, while something else goes on."""


class _Leaping(selectors.DefaultSelector):
    """Instead of waiting for a timer, leaps to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGIN_SECONDS
        self._end = BEGIN_SECONDS + _LONGEST_SECONDS

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        self.now += timeout
        if self.now > self._end:
            self._end = float("inf")  # what ends the loop may take its time
            raise TimeoutError(f"the test is not over after {_LONGEST_SECONDS:.0f} virtual seconds")
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with such a time."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


def clock() -> datetime:
    """The time of day that goes with the running loop's time."""
    return _BEGIN + timedelta(milliseconds=round((asyncio.get_running_loop().time() - BEGIN_SECONDS) * 1000))


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
