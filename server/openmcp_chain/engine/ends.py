"""Ends that are due, a few at a time: the workspaces take turns, and nobody waits for all of another's.

A tenant's tasks may run out of time by the thousand at once. To end one takes a read and a write, and these go out in
batches with everybody's: together they would hold up all other changes, and behind them what runs out of time next.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TypeAlias

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Key

log = logging.getLogger(__name__)

AT_ONCE = 8
"""How many tasks are ended at a time."""
WAITING = 5000
"""How many of one workspace wait for their turn; others are left to be found again."""

End: TypeAlias = Callable[[], Coroutine[None, None, None]]


class Ends:
    """The tasks that are to be ended, by workspace."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, dict[Key, End]] = OrderedDict()
        """The workspace whose turn it is first."""
        self._under_way: dict[Key, asyncio.Task[None]] = {}

    def __contains__(self, key: object) -> bool:
        """Whether the task is being ended, or waits for its turn."""
        return isinstance(key, Key) and (key in self._under_way or key in self._waiting.get(key.workspace, {}))

    def want(self, key: Key, end: End) -> bool:
        """Has `end` end the task in its workspace's turn. Returns whether it was not wanted already."""
        mine = self._waiting.get(key.workspace, {})
        if key in self or len(mine) >= WAITING:
            return False
        mine[key] = end
        self._waiting.setdefault(key.workspace, mine)
        self._go_on()
        return True

    def cancel(self) -> None:
        """Leaves what is left to whoever finds it again."""
        self._waiting.clear()
        for ending in self._under_way.values():
            ending.cancel()

    async def settle(self) -> None:
        """Returns when nothing is left."""
        while self._under_way:
            await asyncio.wait(self._under_way.values())

    def _go_on(self) -> None:
        while self._waiting and len(self._under_way) < AT_ONCE:
            workspace, mine = self._waiting.popitem(last=False)
            key = next(iter(mine))
            ending = self._under_way[key] = asyncio.create_task(self._run(mine.pop(key)))
            ending.add_done_callback(partial(self._ended, key))
            if mine:
                self._waiting[workspace] = mine

    async def _run(self, end: End) -> None:
        try:
            await end()
        except errors.Error:
            pass  # another process, or the worker itself, was first; or it is found again
        except Exception:
            # It is found again as well, and must not keep the others from being ended.
            log.exception("unforeseen")

    def _ended(self, key: Key, _: asyncio.Task[None]) -> None:
        del self._under_way[key]
        self._go_on()
