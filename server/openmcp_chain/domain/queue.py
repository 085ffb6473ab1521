"""What is known of a queue besides its tasks, and how a task looks that waits in it."""

from dataclasses import dataclass, replace
from datetime import datetime

from openmcp_chain.domain.task import Key, Queue, Task

TYPES = 1000
"""How many task types a workspace may use."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """A type in a workspace: stored before its first task is, so that every server can find its tasks."""

    queue: Queue
    paused_at: datetime | None
    """Since when nothing of it is given to workers; None if it is."""
    reason: str
    """Why it was paused."""
    created_at: datetime
    """Before its first task was submitted."""
    changed_at: datetime
    version: int
    """1, 2, …: raised by each stored change."""
    suspended: bool = False
    """Whether nothing of it is given to workers because its workspace is shut out. A pause is another matter."""

    @property
    def halted(self) -> bool:
        """Whether nothing of it is given to workers, for whichever reason."""
        return self.suspended or self.paused_at is not None

    def paused(self, reason: str, now: datetime) -> "QueueState":
        """The queue, paused; itself if it is already."""
        if self.paused_at is not None:
            return self
        return replace(self, paused_at=now, reason=reason, changed_at=now, version=self.version + 1)

    def resumed(self, now: datetime) -> "QueueState":
        """The queue, going on; itself if it does already."""
        if self.paused_at is None:
            return self
        return replace(self, paused_at=None, reason="", changed_at=now, version=self.version + 1)

    def with_suspended(self, suspended: bool, now: datetime) -> "QueueState":
        """The queue, suspended or not; itself if it is so already."""
        if self.suspended == suspended:
            return self
        return replace(self, suspended=suspended, changed_at=now, version=self.version + 1)


def new(queue: Queue, now: datetime) -> QueueState:
    """A queue that goes on."""
    return QueueState(queue, None, "", now, now, 1)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A PENDING task as a queue in memory has it: a hint, without its payload."""

    key: Key
    type: str
    priority: int
    submitted_at: datetime
    due_at: datetime
    task: Task | None = None
    """The task itself, where it was at hand and is small."""
    size: int = 0
    """Bytes in an answer (see `answers`), where it is large and that is known."""

    @property
    def queue(self) -> Queue:
        return Queue(self.key.workspace, self.type)
