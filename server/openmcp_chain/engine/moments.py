"""What is to run at one time, told apart: of very many, those past the first part are due a little later.

Where the database has ordered tasks by when they are due, and no finer, a crowd can't be read in parts: on some servers
each look for the next ones costs as much as the whole crowd. The sweep reads no shorter spans than `SHORT`. So each
span has room for `TOGETHER`, and what is submitted for a full one is due in the next that has room, in the order of its
arrival: still much faster than any workers take it. It never runs before its time, and its time is what it is told to
be (`Task.schedule_time`). Nor is there more room where tasks must end soon: those have run out of time before their
turn, as they would have behind so many others.

Each process counts for itself, and forgets what it has not seen for long: then a span has some more.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from openmcp_chain.domain import transitions
from openmcp_chain.domain.task import Queue, Task

SHORT = timedelta(milliseconds=100)
"""A span as short as this is read to its end, however long that takes: it holds no crowd."""
TOGETHER = 1000
"""So many are due in a span: as many as a look reads at once (`sweep.HINTS`), ten thousand a second."""
SPANS = 10_000
"""How many are remembered."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)
_Place: TypeAlias = tuple[Queue, int, int]
"""A queue, a priority, and how many spans after 1970."""


@dataclass(slots=True)
class _Span:
    """How many are due in it, and once it is full, how many spans later to look for room."""

    count: int = 0
    on: int = 1


class Moments:
    """Counts what is scheduled in a queue, a priority, for a span of time."""

    def __init__(self) -> None:
        self._spans: OrderedDict[_Place, _Span] = OrderedDict()

    def place(self, task: Task) -> Task:
        """A task that is about to be stored, with its place among those of its time."""
        if task.due_at <= task.submitted_at:  # it is not scheduled
            return task
        own = (task.due_at - _EPOCH) // SHORT
        number, full = own, dict[int, _Span]()
        while (span := self._span((task.queue, task.priority, number))).count >= TOGETHER:
            full[number] = span
            number += span.on
        for passed, one in full.items():  # the next one comes here at once
            one.on = number - passed
        before = span.count
        span.count += 1
        while len(self._spans) > SPANS:
            self._spans.popitem(last=False)
        if number == own:
            return task
        due_at = _EPOCH + number * SHORT + before * SHORT // TOGETHER // _MILLISECOND * _MILLISECOND
        return transitions.stagger(task, due_at - task.due_at)

    def _span(self, place: _Place) -> _Span:
        """What is known of it; the last to be forgotten."""
        span = self._spans.setdefault(place, _Span())
        self._spans.move_to_end(place)
        return span

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more."""
        for place in [place for place in self._spans if place[0].workspace == workspace_id]:
            del self._spans[place]
