"""Large requests: decoded and read one at a time, beside the event loop, of each workspace in its turn.

A request of 4 MiB may hold a million values. Read on the event loop they would stop everybody for half a second; read
by a thread for each, they would leave the loop a fraction of the interpreter. And a decoded message takes up to 25
times its bytes. So one thread reads them all, and a message is decoded when its turn has come. A workspace has one
request that waits for the thread; its others wait behind that. A method that has nothing large to read, a wait among
them, has its turn for the decoding alone. What is under way is bounded, for each workspace and in all.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from openmcp_chain.domain import errors

T = TypeVar("T")

SMALL = 32 * 1024
"""Bytes. So much is read at once: it takes some milliseconds at most."""
WORKSPACE_BYTES = 64 * 1024 * 1024
ALL_BYTES = 192 * 1024 * 1024
"""Of larger requests whose calls are under way; of messages on streams, each stream has one that waits."""


@dataclass(slots=True)
class _Workspace:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    bytes: int = 0
    readings: int = 0


class Reading:
    """The reading of one request, from its bytes to what the engine takes. This one is done at once."""

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns or raises."""
        return function(*arguments)

    def end(self) -> None:
        """It has been read, and nobody holds it any more: it is the next one's turn. More than once is no matter."""


AT_ONCE = Reading()


class _InTurn(Reading):
    """The reading of one that is large: the functions run in the thread, from its turn on until its end."""

    def __init__(self, large: "Large", workspace: str) -> None:
        self._large = large
        self._workspace = workspace
        self._held: list[asyncio.Lock] = []
        self._job: asyncio.Future[Any] | None = None
        self._turn: asyncio.Lock | None = large.begin(workspace)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        if not self._held and self._turn is not None:
            for lock in (self._turn, self._large.turn):
                await lock.acquire()
                self._held.append(lock)
        job = asyncio.wrap_future(self._large.thread.submit(function, *arguments))
        self._job = job
        try:
            return await asyncio.shield(job)
        finally:
            # An exception would hold this frame, the frame the future, and the future the exception.
            del job

    def end(self) -> None:
        if self._turn is None:
            return
        self._turn = None
        if self._job is not None and not self._job.done():  # its caller is gone, but it goes on
            self._job.add_done_callback(self._leave)
        else:
            self._leave()
        self._job = None

    def _leave(self, job: "asyncio.Future[Any] | None" = None) -> None:
        if job is not None:
            job.exception()  # nobody else asks for it
        while self._held:
            self._held.pop().release()
        self._large.done(self._workspace)


class Successive(Reading):
    """The readings of a stream's messages: of each in its turn, and done before the next one comes."""

    def __init__(self, large: "Large", workspace: str) -> None:
        self._large = large
        self._workspace = workspace
        self._now = AT_ONCE

    def begin(self, size: int) -> None:
        """A message of so many bytes has come."""
        self.end()
        self._now = self._large.reading(self._workspace, size)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._now.run(function, *arguments)

    def end(self) -> None:
        self._now.end()
        self._now = AT_ONCE


class Large:
    """The place where large requests are read, and what is known of those whose calls are under way."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.thread = ThreadPoolExecutor(1, "large")
        self._bytes = 0
        self._workspaces: dict[str, _Workspace] = {}

    def reading(self, workspace: str, size: int) -> Reading:
        """The reading of a request of so many bytes. Its `end` must be called."""
        return AT_ONCE if size <= SMALL else _InTurn(self, workspace)

    def enter(self, workspace: str, size: int) -> None:
        """Counts a call with so many bytes. Raises Overloaded if they are too many."""
        if size <= SMALL:
            return
        known = self._workspaces.get(workspace)
        own = known.bytes if known is not None else 0
        if own + size > WORKSPACE_BYTES or self._bytes + size > ALL_BYTES:
            raise errors.Overloaded
        self._of(workspace).bytes += size
        self._bytes += size

    def leave(self, workspace: str, size: int) -> None:
        """Such a call has ended, or failed to begin otherwise than here."""
        if size > SMALL:
            self._of(workspace).bytes -= size
            self._bytes -= size
            self._forget_if_idle(workspace)

    def begin(self, workspace: str) -> asyncio.Lock:
        """Counts a reading that begins, for itself; returns what its turn among the workspace's is told by."""
        found = self._of(workspace)
        found.readings += 1
        return found.turn

    def done(self, workspace: str) -> None:
        """Counts one that has ended."""
        self._of(workspace).readings -= 1
        self._forget_if_idle(workspace)

    def _of(self, workspace: str) -> _Workspace:
        return self._workspaces.setdefault(workspace, _Workspace())

    def _forget_if_idle(self, workspace: str) -> None:
        found = self._of(workspace)
        if not found.bytes and not found.readings:
            del self._workspaces[workspace]
