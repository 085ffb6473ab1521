"""So many at once of each workspace: what it begins beyond waits, in the order in which it came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Turn:
    free: asyncio.Semaphore
    users: int = 0


class Few:
    """What each workspace has under way, and what waits for it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._turns: dict[str, _Turn] = {}

    @asynccontextmanager
    async def turn(self, workspace: str) -> AsyncIterator[None]:
        """One for the length of the block."""
        await self.enter(workspace)
        try:
            yield
        finally:
            self.leave(workspace)

    async def enter(self, workspace: str) -> None:
        """Waits until fewer than `most` are under way, and begins one; `leave` is to follow."""
        turn = self._turns.get(workspace)
        if turn is None:
            turn = self._turns[workspace] = _Turn(asyncio.Semaphore(self._most))
        turn.users += 1
        try:
            await turn.free.acquire()
        except BaseException:
            self._left(workspace, turn)
            raise

    def leave(self, workspace: str) -> None:
        """Ends one."""
        turn = self._turns[workspace]
        turn.free.release()
        self._left(workspace, turn)

    def _left(self, workspace: str, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            del self._turns[workspace]
