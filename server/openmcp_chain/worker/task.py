"""What a task function gets, and how it says that it failed."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A leased task, as its function sees it."""

    workspace_id: str
    task_id: str
    type: str
    payload: Mapping[str, Any]
    """Plain JSON values, as submitted; every number is a float."""
    metadata: Mapping[str, str]
    attempt: int
    """1, 2, 3, …: a task may run more than once, so what it does outside must bear repeating."""


class TaskFailed(Exception):
    """Raised by a task function: this attempt failed, and this is what the task's owner is told.

    Any other exception counts as a fault of the function: it is logged, the task is tried again, and the owner is not
    shown its text.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        """Stable, in UPPER_SNAKE_CASE."""
        self.message = message
        """What went wrong and where, for people."""
        self.retryable = retryable
        """Whether another attempt could succeed."""


TaskFunction = Callable[[Task], Awaitable[Mapping[str, Any]]]
"""Runs a task and returns its result, plain JSON values. Cancelled when its lease is lost."""
