"""What is to run at one moment, told apart: of very many, each few are due a little later than those before.

Where the database has ordered tasks by when they are due, and no finer, a crowd of one moment can't be read in parts:
on some servers each look for the next ones costs as much as the whole crowd. So past a first part, what is submitted
for a moment is due by and by, in the order of its arrival: still much faster than any workers take it. It never runs
before its time, and its time is what it is told to be (`Task.schedule_time`).

Each process counts for itself, and forgets what it has not seen for long: then a millisecond has some more.
"""

from collections import OrderedDict
from datetime import datetime, timedelta

from openmcp_chain.domain import transitions
from openmcp_chain.domain.task import Queue, Task

TOGETHER = 1000
"""So many are due at the very moment: as many as a look reads at once (`sweep.HINTS`)."""
EACH = 10
"""So many in each millisecond after it: ten thousand a second."""
MOMENTS = 10_000
"""How many are remembered."""

_MILLISECOND = timedelta(milliseconds=1)


class Moments:
    """Counts what is scheduled in a queue, a priority, for a moment."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[Queue, int, datetime], int] = OrderedDict()

    def place(self, task: Task) -> Task:
        """A task that is about to be stored, with its place among those of its moment."""
        if task.due_at <= task.submitted_at:  # it is not scheduled
            return task
        moment = task.queue, task.priority, task.due_at
        before = self._counts.pop(moment, 0)
        self._counts[moment] = before + 1
        if len(self._counts) > MOMENTS:
            self._counts.popitem(last=False)
        if before < TOGETHER:
            return task
        return transitions.stagger(task, (1 + (before - TOGETHER) // EACH) * _MILLISECOND)

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more."""
        for moment in [moment for moment in self._counts if moment[0].workspace == workspace_id]:
            del self._counts[moment]
