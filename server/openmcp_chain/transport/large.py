"""Large requests: decoded and read one at a time, beside the event loop, of each workspace in its turn.

A request of 4 MiB may hold a million values. Read on the event loop they would stop everybody for half a second; read
by a thread for each, they would leave the loop a fraction of the interpreter. And a decoded message takes up to 25
times its bytes. So one thread reads them all, and a message is decoded when its turn has come. A workspace has one
request that waits for the thread; its others wait behind that. What waits is bounded, for each workspace and in all.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

SMALL = 32 * 1024
"""Bytes. So much is read at once: it takes some milliseconds at most."""
WORKSPACE_BYTES = 32 * 1024 * 1024
ALL_BYTES = 96 * 1024 * 1024
"""Of requests that wait to be read, or are."""


@dataclass(slots=True)
class _Workspace:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    bytes: int = 0


class Reading:
    """The reading of one request, from its bytes to what the engine takes. This one is done at once."""

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns or raises."""
        return function(*arguments)

    def end(self) -> None:
        """The request has been read, and nobody holds it: it is the next one's turn. More than once is no matter."""


AT_ONCE = Reading()


class _InTurn(Reading):
    """The reading of one that is large: the functions run in the thread, from its turn on until its end."""

    def __init__(self, large: "Large", workspace: str, size: int) -> None:
        self._large = large
        self._name = workspace
        self._size = size
        self._workspace = large.enter(workspace, size)
        self._held: list[asyncio.Lock] = []
        self._job: asyncio.Future[Any] | None = None
        self._ended = False

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        if not self._held:
            for lock in (self._workspace.turn, self._large.turn):
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
        if self._ended:
            return
        self._ended = True
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
        self._large.leave(self._name, self._size)


class Large:
    """The place where large requests are read."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.thread = ThreadPoolExecutor(1, "large")
        self._bytes = 0
        self._workspaces: dict[str, _Workspace] = {}

    def full(self, workspace: str, size: int) -> bool:
        """Whether so many bytes more are too many."""
        known = self._workspaces.get(workspace)
        own = known.bytes if known is not None else 0
        return size > SMALL and (own + size > WORKSPACE_BYTES or self._bytes + size > ALL_BYTES)

    def reading(self, workspace: str, size: int) -> Reading:
        """The reading of a request of so many bytes. Its `end` must be called."""
        return AT_ONCE if size <= SMALL else _InTurn(self, workspace, size)

    def enter(self, workspace: str, size: int) -> _Workspace:
        """Counts a reading that begins; for itself."""
        found = self._workspaces.setdefault(workspace, _Workspace())
        found.bytes += size
        self._bytes += size
        return found

    def leave(self, workspace: str, size: int) -> None:
        """Counts one that has ended."""
        found = self._workspaces[workspace]
        found.bytes -= size
        self._bytes -= size
        if not found.bytes:
            del self._workspaces[workspace]
