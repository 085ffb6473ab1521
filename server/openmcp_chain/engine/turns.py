"""Whose turn it is: the order in which workers of one kind get what waits.

Round-robin over workspaces, whichever of the workers' types their tasks are of: a tenant that floods ten types has one
turn, as one that has a single task. Inside a workspace the best priority goes first, and types that have tasks of the
same take turns.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import Queue
from openmcp_chain.engine.backlog import Backlog
from openmcp_chain.engine.sessions import Demand


class Turns:
    """The turns of those workers whose demand is the same."""

    def __init__(self, demand: Demand, backlogs: Mapping[str, Backlog], weight: Callable[[str], int]) -> None:
        """`backlogs` has one for each type. `weight`: how many tasks of a workspace go out when its turn comes."""
        self._demand = demand
        self._backlogs = backlogs
        self._weight = weight
        self._ring: OrderedDict[str, None] = OrderedDict()
        """The workspaces that may have something for these workers; the one whose turn it is first."""
        self._given = 0
        """How many tasks that one has got out in this turn."""
        for task_type in demand.types:
            for workspace in backlogs[task_type].workspaces:
                self.add(workspace)

    def add(self, workspace: str) -> None:
        """The workspace has something."""
        if self._demand.workspace in (None, workspace):
            self._ring.setdefault(workspace)

    def next(self) -> Queue | None:
        """The queue whose first task is next; None if there is nothing."""
        while self._ring:
            workspace = next(iter(self._ring))
            backlog = self._best(workspace)
            if backlog is not None:
                return Queue(workspace, backlog.type)
            del self._ring[workspace]
            self._given = 0
        return None

    def take(self, queue: Queue) -> Waiting:
        """Takes that task out."""
        task = self._backlogs[queue.type].take(queue.workspace)
        self._given += 1
        if self._given >= self._weight(queue.workspace):
            self._given = 0
            self._ring.move_to_end(queue.workspace)
        return task

    def _best(self, workspace: str) -> Backlog | None:
        """Of the types that have something, that with the best priority; of several, the one served longest ago."""
        best, best_rank = None, (0, 0)
        for task_type in self._demand.types:
            backlog = self._backlogs[task_type]
            rank = backlog.rank(workspace)
            if rank is not None and (best is None or rank < best_rank):
                best, best_rank = backlog, rank
        return best
