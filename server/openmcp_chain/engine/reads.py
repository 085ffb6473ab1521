"""Reads of tasks by their keys, batched; however much one workspace reads, the others' reads don't wait for it.

A batch is over when its last byte has come, so a mebibyte in it is waited for by all. So a batch of more than a few
asks for sizes first: the large ones are read apart, a batch of a few mebibytes at a time, of each workspace a few.
"""

from collections.abc import Sequence
from typing import NamedTuple

from openmcp_chain.domain.task import Key, Task, View
from openmcp_chain.engine.few import Few
from openmcp_chain.engine.groupcommit import BATCH_ITEMS, GroupCommit
from openmcp_chain.store.base import Store

FEW = 4
"""So many are read without a look at their sizes: it would cost as much as they do."""
SIZES = 100
"""So many sizes, or outlines, are read at a time: for that, a database may have to look through the tasks."""
LARGE_AT_ONCE = 4
"""Large tasks of one workspace that are read at a time."""


class _Large(NamedTuple):
    key: Key
    bytes: int


class Reads:
    """Reads of one view."""

    def __init__(self, store: Store, view: View) -> None:
        self._store = store
        self._view = view
        most = SIZES if view is View.OUTLINE else BATCH_ITEMS
        self._all = GroupCommit[Key, Task | _Large | None](self._read, most=most, lane=lambda key: key.workspace)
        self._large = GroupCommit[_Large, Task | None](self._read_large, lambda large: large.bytes)
        self._sizes = GroupCommit[Key, int](self._read_sizes, most=SIZES, lane=lambda key: key.workspace)
        self._few = Few(LARGE_AT_ONCE)

    async def __call__(self, key: Key) -> Task | None:
        """The task as it is now."""
        found = await self._all(key)
        if not isinstance(found, _Large):
            return found
        async with self._few.turn(key.workspace):
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
        return [_Large(key, sum(large[key])) if key in large else found.get(key) for key in keys]

    async def _read_large(self, large: Sequence[_Large]) -> Sequence[Task | None]:
        found = await self._store.get_tasks({one.key for one in large}, self._view)
        return [found.get(one.key) for one in large]
