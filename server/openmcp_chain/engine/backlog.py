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
        self.overflowed = False
        """Whether a task was turned away since this was last reset: there is more in the database."""

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, task: Task) -> None:
        """Takes the task in, unless it is here already, or there is no room."""
        if task.key in self._keys:
            return
        if len(self._keys) >= TASKS or self._bytes + len(task.payload) > BYTES:
            self.overflowed = True
            return
        heap = self._heaps.setdefault(task.workspace, [])
        heapq.heappush(heap, (task.priority, task.submitted_at.timestamp(), next(self._arrivals), task))
        self._keys.add(task.key)
        self._bytes += len(task.payload)

    def take(self, workspace: str | None) -> Task | None:
        """The next task: of this workspace, or of the one whose turn it is if None."""
        chosen = next(iter(self._heaps), None) if workspace is None else workspace
        if chosen is None or chosen not in self._heaps:
            return None
        heap = self._heaps[chosen]
        task = heapq.heappop(heap)[-1]
        if heap:
            self._heaps.move_to_end(chosen)
        else:
            del self._heaps[chosen]
        self._keys.discard(task.key)
        self._bytes -= len(task.payload)
        return task
