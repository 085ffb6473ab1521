"""How many tasks a workspace has, by filter: each workspace's counts in turn, and of all of them a few at a time.

A count may read all of a workspace's tasks, on one of the few connections that everybody's writes need too. So however
many filters somebody thinks of, others have the database nearly to themselves.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import TypeAlias

from openmcp_chain.domain import errors, filters
from openmcp_chain.domain.filters import Filter
from openmcp_chain.domain.task import Status
from openmcp_chain.engine import shared
from openmcp_chain.store.base import Store, TooMuch

COUNT_SECONDS = 2.0
"""For so long after it was counted it is told again: however often it is asked for, the database counts no more."""
COUNTS = 1000
"""How many are remembered."""
AT_ONCE = 2
"""How many counts are under way at a time, of all workspaces; of each, one."""
WAITING = 20
"""Calls of one workspace that wait for a count of something else."""
WITHIN_SECONDS = 10.0
"""A count that takes longer is given up."""

_Counted: TypeAlias = Mapping[Status, int]
_Key: TypeAlias = tuple[str, str]
"""A workspace, and the text of a filter."""


class Counts:
    """Counts, and remembers for a while."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[_Key, tuple[float, _Counted]] = OrderedDict()
        """What was counted, and when."""
        self._under_way: dict[str, tuple[str, asyncio.Task[_Counted]]] = {}
        """Of each workspace that has one: the filter's text, and the count."""
        self._waiting = Counter[str]()
        self._free = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, workspace: str, text: str) -> _Counted:
        """How many tasks the filter selects, by status; as it was COUNT_SECONDS ago, at most, or as the call began.

        Raises InvalidArgument; Overloaded if so many wait already, DeadlineExceeded if it takes too long.
        """
        chosen = filters.parse(text)
        while True:
            known = self._known.get((workspace, text))
            if known is not None and asyncio.get_running_loop().time() - known[0] < COUNT_SECONDS:
                return known[1]
            if workspace not in self._under_way:
                # It goes on when its caller gives up: others wait for it, and a database may read on all the same.
                self._under_way[workspace] = text, shared.begin(self._count((workspace, text), chosen))
            other, counting = self._under_way[workspace]
            if other == text:
                return await asyncio.shield(counting)
            await self._wait(workspace, counting)

    async def _wait(self, workspace: str, counting: asyncio.Task[_Counted]) -> None:
        if self._waiting[workspace] >= WAITING:
            raise errors.Overloaded
        self._waiting[workspace] += 1
        try:
            await asyncio.wait([counting])
        finally:
            self._waiting[workspace] -= 1
            if not self._waiting[workspace]:
                del self._waiting[workspace]

    async def _count(self, key: _Key, chosen: Filter) -> _Counted:
        workspace, _ = key
        try:
            async with self._free:
                counted = await self._store.count_tasks(workspace, chosen, WITHIN_SECONDS)
        except TooMuch:
            raise errors.DeadlineExceeded from None
        finally:
            del self._under_way[workspace]
        self._known[key] = asyncio.get_running_loop().time(), counted
        self._known.move_to_end(key)
        if len(self._known) > COUNTS:
            self._known.popitem(last=False)
        return counted
