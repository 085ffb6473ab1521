"""Ready tasks waiting in memory: by type, fair between workspaces, by priority and age inside one.

Hints only: the database has the truth. So a backlog may be bounded (what does not fit is found again by a look in the
database when there is room and demand) and may be stale (a claim that comes second loses to the stored version).
"""

import heapq
import itertools
from collections import OrderedDict

from openmcp_chain.domain.task import Key, Task

TASKS = 10_000
BYTES = 64 * 1024 * 1024
"""Bounds of one type's backlog; the second counts payloads."""


class Backlog:
    """The waiting tasks of one type."""

    def __init__(self) -> None:
        # Round-robin over workspaces: the one served goes to the end, so one tenant's thousands delay another's single
        # task by one place.
        self._heaps: OrderedDict[str, list[tuple[int, float, int, Task]]] = OrderedDict()
        self._keys: set[Key] = set()
        self._arrivals = itertools.count()
        self._bytes = 0
        self.overflowed = True
        """Whether the database may have tasks that are not here: it is new, or one was turned away."""

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, task: Task) -> None:
        """Takes the task in, unless it is here already.

        Past the bounds, the workspace that has most is turned away: one tenant's flood leaves room for the others.
        """
        if task.key in self._keys:
            return
        heap = self._heaps.setdefault(task.workspace, [])
        heapq.heappush(heap, (task.priority, task.submitted_at.timestamp(), next(self._arrivals), task))
        self._keys.add(task.key)
        self._bytes += len(task.payload)
        while len(self._keys) > TASKS or self._bytes > BYTES:
            self._turn_away(task.workspace)

    def _turn_away(self, newest: str) -> None:
        """Lets go of a task that is not among the next: a leaf of the largest heap."""
        crowded = newest
        # Who has more than an even share is turned away without a look at all the others.
        if len(self._heaps.get(newest, ())) * len(self._heaps) <= len(self._keys):
            crowded = max(self._heaps, key=lambda workspace: len(self._heaps[workspace]))
        self._forget(crowded, self._heaps[crowded].pop()[-1])
        self.overflowed = True

    def take(self, workspace: str | None) -> Task | None:
        """The next task: of this workspace, or of the one whose turn it is if None."""
        chosen = next(iter(self._heaps), None) if workspace is None else workspace
        if chosen is None or chosen not in self._heaps:
            return None
        heap = self._heaps[chosen]
        task = heapq.heappop(heap)[-1]
        self._heaps.move_to_end(chosen)
        self._forget(chosen, task)
        return task

    def _forget(self, workspace: str, task: Task) -> None:
        if not self._heaps[workspace]:
            del self._heaps[workspace]
        self._keys.discard(task.key)
        self._bytes -= len(task.payload)
