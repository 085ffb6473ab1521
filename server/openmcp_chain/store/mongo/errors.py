"""What the driver raises ends here: a caller sees `Unavailable` or `Internal`, and nothing of the driver's own.

A driver's exception may name hosts, or quote a URI with its password, or a document. So neither its text nor the
exception itself (as a cause or a context) goes on from here; the log gets its class and the server's error codes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pymongo
from bson.errors import BSONError
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from openmcp_chain.domain import errors

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.8
"""Seconds between tries, doubling. Most of the waiting for a primary is the driver's part; these keep a server that
fails at once from being hammered."""

DUPLICATE_KEY = 11000

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


async def persist(operation: Callable[[], Awaitable[_T]], patience: float) -> _T:
    """Runs `operation`, and again if the driver fails: no try begins after `patience` seconds, or runs past twice that.

    Whatever the failure was: each operation is a read or a guarded write and bears repeating, and a list of the
    failures that pass by themselves would never be complete. Raises Unavailable when the last try has failed; Internal,
    at once, for a document that cannot be encoded.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + patience
    pause = FIRST_PAUSE
    verdict: type[errors.Internal | errors.Unavailable]
    with pymongo.timeout(2 * patience):
        while True:
            try:
                return await heeding(operation())
            except BSONError as error:
                fault, verdict = type(error).__name__, errors.Internal
                break
            except PyMongoError as error:
                fault, verdict = _name(error), errors.Unavailable
                if clock() + pause > end:
                    break
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
    _log.warning("the database failed: %s", fault)
    # Out here, where no exception is being handled, so that the driver's does not become this one's context.
    raise verdict


async def heeding(operation: Awaitable[_T]) -> _T:
    """Awaits it, and raises CancelledError if its task was cancelled meanwhile, even if it came to its end.

    PyMongo sends by `asyncio.wait_for`, which before Python 3.12 may keep a cancellation to itself
    (python/cpython#86296). A loop that is to end would go on for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    result = await operation
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return result


def taken(error: BulkWriteError) -> list[int]:
    """The indexes of the inserts whose key was taken. Raises `error` itself if anything else failed."""
    failed = error.details["writeErrors"]
    if error.details["writeConcernErrors"] or any(one["code"] != DUPLICATE_KEY for one in failed):
        raise error
    return [one["index"] for one in failed]


def _name(error: PyMongoError) -> str:
    codes: list[object] = []
    if isinstance(error, BulkWriteError):
        codes = sorted({one["code"] for kind in ("writeErrors", "writeConcernErrors") for one in error.details[kind]})
    elif isinstance(error, OperationFailure):
        codes = [error.code]
    return f"{type(error).__name__} {codes}" if codes else type(error).__name__
