"""What a call does, apart from how one waits for it.

Each method of the client is written once, in `calls` and `following`, as a generator that yields the steps below and is
told what came of each: it decides, and does nothing itself. `sync` and `aio` carry steps out, each in its own way of
waiting; so tokens, retries and resumption can't differ between them, and can be tested without a server or a clock.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Make a unary call; the answer is its response. An ApiError is thrown in if it fails."""

    method: str
    request: Message = field(repr=False)
    token: str = field(repr=False)
    """Empty for a call that needs none."""
    seconds: float
    """When to give it up."""


@dataclass(frozen=True, slots=True)
class Open:
    """Open a stream of messages, in place of the one that is open if there is one."""

    method: str
    request: Message = field(repr=False)
    token: str = field(repr=False)
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Read:
    """Wait for the open stream's next message; the answer is None at its end. An ApiError is thrown in if it fails."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Give the user a value; for what is iterated over."""

    value: Any


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Alone:
    """Take these steps while nobody else takes such; the answer is what they return.

    An ApiError is thrown in if others have not ended in time.
    """

    steps: "Steps[Any]"
    seconds: float


Step: TypeAlias = Send | Open | Read | Emit | Sleep | Alone
Steps: TypeAlias = Generator[Step, Any, T]
"""Steps that come to a result."""


class Run(Generic[T]):
    """Steps under way, for who carries them out."""

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self._result: list[T] = []
        self.step: Step | None = None
        """What is to be done; None when all is."""
        self.answer(None)

    def answer(self, value: Any) -> None:  # noqa: ANN401 - what is an answer depends on the step
        """The step was carried out, and this came of it. Raises what the steps raise."""
        try:
            self.step = self._steps.send(value)
        except StopIteration as end:
            self._end(end)

    def fail(self, error: Exception) -> None:
        """The step failed. Raises what the steps raise."""
        try:
            self.step = self._steps.throw(error)
        except StopIteration as end:
            self._end(end)

    @property
    def result(self) -> T:
        """What all has come to, once there is no step."""
        return self._result[0]

    def close(self) -> None:
        """Gives it up."""
        self._steps.close()

    def _end(self, end: StopIteration) -> None:
        self.step = None
        self._result.append(end.value)
