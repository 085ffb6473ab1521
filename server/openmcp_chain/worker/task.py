"""What a task function gets beside its payload, and how it says that it failed or has stopped."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from openmcp_chain.client.values import Seconds


class TaskFailed(Exception):
    """Raised by a task function: this attempt failed, and this is what the task's owner is told.

    Any other exception counts as a fault of the function: it is logged, the task is tried again, and the owner is not
    shown its text.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False, retry_delay: Seconds | None = None) -> None:
        super().__init__(message)
        self.code = code
        """Stable, in UPPER_SNAKE_CASE; up to 64 characters."""
        self.message = message
        """What went wrong and where, for people; cut at 2,048 characters."""
        self.retryable = retryable
        """Whether another attempt could succeed."""
        self.retry_delay = retry_delay
        """When to try again at the earliest, from now, in place of the retry policy's time; at most 24 hours."""


class Cancelled(asyncio.CancelledError):
    """Raised in a task function that is to stop. Its text says why, for people.

    Let it pass, or raise it again after cleaning up: the task is then CANCELLED. Like every CancelledError it is no
    Exception, so that `except Exception` does not stop it on its way.
    """


class Reporter(Protocol):
    """Where a context sends what the function says; from any thread."""

    def progress(self, fraction: float, message: str) -> None:
        """The function is so far."""

    def log(self, line: str) -> None:
        """The function has a line for the task's events."""


class _Nobody:
    def progress(self, fraction: float, message: str) -> None:
        pass

    def log(self, line: str) -> None:
        pass


@dataclass(slots=True, kw_only=True, eq=False)
class Context:
    """The attempt that a task function is called for. Its methods may be called from any thread.

    A test of a task function makes one itself, of what the function looks at; what the function says then goes nowhere.
    """

    task_id: str = ""
    workspace_id: str = ""
    """Whose task it is. An operator's worker gets those of many workspaces."""
    type: str = ""
    attempt: int = 1
    """1, 2, 3, …: a task may run more than once, so what it does outside must bear repeating."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """As submitted."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """As submitted."""
    deadline: datetime | None = None
    """When the attempt must have ended, by the server's clock; None if there is no such time."""
    reporter: Reporter = field(default_factory=_Nobody, repr=False)
    _stop: str | None = field(default=None, init=False, repr=False)

    @property
    def cancelled(self) -> bool:
        """Whether the function is to stop."""
        return self._stop is not None

    def check(self) -> None:
        """Raises Cancelled if the function is to stop. For plain functions, which nothing can interrupt."""
        if self._stop is not None:
            raise Cancelled(self._stop)

    def progress(self, fraction: float, message: str = "") -> None:
        """Says how far the attempt is, from 0 to 1, and what it is at. Raises Cancelled if the function is to stop.

        May be called as often as is handy: the newest is sent about once a second, and the last before the end.
        `message` is cut at 256 characters.
        """
        self.check()
        self.reporter.progress(fraction, message)

    def log(self, line: str) -> None:
        """Keeps a line among the task's events; cut at 1,024 characters.

        For the few lines that the task's owner should see: a task keeps 200, progress included, and no more.
        """
        self.reporter.log(line)

    def cancel(self, reason: str) -> None:
        """Tells the function to stop. The worker calls it; a test may as well."""
        self._stop = reason
