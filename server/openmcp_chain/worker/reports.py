"""The reports that end an attempt, in a form that the server can read.

A message that it can't read would end the stream of all the worker's tasks; so what a function said is cut and cleaned.
"""

from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.client import payloads
from openmcp_chain.client.errors import PayloadError
from openmcp_chain.client.values import Seconds
from openmcp_chain.worker.task import TaskFailed

MESSAGE_CHARACTERS = 2048
"""Of a failure; the server cuts there too."""
CODE_CHARACTERS = 64
_DAY_SECONDS = 24 * 3600.0


def completed(lease: workers_pb2.LeaseRef, result: Any) -> workers_pb2.WorkRequest:  # noqa: ANN401 - a user's
    """Success with what a function returned; the failure RESULT_INVALID if that can't be kept."""
    try:
        struct = payloads.to_struct(result, "result")
    except PayloadError as error:
        return failed(lease, "RESULT_INVALID", str(error))
    return workers_pb2.WorkRequest(complete=workers_pb2.Complete(lease=lease, result=struct))


def failed(
    lease: workers_pb2.LeaseRef,
    code: str,
    message: str,
    *,
    retryable: bool = False,
    retry_delay: Seconds | None = None,
) -> workers_pb2.WorkRequest:
    """Failure."""
    fail = workers_pb2.Fail(
        lease=lease,
        code=text(code, CODE_CHARACTERS),
        message=text(message, MESSAGE_CHARACTERS),
        retryable=retryable,
    )
    if retry_delay is not None:
        fail.retry_delay.CopyFrom(_delay(retry_delay))
    return workers_pb2.WorkRequest(fail=fail)


def refused(lease: workers_pb2.LeaseRef, failure: TaskFailed) -> workers_pb2.WorkRequest:
    """The failure that a function told of."""
    return failed(lease, failure.code, failure.message, retryable=failure.retryable, retry_delay=failure.retry_delay)


def text(said: str, characters: int) -> str:
    """Cut, and without lone surrogates, which protobuf does not take."""
    return said[:characters].encode(errors="replace").decode()


def _delay(delay: Seconds) -> Duration:
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    message = Duration()
    # In this order, NaN becomes 0.
    message.FromNanoseconds(int(min(_DAY_SECONDS, max(0.0, seconds)) * 1e9))
    return message
