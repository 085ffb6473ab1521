"""How the client says that something went wrong.

Error:
    ├── ApiError            the server, or the way to it, refused a call
    ├── WaitTimeout         the task had not ended in the time that the caller gave (also a TimeoutError)
    ├── TaskUnsuccessful    the task ended FAILED or CANCELLED, and the caller asked to be told so
    ├── PayloadError        a payload can't be sent as it is (also a ValueError)
    └── SettingsError       the client can't be made from these settings (also a ValueError)
"""

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from openmcp.chain.v1 import errors_pb2
from openmcp_chain.client.values import Task

CALL_INTERRUPTED = "CALL_INTERRUPTED"
"""The code of a call that something on the way broke off, so that nobody knows what the service had to say."""


class Error(Exception):
    """Any failure that the client tells of."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field of a request."""

    field: str
    description: str


class ApiError(Error):
    """A call failed for good: it was not one to repeat, or its time was over."""

    def __init__(
        self,
        status: str,
        code: str,
        message: str,
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
        tries: int = 1,
    ) -> None:
        super().__init__(status, code, message, violations, retry_after, tries)
        self.status = status
        """The gRPC status, such as `NOT_FOUND`; empty for a task of a batch, which is told its code alone."""
        self.code = code
        """Stable, such as `TASK_NOT_FOUND`: branch on it. If the failure is not the service's own: CALL_INTERRUPTED, or
        the gRPC status."""
        self.message = message
        """A sentence for people."""
        self.violations = violations
        """The fields at fault."""
        self.retry_after = retry_after
        """Seconds after which the server said that the same call may succeed."""
        self.tries = tries
        """How often the call was made; after the first, an earlier one may have been carried out."""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class WaitTimeout(Error, TimeoutError):
    """The task had not ended in the time that the caller gave."""

    def __init__(self, task_id: str, task: Task | None = None) -> None:
        super().__init__(task_id, task)
        self.task_id = task_id
        self.task = task
        """As it was last seen by `wait`."""

    def __str__(self) -> str:
        status = f": it is {self.task.status}" if self.task else ""
        return f"task {self.task_id} has not ended in time{status}"


class TaskUnsuccessful(Error):
    """The task ended `FAILED` or `CANCELLED`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return f"task {self.task.task_id} ended {self.task.status}: {self.task.error}"


class PayloadError(Error, ValueError):
    """A payload can't be sent as it is. The message names the place in it, and no value."""


class SettingsError(Error, ValueError):
    """The client can't be made from these settings. The message names the one at fault, and never repeats a secret."""


def read(status: str, text: str, trailing: Iterable[tuple[str, str | bytes]]) -> ApiError:
    """A failed call, by what gRPC tells of it: the status's name, its text, and the trailing metadata."""
    raw = next((value for key, value in trailing if key == "grpc-status-details-bin"), b"")
    error, info = errors_pb2.Error(), error_details_pb2.ErrorInfo()
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    try:
        for detail in status_pb2.Status.FromString(raw if isinstance(raw, bytes) else b"").details:
            for message in (error, info, bad, retry):
                detail.Unpack(message)
    except DecodeError:
        pass  # not ours: the status and its text are all there is
    # The service's own INTERNAL has details. One without is how gRPC tells of a stream that was reset, which Envoy does
    # when the server behind it dies.
    bare = CALL_INTERRUPTED if status == "INTERNAL" else status
    return ApiError(
        status,
        error.code or info.reason or bare,
        error.message or text,
        tuple(Violation(one.field, one.description) for one in bad.field_violations),
        retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
    )


def late() -> ApiError:
    """The time for a call was over before it could be made."""
    return ApiError("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "no token was got in time")
