"""What a store promises. One conformance suite (`tests/store/`) holds every store to it.

Every method may raise `errors.Unavailable`: the database could not be reached within the store's own time limit, after
the store's own tries. The write may or may not have happened; every write is guarded, so the same call may simply be
made again.
"""

from collections.abc import AsyncIterator, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from openmcp_chain.domain import audit
from openmcp_chain.domain.filters import Filter
from openmcp_chain.domain.queue import QueueState, Waiting
from openmcp_chain.domain.task import Call, Change, DedupeKey, Key, Position, Queue, Status, Stretch, Task, View
from openmcp_chain.domain.workspace import SigningKey, State, Workspace

LARGE_BYTES = 16 * 1024
"""A payload, a result, metadata with labels, or events with more make their task a large one."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a workspace's list of tasks, the newest first: behind the task with these."""

    submitted_at: datetime
    task_id: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    tasks: Sequence[Task]
    rest: Place | None
    """Where to go on; None if there is nothing more."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A task that a call gave."""

    key: Key
    token: str
    """Of the lease that it gave with it; empty if it gave none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is kept of a call that may be repeated."""

    fingerprint: bytes
    """What tells the request from another one under the same request_id."""
    granted: tuple[Granted, ...]


@dataclass(frozen=True, slots=True)
class Signal:
    """Tells other processes what one of them has changed: a hint, which may be lost."""

    process: str
    """Who says so."""
    changed: Sequence[Key]
    """Tasks that have something new. If there are none, the process says that it wants to be told of others' from now
    on."""
    waiting: Sequence[Waiting]
    """Those of them that wait for a worker (`Waiting.task` is None)."""
    news: Mapping[Key, Stretch] = field(default_factory=dict)
    """Of some of them the last that has happened, up to the newest event: who knows what was before need not read."""


class Taking(NamedTuple):
    """A task that takes its dedupe_key."""

    task: Task
    """It may not be stored yet."""
    instead_of: str
    """The id of the task that has the key; empty: none has."""


class Large(NamedTuple):
    """The sizes, in bytes, of those parts of a task that have more than LARGE_BYTES."""

    content: int
    """Of payload and result."""
    rest: int
    """Of metadata with labels, and of events."""


class TooMuch(Exception):
    """More than can be read in the time given: ask for less. No failure, and nothing that a caller is told of."""


class Store(Protocol):
    """Tasks, queues, workspaces, signing keys and the audit log on durable storage.

    What a write method has returned survives the death of any process. A read sees every write that has returned before
    it began.
    """

    # --- tasks

    async def insert_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Adds tasks, each by itself: one that loses does not stop the others.

        Returns, for each, the very task given if it was added; otherwise the outline of the one that was there, however
        much there is to that one. Two of the batch may have the same key: the first wins. A task that has the same
        outline as the one that is there counts as added: an earlier try of the same call has done it. So of what an
        outline lacks, `fingerprint` must tell, or the key.
        """
        ...

    async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
        """Makes each change, by itself, if the stored task still has the version of `before`.

        State and events go in one write; the payload stays, whether `before` and `after` have it or not. All else they
        have: they were read in View.HISTORY, or View.WHOLE. Returns, for each, whether `after` is now what is stored;
        so a change that an earlier try of the same call has made counts as made. Keys in a batch are distinct.
        """
        ...

    async def get_tasks(self, keys: Collection[Key], view: View = View.WHOLE) -> Mapping[Key, Task]:
        """The tasks with these keys; a key that has none is left out.

        What the view leaves out does not leave the database: see `domain.task.seen`.
        """
        ...

    async def task_versions(self, keys: Collection[Key]) -> Mapping[Key, int]:
        """The versions of the tasks with these keys; a key that has none is left out.

        Nothing else of the tasks leaves the database for it.
        """
        ...

    async def histories(self, positions: Collection[Position], limit: int) -> Mapping[Position, Stretch]:
        """What follows each of these places: up to `limit` events. One of a task that is not there is left out.

        Nothing else of the tasks leaves the database for it, nor the rest of their events.
        """
        ...

    async def large_tasks(self, keys: Collection[Key], view: View) -> Mapping[Key, Large]:
        """The sizes of what is large, as far as the view has it; a task of which nothing is, is left out.

        Nothing else of the tasks leaves the database for it.
        """
        ...

    async def ready_tasks(
        self, queue: Queue, priority: int, since: datetime, until: datetime, limit: int, within: float | None = None
    ) -> Sequence[Waiting]:
        """Up to `limit` PENDING tasks of a queue and a priority, `since` <= `due_at` <= `until`, those due first.

        Without their payloads (`Waiting.task` is None). On some servers the cost grows with all that the span of time
        holds, whatever the limit: raises TooMuch if that takes longer than `within` seconds.
        """
        ...

    async def count_waiting(self, queues: Collection[Queue], limit: int, within: float) -> int:
        """How many PENDING tasks there are in these queues, at most `limit`: it is not counted further.

        On some servers the cost grows with all that there are, whatever the limit: raises TooMuch if that would take
        longer than `within` seconds.
        """
        ...

    async def expired_leases(self, now: datetime, limit: int, skip: int = 0) -> Sequence[Key]:
        """Up to `limit` tasks that are RUNNING with `due_at` at or before `now`, in no set order.

        The first `skip` are passed over: who goes on so, and begins again at the end, finds all that stay so.
        """
        ...

    async def late_tasks(
        self,
        now: datetime,
        limit: int,
        skip: int = 0,
        since: datetime | None = None,
        known: Container[Key] = (),
    ) -> Sequence[Key]:
        """Up to `limit` tasks that are PENDING with `deadline` at or before `now`, found as above.

        With `since`: of those with a deadline after it, the last first; some of them may lack. What is `known` is not
        looked at again: it may be so no longer.
        """
        ...

    async def delete_ended(self, now: datetime, limit: int) -> int:
        """Deletes up to `limit` ended tasks with `due_at` at or before `now`; returns how many.

        None with a dedupe_key.
        """
        ...

    async def ended_with_key(self, now: datetime, limit: int) -> Sequence[Key]:
        """Up to `limit` ended tasks with a dedupe_key and `due_at` at or before `now`, in no set order."""
        ...

    async def delete_superseded(self, keys: Collection[Key]) -> None:
        """Deletes those of these tasks that are superseded."""
        ...

    async def erase_tasks(self, workspace: str, limit: int) -> int:
        """Deletes up to `limit` of a workspace's tasks, whatever their status; returns how many.

        Fewer than `limit`: those were all that it had when the call began.
        """
        ...

    async def list_tasks(self, workspace: str, chosen: Filter, after: Place | None, limit: int) -> Page:
        """The workspace's tasks that the filter selects, the newest first, from behind the place `after`.

        In View.BASIC. A page may have fewer tasks than `limit`, or none, and yet not be the last: a call reads only so
        much.
        """
        ...

    async def count_tasks(self, workspace: str, chosen: Filter, within: float | None = None) -> Mapping[Status, int]:
        """How many of the workspace's tasks the filter selects, by status; one that has none is left out.

        What is submitted meanwhile may be among them. Raises TooMuch if it takes longer than `within` seconds.
        """
        ...

    # --- what belongs to tasks

    async def put_queue(self, state: QueueState) -> bool:
        """Adds the queue if its version is 1, else replaces the one whose version is one less.

        Returns whether it is now what is stored; if not, another write came first.
        """
        ...

    async def list_queues(self, since: datetime | None) -> Sequence[QueueState]:
        """All queues, or those with `changed_at` at or after `since`."""
        ...

    async def key_holders(self, keys: Collection[DedupeKey]) -> Mapping[DedupeKey, str]:
        """The ids of the tasks that have these dedupe_keys, whether they are stored already or not.

        A key that none has is left out.
        """
        ...

    async def held_submit(self, key: DedupeKey) -> Task | None:
        """The task that has the key, as it was submitted."""
        ...

    async def put_holders(self, takings: Sequence[Taking]) -> Sequence[bool]:
        """Gives each task its dedupe_key, if the task that it takes it from has it; no two have the same key.

        Returns of each whether it has its key now.
        """
        ...

    async def free_key(self, key: DedupeKey, task_id: str) -> bool:
        """Takes the dedupe_key from this task; returns whether it had it. A repetition may say that it had not."""
        ...

    async def record_call(self, workspace: str, call: str, answer: Answer, expire_at: datetime) -> Answer:
        """Keeps what a call was answered, until about `expire_at`, unless something is kept of it already.

        Returns what is kept.
        """
        ...

    async def keep_call(self, workspace: str, call: str, expire_at: datetime) -> None:
        """Keeps what is kept of a call until about `expire_at` at least."""
        ...

    async def recorded_calls(self, calls: Collection[Call]) -> Mapping[Call, Answer]:
        """What the calls were answered; one of which nothing is kept is left out."""
        ...

    # --- identity

    async def get_workspace(self, workspace_id: str) -> Workspace | None:
        """The workspace, operator or administrator with this id."""
        ...

    async def get_workspaces(self, workspace_ids: Collection[str]) -> Mapping[str, Workspace]:
        """The same for several ids; one that has none is left out."""
        ...

    async def list_workspaces(self, after: str, limit: int) -> Sequence[Workspace]:
        """Up to `limit` workspaces, operators and administrators with ids greater than `after`, by id."""
        ...

    async def workspaces_in(self, state: State) -> Sequence[Workspace]:
        """All that are in this state, in no set order. Not for `ACTIVE`: those may be many."""
        ...

    async def put_workspace(self, workspace: Workspace) -> bool:
        """Adds the workspace if its version is 1, else replaces the one whose version is one less.

        Returns whether it is now what is stored; if not, another write came first.
        """
        ...

    async def delete_workspace(self, workspace: Workspace) -> bool:
        """Deletes the workspace if it still has this version, and before it all that is kept beside tasks.

        That is its queues, dedupe_keys and recorded calls, and what there is left of its tasks' timers. A call that
        fails may have deleted a part of these; the workspace itself is the last. Returns whether it is gone: also if an
        earlier try of the same call has deleted it. Its tasks must be gone before.
        """
        ...

    async def list_keys(self) -> Sequence[SigningKey]:
        """All signing keys, by `signs_from`."""
        ...

    async def add_key(self, key: SigningKey) -> None:
        """Adds a signing key; one with the same kid that is there stays as it is."""
        ...

    async def delete_key(self, kid: str) -> None:
        """Deletes a signing key, if it is there."""
        ...

    # --- the audit log

    async def add_audit_event(self, event: audit.Event) -> None:
        """Adds an event; one with the same id that is there stays as it is. None is ever changed or deleted."""
        ...

    async def list_audit_events(self, workspace: str, before: str, limit: int) -> Sequence[audit.Event]:
        """Up to `limit` events with ids less than `before`, if that is not empty, the greatest first.

        Only those that concern this workspace, unless it is empty.
        """
        ...

    # --- between processes

    async def beat(self, process: str, now: datetime, *, listens: bool) -> None:
        """Says that this process is alive, and whether it wants to be told what others change."""
        ...

    async def processes(self, since: datetime) -> Mapping[str, bool]:
        """The processes that have said so at or after `since`, and whether each wants to be told."""
        ...

    async def publish(self, signal: Signal) -> None:
        """Tells those who `watch`. Not durable: nothing may hang on it."""
        ...

    def watch(self) -> AsyncIterator[Signal]:
        """The signals that are published from when the first `__anext__` was called. Ends by raising Unavailable."""
        ...

    # --- itself

    async def ping(self) -> None:
        """Returns if the database takes writes."""
        ...

    async def close(self) -> None:
        """Lets go of connections. The store is not used again."""
        ...
