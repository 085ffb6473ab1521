"""A workspace's waiting tasks of one type in memory: in order, and cheap at both ends.

What comes first is given out, and what comes last is let go of when there is no room, so a heap will not do. Tasks come
in nearly in their order. So each priority has a sorted list: one that comes at its end, or goes at either, costs the
same however many there are; one that belongs between others shifts the pointers behind it (2 µs past ten thousand).
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import TypeAlias

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import PRIORITIES

Entry: TypeAlias = tuple[float, int, Waiting]
"""A task behind what it is sorted by: a time, and a number of its own."""
_SLACK = 32
"""So many empty places at the beginning of a list are no matter."""


class _Row:
    """The tasks of one priority, the oldest first."""

    __slots__ = ("_entries", "_head")

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._head = 0
        """Where they begin: what is before has been taken."""

    def __len__(self) -> int:
        return len(self._entries) - self._head

    def __iter__(self) -> Iterator[Waiting]:
        return (self._entries[place][-1] for place in range(self._head, len(self._entries)))

    def add(self, entry: Entry) -> None:
        insort(self._entries, entry, self._head)

    def remove(self, entry: Entry) -> None:
        place = bisect_left(self._entries, entry, self._head)
        if place == self._head:
            self.take_first()
        else:
            del self._entries[place]

    @property
    def first(self) -> Waiting:
        return self._entries[self._head][-1]

    def take_first(self) -> Waiting:
        task = self._entries[self._head][-1]
        self._head += 1
        if self._head > _SLACK and 2 * self._head > len(self._entries):
            del self._entries[: self._head]
            self._head = 0
        return task

    def take_last(self) -> Waiting:
        return self._entries.pop()[-1]


class Line:
    """All of them, by priority and then by age."""

    __slots__ = ("_rows", "served")

    def __init__(self, served: int) -> None:
        self._rows = {priority: _Row() for priority in PRIORITIES}
        self.served = served
        """When it was served last: a greater number is later."""

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def __iter__(self) -> Iterator[Waiting]:
        return (task for row in self._rows.values() for task in row)

    def up_to(self, priority: int) -> int:
        """How many of this priority there are, or of a better one."""
        return sum(len(row) for mine, row in self._rows.items() if mine <= priority)

    def first_of(self, priority: int) -> Waiting | None:
        """The first of this priority."""
        row = self._rows[priority]
        return row.first if row else None

    @property
    def first(self) -> Waiting:
        """What comes first; there must be one."""
        return self._rows[self.priority].first

    @property
    def priority(self) -> int:
        """That of the first; there must be one."""
        return next(priority for priority, row in self._rows.items() if row)

    def add(self, task: Waiting, arrival: int, later: float = 0.0) -> Entry:
        """`arrival`: greater than any before. `later`: it is taken for younger than it is, by so many seconds."""
        entry = task.submitted_at.timestamp() + later, arrival, task
        self._rows[task.priority].add(entry)
        return entry

    def remove(self, entry: Entry) -> None:
        """Takes out what was added; it must be there."""
        self._rows[entry[-1].priority].remove(entry)

    def take_first(self) -> Waiting:
        """Takes out what comes first; there must be one."""
        return self._rows[self.priority].take_first()

    def take_last(self) -> Waiting:
        """Takes out what comes last; there must be one."""
        return next(row for row in reversed(self._rows.values()) if row).take_last()
