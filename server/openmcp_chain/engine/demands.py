"""What the workers here take, or took lately, with the tasks in memory for them and whose turn it is.

A worker that calls for tasks comes and goes with each call. So what is known for a demand outlives its last worker for
a while: the next call finds it.
"""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import Queue
from openmcp_chain.engine.backlog import Backlog
from openmcp_chain.engine.sessions import Demand
from openmcp_chain.engine.turns import Turns

KEPT_SECONDS = 60.0
"""A type's backlog outlives its last worker by so much at most: one that calls is soon back."""


class Demands:
    """The demands, each once however many workers have it."""

    def __init__(self, weight: Callable[[str], int]) -> None:
        """`weight`: how many tasks of a workspace go out in its turn."""
        self._weight = weight
        self._serial = itertools.count()
        self._present = Counter[Demand]()
        self._turns: dict[Demand, Turns] = {}
        self._leaving: set[Demand] = set()
        self._takers: defaultdict[tuple[str | None, str], dict[Demand, Turns]] = defaultdict(dict)
        """By workspace and type."""
        self._backlogs: dict[str, Backlog] = {}
        self._uses = Counter[str]()

    @property
    def present(self) -> Collection[Demand]:
        """What workers take that are here now."""
        return list(self._present)

    @property
    def backlogs(self) -> Mapping[str, Backlog]:
        """What waits in memory, by type: of those that workers take, or took lately; others' is not kept in memory."""
        return self._backlogs

    def turns(self, demand: Demand) -> Turns:
        """The turns of a demand; it must be there."""
        return self._turns[demand]

    def cover(self, queue: Queue) -> bool:
        """Whether a worker takes tasks of this queue, or did lately."""
        return (None, queue.type) in self._takers or (queue.workspace, queue.type) in self._takers

    def join(self, demand: Demand) -> bool:
        """A worker has come. Returns whether nobody took this lately."""
        self._present[demand] += 1
        new = demand not in self._turns
        if new:
            self._begin(demand)
        return new

    def leave(self, demand: Demand) -> None:
        """A worker has gone."""
        self._present[demand] -= 1
        if not self._present[demand]:
            del self._present[demand]
            if demand not in self._leaving:
                self._leaving.add(demand)
                asyncio.get_running_loop().call_later(KEPT_SECONDS, self._end, demand)

    def add(self, task: Waiting) -> bool:
        """A task waits; its type must have a backlog. Returns whether it is new there."""
        workspace, backlog = task.key.workspace, self._backlogs[task.type]
        first = not backlog.waiting(workspace)
        new = backlog.add(task)
        if first:
            for taker in (None, workspace):
                for turns in self._takers.get((taker, task.type), {}).values():
                    turns.add(workspace)
        return new

    def _begin(self, demand: Demand) -> None:
        for task_type in demand.types:
            self._uses[task_type] += 1
            if task_type not in self._backlogs:
                self._backlogs[task_type] = Backlog(task_type, self._serial)
        turns = self._turns[demand] = Turns(demand, self._backlogs, self._weight)
        for task_type in demand.types:
            self._takers[demand.workspace, task_type][demand] = turns

    def _end(self, demand: Demand) -> None:
        self._leaving.discard(demand)
        if demand in self._present:
            return
        del self._turns[demand]
        for task_type in demand.types:
            place = demand.workspace, task_type
            del self._takers[place][demand]
            if not self._takers[place]:
                del self._takers[place]
            self._uses[task_type] -= 1
            if not self._uses[task_type]:
                del self._uses[task_type]
                del self._backlogs[task_type]
