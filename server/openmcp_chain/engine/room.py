"""The room that waiting tasks have in memory, over all types: bounded, and shared among workspaces.

A workspace may spread its tasks over a thousand types, and has no more room for it: who has most in all is the first to
let go of something, of the type of which it has most.
"""

import itertools
from typing import Protocol

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import Key, Queue
from openmcp_chain.engine.crowds import Crowds

TASKS = 20_000
"""So many tasks wait in the memory of a process at most. Each takes 5 KB or less (see `backlog.SMALL_BYTES`)."""
ENOUGH = 500
"""A workspace with so many tasks of a type in memory, of one priority or better, needs no more from the database."""


class Holder(Protocol):
    """A backlog."""

    def remove(self, key: Key) -> Waiting:
        """Lets go of a task that is here; returns it."""
        ...


class Room:
    """Who has how much of it."""

    def __init__(self) -> None:
        self.serial = itertools.count()
        """Numbers what happens, over all types."""
        self.holders: dict[Key, Holder] = {}
        """What holds each task."""
        self._all = 0
        self._workspaces = Crowds()
        self._types: dict[str, Crowds] = {}
        """By workspace; those alone that have something."""

    def change(self, queue: Queue, by: int) -> None:
        """There is one more of a queue's tasks, or so many fewer."""
        self._all += by
        self._workspaces.change(queue.workspace, by)
        types = self._types.setdefault(queue.workspace, Crowds())
        types.change(queue.type, by)
        if not types:
            del self._types[queue.workspace]

    def share(self, queue: Queue) -> int:
        """How many of a queue's tasks to have here: what it needs, or an even share if there is less room."""
        workspaces = len(self._types) + (queue.workspace not in self._types)
        types = self._types.get(queue.workspace) or Crowds()
        return max(1, min(ENOUGH, TASKS // workspaces // (len(types) + (queue.type not in types))))

    @property
    def crowded(self) -> Queue | None:
        """Who is to let go of a task: of the workspace that has most, the type that has; None if there is room."""
        if self._all <= TASKS:
            return None
        workspace = self._workspaces.crowded
        return Queue(workspace, self._types[workspace].crowded)
