"""What the workers here take, or took lately, with the tasks in memory for them and whose turn it is.

A worker that calls for tasks comes and goes with each call. So what is known for a demand outlives its last worker for
a while: the next call finds it. A call may name any types, and the next one others: so what outlives its workers is
bounded, for each workspace and in all. Past it, what was left longest ago is forgotten: its next worker costs a look.
"""

import asyncio
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Collection, Mapping

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import Key, Queue
from openmcp_chain.engine.backlog import Backlog
from openmcp_chain.engine.room import Room
from openmcp_chain.engine.sessions import Demand
from openmcp_chain.engine.turns import Turns

KEPT_SECONDS = 60.0
"""A type's backlog outlives its last worker by so much at most: one that calls is soon back."""
KEPT_TYPES = 1000
"""Of one workspace's demands without a worker, all their types together. Each takes some 2 KB."""
ALL_KEPT_TYPES = 20_000
"""Of all workspaces' together."""


class Demands:
    """The demands, each once however many workers have it."""

    def __init__(self, weight: Callable[[str], int]) -> None:
        """`weight`: how many tasks of a workspace go out in its turn."""
        self._weight = weight
        self._room = Room()
        self._present = Counter[Demand]()
        self._turns: dict[Demand, Turns] = {}
        self._left: OrderedDict[Demand, float] = OrderedDict()
        """Those without a worker, with the loop's time when the last one left, which is also their order."""
        self._left_of: defaultdict[str | None, OrderedDict[Demand, None]] = defaultdict(OrderedDict)
        """The same, by workspace."""
        self._left_types = Counter[str | None]()
        """How many types they have, by workspace."""
        self._all_left_types = 0
        self._timer: asyncio.TimerHandle | None = None
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
        if demand in self._left:
            self._unleave(demand)
        new = demand not in self._turns
        if new:
            self._begin(demand)
        return new

    def leave(self, demand: Demand) -> None:
        """A worker has gone."""
        self._present[demand] -= 1
        if self._present[demand]:
            return
        del self._present[demand]
        loop, workspace = asyncio.get_running_loop(), demand.workspace
        self._left[demand] = loop.time()
        self._left_of[workspace][demand] = None
        self._left_types[workspace] += len(demand.types)
        self._all_left_types += len(demand.types)
        while self._left_types[workspace] > KEPT_TYPES:
            self._end(next(iter(self._left_of[workspace])))
        while self._all_left_types > ALL_KEPT_TYPES:
            self._end(next(iter(self._left)))
        if self._timer is None and self._left:
            self._timer = loop.call_later(KEPT_SECONDS, self._end_old)

    def remove(self, key: Key) -> Waiting | None:
        """Lets go of a task; returns it, if it is here."""
        holder = self._room.holders.get(key)
        return holder.remove(key) if holder is not None else None

    def add(self, task: Waiting, later: float = 0.0) -> bool:
        """A task waits; its type must have a backlog. Returns whether it is new there. `later`: see `Backlog.add`.

        Where there is no more room, whoever has most is turned away: one tenant's flood leaves room for the others.
        """
        workspace, backlog = task.key.workspace, self._backlogs[task.type]
        first = not backlog.waiting(workspace)
        new = backlog.add(task, later)
        if first:
            for taker in (None, workspace):
                for turns in self._takers.get((taker, task.type), {}).values():
                    turns.add(workspace)
        while (crowded := self._room.crowded) is not None:
            self._backlogs[crowded.type].turn_away(crowded.workspace)
        return new

    def _begin(self, demand: Demand) -> None:
        for task_type in demand.types:
            self._uses[task_type] += 1
            if task_type not in self._backlogs:
                self._backlogs[task_type] = Backlog(task_type, self._room)
        turns = self._turns[demand] = Turns(demand, self._backlogs, self._weight)
        for task_type in demand.types:
            self._takers[demand.workspace, task_type][demand] = turns

    def _end_old(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        while self._left:
            demand, left_at = next(iter(self._left.items()))
            if loop.time() < left_at + KEPT_SECONDS:
                self._timer = loop.call_at(left_at + KEPT_SECONDS, self._end_old)
                break
            self._end(demand)

    def _unleave(self, demand: Demand) -> None:
        workspace = demand.workspace
        del self._left[demand]
        del self._left_of[workspace][demand]
        self._left_types[workspace] -= len(demand.types)
        self._all_left_types -= len(demand.types)
        if not self._left_of[workspace]:
            del self._left_of[workspace], self._left_types[workspace]

    def _end(self, demand: Demand) -> None:
        """Forgets what is known for a demand that no worker has."""
        self._unleave(demand)
        del self._turns[demand]
        for task_type in demand.types:
            place = demand.workspace, task_type
            del self._takers[place][demand]
            if not self._takers[place]:
                del self._takers[place]
            self._uses[task_type] -= 1
            if not self._uses[task_type]:
                del self._uses[task_type]
                self._backlogs.pop(task_type).clear()
