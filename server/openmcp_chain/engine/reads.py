"""Reads of tasks by their keys, batched; however much one workspace reads, the others' reads don't wait for it.

A batch is over when its last byte has come, so a mebibyte in it is waited for by all. So a batch of more than a few
asks for sizes first: the large ones are read apart, a batch of a few mebibytes at a time, of each workspace a few.

Who reads a task to change it keeps it until that is written, and a thousand may do so at once. So what those of a
workspace's tasks that have much to them have together while they are in hand is bounded as well; who finds no room lets
go of its task, and reads it again.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple
from weakref import WeakValueDictionary

from openmcp_chain.domain import sizes
from openmcp_chain.domain.task import Key, Task, View
from openmcp_chain.engine.allowance import Allowance
from openmcp_chain.engine.answers import Ask, free
from openmcp_chain.engine.few import Few
from openmcp_chain.engine.groupcommit import BATCH_ITEMS, GroupCommit
from openmcp_chain.store.base import LARGE_BYTES, Large, Store

FEW = 4
"""So many are read without a look at their sizes: it would cost as much as they do."""
SIZES = 100
"""So many sizes, or outlines, are read at a time: for that, a database may have to look through the tasks."""
LARGE_AT_ONCE = 4
"""Large tasks of one workspace that are read at a time."""
HELD_BYTES = 16 * 1024 * 1024
"""What one workspace's tasks may have together, besides payload and result, while they are changed."""


class _Large(NamedTuple):
    key: Key
    size: Large


class Reads:
    """Reads of one view."""

    def __init__(self, store: Store, view: View) -> None:
        self._store = store
        self._view = view
        most = SIZES if view is View.OUTLINE else BATCH_ITEMS
        self._all = GroupCommit[Key, Task | _Large | None](
            self._read, most=most, lane=lambda key: key.workspace, pauses=True
        )
        self._large = GroupCommit[_Large, Task | None](self._read_large, lambda large: sum(large.size))
        self._sizes = GroupCommit[Key, int](self._read_sizes, most=SIZES, lane=lambda key: key.workspace)
        self._few = Few(LARGE_AT_ONCE)
        self._in_hand = WeakValueDictionary[str, Allowance]()
        """By workspace, while it has some."""

    async def __call__(self, key: Key, may_read: Ask = free) -> Task | None:
        """The task as it is now. Raises what `may_read` does, which is asked again if it had to wait to be read."""
        return await self._fetch(await self._all(key), may_read)

    @asynccontextmanager
    async def hold(self, key: Key) -> AsyncIterator[Task | None]:
        """The task as it is now, for the length of the block: if it `is_much`, when its workspace has room for it.

        The block must not hold another.
        """
        found = await self._all(key)
        rest = found.size.rest if isinstance(found, _Large) else _rest(found) if found is not None else 0
        if rest <= LARGE_BYTES:
            yield await self._fetch(found)
            return
        allowance = self._in_hand.setdefault(key.workspace, Allowance(HELD_BYTES))
        if not allowance.has_room(rest):
            found = _Large(key, Large(0, rest))
        async with allowance.use(rest):
            yield await self._fetch(found)

    async def _fetch(self, found: Task | _Large | None, may_read: Ask = free) -> Task | None:
        if not isinstance(found, _Large):
            return found
        async with self._few.turn(found.key.workspace):
            may_read(found.size.content)
            return await self._large(found)

    async def size(self, key: Key) -> int:
        """The bytes of its payload and result, as far as the view has them; 0 if they are not large."""
        return 0 if self._view in (View.OUTLINE, View.BASIC) else await self._sizes(key)

    async def _read_sizes(self, keys: Sequence[Key]) -> Sequence[int]:
        large = await self._store.large_tasks(set(keys), self._view)
        return [large[key].content if key in large else 0 for key in keys]

    async def _read(self, keys: Sequence[Key]) -> Sequence[Task | _Large | None]:
        wanted = set(keys)
        large = await self._store.large_tasks(wanted, self._view) if len(wanted) > FEW else {}
        found = await self._store.get_tasks(wanted - large.keys(), self._view)
        return [_Large(key, large[key]) if key in large else found.get(key) for key in keys]

    async def _read_large(self, large: Sequence[_Large]) -> Sequence[Task | None]:
        found = await self._store.get_tasks({one.key for one in large}, self._view)
        return [found.get(one.key) for one in large]


def is_much(task: Task) -> bool:
    """Whether there is so much to it, besides payload and result, which are counted where they are kept."""
    return _rest(task) > LARGE_BYTES


def _rest(task: Task) -> int:
    return sizes.of_entries(task) + sizes.of_events(task.events)
