"""What streams may have under way together; past it no more is read, and HTTP/2's flow control holds up the sender."""

import asyncio


class Allowance:
    """A number of bytes, taken when a message is read and given back when it is done with."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._given_back = asyncio.Event()

    async def take(self, size: int) -> None:
        """Waits until there is room. A message that is larger than all there is goes alone."""
        while self._taken and self._taken + size > self._limit:
            self._given_back.clear()
            await self._given_back.wait()
        self._taken += size

    def give_back(self, size: int) -> None:
        self._taken -= size
        self._given_back.set()
