"""Group commit: what arrives while a write is under way goes out together in the next one.

A durable write costs the database much more than the document in it: a batch of 100 costs about a fifth of 100 single
writes. So callers queue for a writer, which takes all that wait each time round: an idle system writes at once, a
busy one makes larger batches the busier it is (as PostgreSQL's and InnoDB's log writers do).

Where it serves callers, it pauses behind a batch of several, for half as long as the write took: those who have their
answers come again, and were the next write to begin with the first of them, it would be a small one, and cost them all.
(PostgreSQL's `commit_delay` and `commit_siblings`, whose manual says to try half of what a write takes.) Once as many
items wait as go into one batch, it goes out; and where callers are so few that a batch has less than four, there is no
pause.

There may be several writers: another begins when as many items wait as go into one batch, and ends when fewer do. So
the database has the next full batch at hand, while answers to the last are given out and others are made ready.

Those who share a writer take turns: each item is of a lane, its workspace's, and a batch takes one of each lane, then
another. So what comes beside another tenant's thousands is in the next batch.
"""

import asyncio
from collections import OrderedDict, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from openmcp_chain.domain import errors
from openmcp_chain.engine import shared

T = TypeVar("T")
R = TypeVar("R")

BATCH_ITEMS = 500
BATCH_BYTES = 8 * 1024 * 1024
"""A batch is closed at either bound; MongoDB itself takes 48 MB."""

SIBLINGS = 4
"""Who writes so many at a time may wait for more."""
PAUSE = 0.5
PAUSE_SECONDS = 0.004
"""For what part of the time that the last write took, and how long at most."""


class GroupCommit(Generic[T, R]):
    """Turns an operation on many items into one on a single item that shares its round trips."""

    def __init__(
        self,
        flush: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        weigh: Callable[[T], int] = lambda _: 0,
        most: int = BATCH_ITEMS,
        lane: Callable[[T], str] = lambda _: "",
        *,
        writers: int = 1,
        pauses: bool = False,
    ) -> None:
        """`flush` does the operation and returns an answer for each item, in order; it is given `most` at a time.

        `writers`: so many batches are under way at a time, if they are full. `pauses`: behind a batch of several.
        `weigh` gives an item's bytes; `lane` says among which it waits, in the order in which they came.
        """
        self._flush = flush
        self._weigh = weigh
        self._most = most
        self._lane = lane
        self._most_writers = writers
        self._pauses = pauses
        self._lanes: OrderedDict[str, deque[tuple[T, asyncio.Future[R]]]] = OrderedDict()
        """What waits; the lane whose turn it is first."""
        self._waiting = 0
        self._enough = asyncio.Event()
        """Set when a whole batch waits."""
        self._writers: set[asyncio.Task[None]] = set()

    async def __call__(self, item: T) -> R:
        """Does the operation on `item`, in a batch with others. Raises what the batch raises.

        A cancelled caller stops waiting; the write goes on, since others are in it and since it may be under way.
        """
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._lanes.setdefault(self._lane(item), deque()).append((item, answer))
        self._waiting += 1
        full = self._waiting >= self._most
        if full:
            self._enough.set()
        if not self._writers or (full and len(self._writers) < self._most_writers):
            self._writers.add(shared.alone(self._write_all()))
        try:
            return await answer
        finally:
            # An exception would hold this frame, the frame the future, and the future the exception.
            del answer

    async def settle(self) -> None:
        """Returns when nothing waits any more."""
        while self._writers:
            await asyncio.wait(self._writers)

    async def _write_all(self) -> None:
        clock, writer = asyncio.get_running_loop().time, asyncio.current_task()
        try:
            while self._lanes:
                if len(self._writers) > 1 and self._waiting < self._most:
                    return  # one is enough for what waits
                began, batch = clock(), self._take()
                size = len(batch)
                await self._write(batch)
                if self._pauses and size >= SIBLINGS and len(self._writers) == 1 and self._waiting < self._most:
                    await self._pause(min(PAUSE * (clock() - began), PAUSE_SECONDS))
        finally:
            self._writers = {other for other in self._writers if other is not writer}

    async def _pause(self, seconds: float) -> None:
        self._enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._enough.wait()

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        """The next batch. A lane that has filled its share of the bytes leaves what room there is to the others."""
        batch: list[tuple[T, asyncio.Future[R]]] = []
        share, size, sizes = BATCH_BYTES // len(self._lanes), 0, defaultdict[str, int](int)
        full: dict[str, deque[tuple[T, asyncio.Future[R]]]] = {}
        while self._lanes and len(batch) < self._most and size < BATCH_BYTES:
            lane, waiting = self._lanes.popitem(last=False)
            entry = waiting.popleft()
            batch.append(entry)
            weight = self._weigh(entry[0])
            size += weight
            sizes[lane] += weight
            if waiting:
                (self._lanes if sizes[lane] < share else full)[lane] = waiting
        self._lanes.update(full)
        self._waiting -= len(batch)
        return batch

    async def _write(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        """Writes the batch and empties it: an error's traceback holds this frame, which must not hold who has it."""
        try:
            answers = list(zip(batch, await self._flush([item for item, _ in batch]), strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must reach the callers and not end the writer
            if len(batch) == 1 or _is_everybodys(error):
                self._refuse(batch, error)
                batch.clear()
        else:
            for (_, future), answer in answers:
                if not future.done():
                    future.set_result(answer)
            batch.clear()
        # One item that can't be written must not fail the others: each is tried by itself and gets its own error.
        while batch:
            await self._write([batch.pop(0)])

    @staticmethod
    def _refuse(batch: list[tuple[T, asyncio.Future[R]]], error: Exception) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)


def _is_everybodys(error: Exception) -> bool:
    """Whether an error says nothing about one item: the database is away. What it can't make sense of may be one's."""
    return isinstance(error, errors.Error) and not isinstance(error, errors.Internal)
