"""A number of bytes that may be in use together; who wants more waits, in the order in which they came."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Allowance:
    """Taken for what begins, and given back when it is done with."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting = deque[tuple[int, asyncio.Future[None]]]()

    def has_room(self, size: int) -> bool:
        """Whether so many can be taken at once. What is larger than all there is goes alone."""
        return self._fits(size) and all(waiting.cancelled() for _, waiting in self._waiting)

    async def take(self, size: int) -> None:
        """Waits until there is room; `give_back` is to follow."""
        if self.has_room(size):
            self._taken += size
            return
        place = size, asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place[1]
        except BaseException:
            if place[1].done() and not place[1].cancelled():
                self.give_back(size)
            else:
                self._wake()
            raise

    def give_back(self, size: int) -> None:
        """They are in use no longer."""
        self._taken -= size
        self._wake()

    @asynccontextmanager
    async def use(self, size: int) -> AsyncIterator[None]:
        """So many for the length of the block."""
        await self.take(size)
        try:
            yield
        finally:
            self.give_back(size)

    def _fits(self, size: int) -> bool:
        return not self._taken or self._taken + size <= self._limit

    def _wake(self) -> None:
        while self._waiting:
            size, waiting = self._waiting[0]
            if not waiting.cancelled():  # else its caller has given up, and may not have heard so yet
                if not self._fits(size):
                    return
                self._taken += size
                waiting.set_result(None)
            self._waiting.popleft()
