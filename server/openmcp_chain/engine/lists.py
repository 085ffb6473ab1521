"""Pages of tasks from the database: each workspace's in turn, and of all of them a few at a time.

A page whose filter selects little of much may take half a second, on one of the few connections that everybody's writes
need too. So however often somebody lists, others have the database nearly to themselves.
"""

import asyncio
from collections import Counter

from openmcp_chain.domain import errors
from openmcp_chain.domain.filters import Filter
from openmcp_chain.domain.task import Task
from openmcp_chain.engine import answers, shared
from openmcp_chain.engine.few import Few
from openmcp_chain.store.base import Page, Place, Store

AT_ONCE = 2
"""How many pages are read at a time, of all workspaces; of each, one."""
WAITING = 100
"""Of one workspace's that wait for others of its own."""


def behind(task: Task) -> Place:
    """The place behind a task, in a list."""
    return Place(task.submitted_at, task.id)


class Lists:
    """Reads pages."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._own = Few(1)
        self._free = asyncio.Semaphore(AT_ONCE)
        self._asked = Counter[str]()

    async def __call__(
        self, workspace: str, chosen: Filter, after: Place | None, size: int, most: int, *, first: bool = True
    ) -> Page:
        """As `Store.list_tasks`, but no more than fit into `most` bytes of an answer: one, if it is its `first`.

        What does not fit is let go of before the next page is read. Raises Overloaded if so many wait already.
        """
        if self._asked[workspace] > WAITING:
            raise errors.Overloaded
        self._asked[workspace] += 1
        # It goes on when its caller gives up: a database may read on all the same.
        return await asyncio.shield(shared.begin(self._read(workspace, chosen, after, size, most, first=first)))

    async def _read(
        self, workspace: str, chosen: Filter, after: Place | None, size: int, most: int, *, first: bool
    ) -> Page:
        try:
            async with self._own.turn(workspace), self._free:
                page = await self._store.list_tasks(workspace, chosen, after, size)
                fit = answers.room(list(map(answers.weight, page.tasks)), most, first=first)
                if fit == len(page.tasks):
                    return page
                tasks = page.tasks[:fit]
                return Page(tasks, behind(tasks[-1]) if tasks else after)
        finally:
            self._asked[workspace] -= 1
            if not self._asked[workspace]:
                del self._asked[workspace]
