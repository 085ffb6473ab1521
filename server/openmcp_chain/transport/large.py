"""Large requests and answers: how they are read, and how much of them there may be.

Requests are decoded and read one at a time, beside the event loop, of each workspace in its turn.

A request of 4 MiB may hold a million values. Read on the event loop they would stop everybody for half a second; read
by a thread for each, they would leave the loop a fraction of the interpreter. And a decoded message takes up to 25
times its bytes. So one thread reads them all, and a message is decoded when its turn has come. A workspace has one
request that waits for the thread, and one end of a lease; its others wait behind those. A method that has nothing large
to read, a wait among them, has its turn for the decoding alone. What is under way is bounded, for each workspace and in
all.

An answer is kept until its caller has read it, which may be never: by gRPC, Envoy holds 64 KiB of it, and the rest
stays here until it ends the call. So answers that are not written yet are bounded in the same way.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from openmcp_chain.engine.few import Few
from openmcp_chain.engine.volume import SMALL, Volume

T = TypeVar("T")


class Reading:
    """The reading of one request, from its bytes to what the engine takes. This one is done at once."""

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns or raises."""
        return function(*arguments)

    def end(self) -> None:
        """It has been read, and nobody holds it any more: it is the next one's turn. More than once is no matter."""


AT_ONCE = Reading()
RESTS = 3
"""A line that rests leaves the thread to others for so many times as long as it has had it."""


class _InTurn(Reading):
    """The reading of one that is large: the functions run in the thread, from its turn on until its end."""

    def __init__(self, large: "Large", line: str, *, rests: bool) -> None:
        self._large = large
        self._line = line
        self._rests = rests
        self._spent = 0.0
        self._has_turn = False
        self._job: asyncio.Future[Any] | None = None

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        if not self._has_turn:
            await self._large.enter_turn(self._line)
            self._has_turn = True
        job = asyncio.wrap_future(self._large.thread.submit(self._timed, function, *arguments))
        self._job = job
        try:
            return await asyncio.shield(job)
        finally:
            # An exception would hold this frame, the frame the future, and the future the exception.
            del job

    def _timed(self, function: Callable[..., T], *arguments: Any) -> T:
        began = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self._spent += time.thread_time() - began

    def end(self) -> None:
        job, self._job = self._job, None
        if not self._has_turn:
            return
        self._has_turn = False
        if job is not None and not job.done():  # its caller is gone, but it goes on
            job.add_done_callback(self._leave)
        else:
            self._left()

    def _leave(self, job: "asyncio.Future[Any]") -> None:
        job.exception()  # nobody else asks for it
        self._left()

    def _left(self) -> None:
        self._large.leave_turn(self._line, RESTS * self._spent if self._rests else 0.0)


class Large:
    """The place where large requests are read, and what is known of those whose calls are under way."""

    def __init__(self, unread: Volume) -> None:
        """`unread`: what there is of answers, and of tasks for workers, that have not been read."""
        self.thread = ThreadPoolExecutor(1, "large")
        self.turn = asyncio.Lock()
        self._own = Few(1)
        self._rested_at: dict[str, float] = {}
        """When the next one of each line that rests has its turn at the earliest, by the loop's clock."""
        self.requests = Volume()
        """Those whose calls are under way. Of messages on streams, each stream has one, which is not counted."""
        self.unread = unread

    def reading(self, line: str, size: int, *, rests: bool = False) -> Reading:
        """The reading of a request of so many bytes. Its `end` must be called. What is small takes milliseconds.

        `line`: where it waits, a workspace or what of it has a line of its own. `rests`: the line's next one waits
        afterwards, for `RESTS` times as long as this one takes.
        """
        return AT_ONCE if size <= SMALL else _InTurn(self, line, rests=rests)

    async def enter_turn(self, line: str) -> None:
        """Waits for the line's own turn, and then for the one of all; for a reading."""
        await self._own.enter(line)
        try:
            loop = asyncio.get_running_loop()
            if (wait := self._rested_at.get(line, 0.0) - loop.time()) > 0:
                await asyncio.sleep(wait)
            await self.turn.acquire()
        except BaseException:
            self._own.leave(line)
            raise

    def leave_turn(self, line: str, rest: float = 0.0) -> None:
        """The next one's; of this line, in so many seconds."""
        self.turn.release()
        self._own.leave(line)
        if rest:
            loop = asyncio.get_running_loop()
            rested_at = self._rested_at[line] = loop.time() + rest
            loop.call_at(rested_at, self._forget_rest, line, rested_at)

    def _forget_rest(self, line: str, rested_at: float) -> None:
        if self._rested_at.get(line) == rested_at:  # else it rests again, and for longer
            del self._rested_at[line]
