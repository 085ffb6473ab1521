"""Ready tasks waiting in memory: by type, fair between workspaces, by priority and age inside one.

Hints only: the database has the truth. So a backlog may be bounded and may be stale (a claim that comes second loses to
the stored version). What is not here is known by when it is due: a `Cursor` for each queue and priority says from when
on the database may have tasks that are not in memory, and `sweep` looks there when there is demand.
"""

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import PRIORITIES, Key

TASKS = 10_000
"""The bound of one type's backlog."""
ENOUGH = 500
"""A workspace with so many tasks of a type in memory needs no more from the database."""
SMALL_BYTES = 4096
"""A task with more to it is not kept in memory; it is read again when it is claimed."""
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Nothing is due before it."""


@dataclass(slots=True)
class Cursor:
    """How far the database was looked through for a workspace's tasks of one priority."""

    since: datetime = BEGINNING
    """Tasks due before it are here, or claimed."""
    width: timedelta | None = None
    """How much time to look at at once; None: all there is."""
    crowd: datetime | None = None
    """From `since` to then there are more tasks than can be read at once; None: nothing is known of such."""
    behind: bool = True
    """Whether the database may have tasks that are not here."""


class Backlog:
    """The waiting tasks of one type."""

    def __init__(self, weight: Callable[[str], int] = lambda _: 1) -> None:
        """`weight` says how many tasks of a workspace go out when its turn comes."""
        self._weight = weight
        # Round-robin over workspaces: the one served goes to the end, so one tenant's thousands delay another's single
        # task by one turn.
        self._heaps: OrderedDict[str, list[tuple[int, float, int, Waiting]]] = OrderedDict()
        self._turn = 0
        self._keys: set[Key] = set()
        self._arrivals = itertools.count()
        self._cursors: dict[str, dict[int, Cursor]] = {}
        self.behind = True
        """Whether a look in the database may find tasks that are not here."""

    def __len__(self) -> int:
        return len(self._keys)

    def waiting(self, workspace: str) -> int:
        """How many of a workspace's tasks are here."""
        return len(self._heaps.get(workspace, ()))

    def share(self, workspace: str) -> int:
        """How many of a workspace's tasks to have here: what it needs, or an even share if there is less room."""
        workspaces = len(self._heaps) + (workspace not in self._heaps)
        return max(1, min(ENOUGH, TASKS // workspaces))

    def short_of(self, workspace: str) -> bool:
        """Whether a workspace has so few of them that a look for more is worth its cost."""
        return self.waiting(workspace) <= self.share(workspace) // 2

    def cursors(self, workspace: str) -> dict[int, Cursor]:
        """The workspace's cursors, by priority."""
        return self._cursors.setdefault(workspace, {priority: Cursor() for priority in PRIORITIES})

    def missing(self, workspace: str, priority: int, due_at: datetime) -> None:
        """The database has a task that is not here."""
        cursor = self.cursors(workspace)[priority]
        cursor.behind = self.behind = True
        cursor.since = min(cursor.since, due_at)

    def add(self, task: Waiting) -> None:
        """Takes the task in, unless it is here already.

        Past the bound, the workspace that has most is turned away: one tenant's flood leaves room for the others.
        """
        if task.key in self._keys:
            return
        workspace = task.key.workspace
        heap = self._heaps.setdefault(workspace, [])
        heapq.heappush(heap, (task.priority, task.submitted_at.timestamp(), next(self._arrivals), task))
        self._keys.add(task.key)
        while len(self._keys) > TASKS:
            self._turn_away(workspace)

    def take(self, workspace: str | None) -> Waiting | None:
        """The next task: of this workspace, or of the one whose turn it is if None."""
        chosen = next(iter(self._heaps), None) if workspace is None else workspace
        if chosen is None or chosen not in self._heaps:
            return None
        task = heapq.heappop(self._heaps[chosen])[-1]
        if workspace is None:  # else it is taken out of turn
            self._turn += 1
            if self._turn >= self._weight(chosen):
                self._turn = 0
                self._heaps.move_to_end(chosen)
        self._forget(chosen, task)
        return task

    def drop(self, workspace: str) -> None:
        """Lets go of a workspace's tasks."""
        for task in self._all(workspace):
            self._keys.discard(task.key)
            self.missing(workspace, task.priority, task.due_at)
        if workspace in self._heaps:
            self._remove(workspace)

    def forget(self, workspace: str) -> None:
        """Lets go of a workspace's tasks, of which the database has none either."""
        self.drop(workspace)
        self._cursors.pop(workspace, None)

    def _all(self, workspace: str) -> Iterator[Waiting]:
        return (entry[-1] for entry in self._heaps.get(workspace, ()))

    def _turn_away(self, newest: str) -> None:
        """Lets go of a task that is not among the next: a leaf of the largest heap."""
        crowded = newest
        # Who has more than an even share is turned away without a look at all the others.
        if self.waiting(newest) * len(self._heaps) <= len(self._keys):
            crowded = max(self._heaps, key=self.waiting)
        task = self._heaps[crowded].pop()[-1]
        self._forget(crowded, task)
        self.missing(crowded, task.priority, task.due_at)

    def _forget(self, workspace: str, task: Waiting) -> None:
        self._keys.discard(task.key)
        if not self._heaps[workspace]:
            self._remove(workspace)

    def _remove(self, workspace: str) -> None:
        if workspace == next(iter(self._heaps)):
            self._turn = 0  # its turn is over
        del self._heaps[workspace]
