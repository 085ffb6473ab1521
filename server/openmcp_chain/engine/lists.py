"""Pages of tasks from the database: each workspace's lists in turn, and of all of them a few pages at a time.

A page whose filter selects little of much may take half a second, on one of the few connections that everybody's writes
need too. So however often somebody lists, others have the database nearly to themselves. A list of several pages keeps
the first ones while it reads the next; so it has its workspace's turn until it is made.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from openmcp_chain.domain import errors
from openmcp_chain.domain.filters import Filter
from openmcp_chain.domain.task import Task
from openmcp_chain.engine import answers, shared
from openmcp_chain.engine.few import Few
from openmcp_chain.store.base import Page, Place, Store

AT_ONCE = 2
"""How many pages are read at a time, of all workspaces."""
WAITING = 100
"""Of one workspace's lists that wait for others of its own."""


def behind(task: Task) -> Place:
    """The place behind a task, in a list."""
    return Place(task.submitted_at, task.id)


@dataclass(slots=True)
class Turn:
    """A workspace's turn to read pages."""

    store: Store
    workspace: str
    free: asyncio.Semaphore
    reading: asyncio.Task[Page] | None = None

    async def page(self, chosen: Filter, after: Place | None, size: int, most: int, *, first: bool = True) -> Page:
        """As `Store.list_tasks`, but no more than fit into `most` bytes of an answer: one, if it is its `first`."""
        await self.free.acquire()
        # It goes on when its caller gives up: a database may read on all the same.
        self.reading = shared.begin(self._read(chosen, after, size, most, first=first))
        try:
            return await asyncio.shield(self.reading)
        finally:
            if self.reading.done():
                self.reading = None  # it has the page

    async def _read(self, chosen: Filter, after: Place | None, size: int, most: int, *, first: bool) -> Page:
        try:
            page = await self.store.list_tasks(self.workspace, chosen, after, size)
        finally:
            self.free.release()
        fit = answers.room(list(map(answers.weight, page.tasks)), most, first=first)
        if fit == len(page.tasks):
            return page
        tasks = page.tasks[:fit]
        return Page(tasks, behind(tasks[-1]) if tasks else after)


class Lists:
    """Whose turn it is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._own = Few(1)
        self._free = asyncio.Semaphore(AT_ONCE)
        self._asked = Counter[str]()

    @asynccontextmanager
    async def turn(self, workspace: str) -> AsyncIterator[Turn]:
        """The workspace's turn, for the length of the block, and until what it has begun to read has been read.

        Raises Overloaded if so many wait already.
        """
        if self._asked[workspace] > WAITING:
            raise errors.Overloaded
        self._asked[workspace] += 1
        try:
            await self._own.enter(workspace)
        except BaseException:
            self._uncount(workspace)
            raise
        turn = Turn(self._store, workspace, self._free)
        try:
            yield turn
        finally:
            if turn.reading is None:
                self._leave(workspace)
            else:
                turn.reading.add_done_callback(lambda _: self._leave(workspace))

    def _leave(self, workspace: str) -> None:
        self._own.leave(workspace)
        self._uncount(workspace)

    def _uncount(self, workspace: str) -> None:
        self._asked[workspace] -= 1
        if not self._asked[workspace]:
            del self._asked[workspace]
