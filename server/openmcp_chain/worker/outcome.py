"""Runs one attempt at a task, and makes of how it ended the report that the server gets.

Whatever a function does, there is a report: without one the lease of a task that nobody works on would be kept for
ever. And the server can read it: a message that it can't read would end the stream of all the worker's tasks.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from openmcp.chain.v1 import workers_pb2
from openmcp_chain import structs
from openmcp_chain.worker.task import Task, TaskFailed, TaskFunction

log = logging.getLogger(__name__)

MESSAGE_CHARACTERS = 2048
"""Of a failure; the server cuts there too."""
CODE_CHARACTERS = 64


async def attempt(functions: Mapping[str, TaskFunction], leased: workers_pb2.LeasedTask) -> workers_pb2.WorkRequest:
    """Runs the task's function; returns its Complete or Fail. Raises CancelledError if the attempt is stopped."""
    lease = leased.lease
    try:
        task = Task(
            workspace_id=lease.workspace_id,
            task_id=lease.task_id,
            type=leased.type,
            payload=MessageToDict(leased.payload),
            metadata=dict(leased.metadata),
            attempt=leased.attempt,
        )
        return _completed(lease, await functions[leased.type](task))
    except TaskFailed as failure:
        return _failed(lease, failure.code, failure.message, retryable=failure.retryable)
    except asyncio.CancelledError:
        running = asyncio.current_task()
        if running is not None and running.cancelling():
            raise
        # The function gave up something of its own: nobody stopped the task.
        log.exception("task function gave itself up", extra={"task_id": lease.task_id, "task_type": leased.type})
    except Exception:
        log.exception("task function failed", extra={"task_id": lease.task_id, "task_type": leased.type})
    return _failed(lease, "WORKER_ERROR", "the worker made an error; its log says more", retryable=True)


def _completed(lease: workers_pb2.LeaseRef, result: Mapping[str, Any]) -> workers_pb2.WorkRequest:
    try:
        struct = ParseDict(dict(result), Struct())
    except (ParseError, RecursionError, UnicodeEncodeError):
        return _failed(lease, "RESULT_INVALID", "the task returned what is not JSON", retryable=False)
    if fault := structs.fault("result", struct):
        return _failed(lease, "RESULT_INVALID", f"{fault.field}: {fault.description}", retryable=False)
    return workers_pb2.WorkRequest(complete=workers_pb2.Complete(lease=lease, result=struct))


def _failed(lease: workers_pb2.LeaseRef, code: str, message: str, *, retryable: bool) -> workers_pb2.WorkRequest:
    return workers_pb2.WorkRequest(
        fail=workers_pb2.Fail(
            lease=lease,
            code=_text(code, CODE_CHARACTERS),
            message=_text(message, MESSAGE_CHARACTERS),
            retryable=retryable,
        )
    )


def _text(text: str, characters: int) -> str:
    """Cut, and without lone surrogates, which protobuf does not take."""
    return text[:characters].encode(errors="replace").decode()
