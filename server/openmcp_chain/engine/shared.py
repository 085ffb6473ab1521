"""Work that goes on when its caller gives up: others wait for it too, or something follows from it."""

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

from openmcp_chain.domain import errors

log = logging.getLogger(__name__)

T = TypeVar("T")


def alone(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Starts what is everybody's: its log lines and spans are not those of the call that happened to begin it."""
    return asyncio.create_task(work, context=Context())


def begin(work: Coroutine[Any, Any, T], *, everybodys: bool = False) -> asyncio.Task[T]:
    """Starts it. Wait with `asyncio.shield`. That it failed is no fault if nobody waits for it any more."""
    task = alone(work) if everybodys else asyncio.create_task(work)
    task.add_done_callback(_hear)
    return task


def _hear(task: asyncio.Task[T]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, errors.Error):
        log.error("unforeseen", exc_info=error)
