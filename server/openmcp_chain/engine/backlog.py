"""Ready tasks waiting in memory, by type: for each workspace by priority and age. Whose turn it is, `turns` says.

Hints only: the database has the truth. So a backlog may be bounded and may be stale (a claim that comes second loses to
the stored version). What is not here is known by when it is due: a `Cursor` for each queue and priority says from when
on the database may have tasks that are not in memory.

What is here must not hide for long what sorts before it and is not. So each priority is looked for by itself, however
many of later ones are here: `wants` says when.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import PRIORITIES, Key, Queue
from openmcp_chain.engine.lines import Entry, Line
from openmcp_chain.engine.room import Room

HINTED = 8
"""Where there are fewer, of a priority or better, those are taken in that other processes tell of."""
LAG = timedelta(seconds=2)
"""By so much may what is given out be newer than what another process has: each goes on with its own for so long, since
two that are always after the same tasks claim half of what they try in vain."""
SMALL_BYTES = 4096
"""A task with more to it is not kept in memory; it is read again when it is claimed."""
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Nothing is due before it."""


@dataclass(slots=True)
class Cursor:
    """How far the database was looked through for a workspace's tasks of one priority."""

    since: datetime = BEGINNING
    """Tasks due before it are here, or claimed, or known to be due."""
    missing: datetime | None = BEGINNING
    """The database may have tasks due from then on that are not here; None: it has none, as far as is known."""
    width: timedelta | None = None
    """How much time to look at at once; None: all there is."""
    crowd: datetime | None = None
    """From `since` to then there are more tasks than can be read at once; None: nothing is known of such."""

    def miss(self, due_at: datetime) -> None:
        """There is a task that is not here."""
        self.since = min(self.since, due_at)
        self.missing = due_at if self.missing is None else min(self.missing, due_at)


class Backlog:
    """The waiting tasks of one type."""

    def __init__(self, task_type: str, room: Room) -> None:
        """`room`: that of all types together."""
        self.type = task_type
        self._room = room
        self._lines: dict[str, Line] = {}
        self._entries: dict[Key, Entry] = {}
        self._cursors: dict[str, dict[int, Cursor]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def workspaces(self) -> Collection[str]:
        """Those that have tasks here."""
        return self._lines.keys()

    def waiting(self, workspace: str) -> int:
        """How many of a workspace's tasks are here."""
        return len(self._lines.get(workspace, ()))

    def rank(self, workspace: str) -> tuple[int, int] | None:
        """Sorts a workspace's types: by the priority of what comes first, then by when they were served last."""
        line = self._lines.get(workspace)
        return (line.priority, line.served) if line is not None else None

    def share(self, workspace: str) -> int:
        """How many of a workspace's tasks to have here."""
        return self._room.share(Queue(workspace, self.type))

    def wants(self, workspace: str, priority: int, now: datetime, enough: int | None = None) -> bool:
        """Whether a look for a workspace's tasks of one priority is worth its cost.

        That is, the database may have some that are due, and there are no more than `enough` (half a share, if it is
        not said) that go before them; or it is the turn of later ones.
        """
        missing = self.cursors(workspace)[priority].missing
        if missing is None or missing > now:
            return False
        line = self._lines.get(workspace)
        if line is None:
            return True
        if enough is None:
            enough = self.share(workspace) // 2
        if line.up_to(priority) <= enough:
            return True
        first = line.first_of(priority)
        return first is not None and line.up_to(priority - 1) <= enough and first.submitted_at - missing > LAG

    def wants_any(self, workspace: str, now: datetime) -> bool:
        """Whether it is of any priority."""
        return any(self.wants(workspace, priority, now) for priority in PRIORITIES)

    def heeds(self, task: Waiting) -> bool:
        """Whether to take in a task that another process has told of.

        Of a workspace that has some here already, it is left to that process: of two that try for the same tasks, one
        claims in vain. But not what goes before others that are here.
        """
        line = self._lines.get(task.key.workspace)
        if line is None:
            return True
        before = line.up_to(task.priority)
        return before < HINTED or before < min(len(line), self.share(task.key.workspace))

    def cursors(self, workspace: str) -> dict[int, Cursor]:
        """The workspace's cursors, by priority."""
        return self._cursors.setdefault(workspace, {priority: Cursor() for priority in PRIORITIES})

    def missing(self, workspace: str, priority: int, due_at: datetime) -> None:
        """The database has a task that is not here."""
        self.cursors(workspace)[priority].miss(due_at)

    def add(self, task: Waiting, later: float = 0.0) -> bool:
        """Takes the task in, unless it is here already; returns whether it was not.

        `later`: by so many seconds it is taken for younger than it is: whose turn it is before that, takes it first.
        """
        if task.key in self._entries:
            return False
        workspace = task.key.workspace
        line = self._lines.get(workspace)
        if line is None:
            line = self._lines[workspace] = Line(next(self._room.serial))
        self._entries[task.key] = line.add(task, next(self._room.serial), later)
        self._room.holders[task.key] = self
        self._room.change(task.queue, 1)
        return True

    def remove(self, key: Key) -> Waiting:
        """Lets go of a task that is here; returns it. If it may wait all the same, call `missing`."""
        entry = self._entries[key]
        self._lines[key.workspace].remove(entry)
        self._gone(entry[-1])
        return entry[-1]

    def first(self, workspace: str) -> Waiting | None:
        """The workspace's next task."""
        line = self._lines.get(workspace)
        return line.first if line is not None else None

    def take(self, workspace: str) -> Waiting:
        """Takes out the workspace's next task; there must be one."""
        line = self._lines[workspace]
        task = line.take_first()
        line.served = next(self._room.serial)
        self._gone(task)
        return task

    def turn_away(self, workspace: str) -> None:
        """Lets go of what comes last of a workspace's: the newest of the last priority. There must be one."""
        task = self._lines[workspace].take_last()
        self._gone(task)
        self.missing(workspace, task.priority, task.due_at)

    def clear(self) -> None:
        """Lets go of everything."""
        for workspace in list(self._lines):
            self.drop(workspace)

    def drop(self, workspace: str) -> None:
        """Lets go of a workspace's tasks."""
        for task in self.tasks(workspace):
            self._forget(task.key)
            self.missing(workspace, task.priority, task.due_at)
        line = self._lines.pop(workspace, None)
        if line is not None:
            self._room.change(Queue(workspace, self.type), -len(line))

    def forget(self, workspace: str) -> None:
        """Lets go of a workspace's tasks, of which the database has none either."""
        self.drop(workspace)
        self._cursors.pop(workspace, None)

    def tasks(self, workspace: str) -> Iterator[Waiting]:
        """A workspace's tasks, in their order."""
        return iter(self._lines.get(workspace, ()))

    def _gone(self, task: Waiting) -> None:
        workspace = task.key.workspace
        self._forget(task.key)
        self._room.change(task.queue, -1)
        if not self._lines[workspace]:
            del self._lines[workspace]

    def _forget(self, key: Key) -> None:
        del self._entries[key], self._room.holders[key]
