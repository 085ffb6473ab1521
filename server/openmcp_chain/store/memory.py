"""A store in memory: for unit tests and simulation. Keeps every promise of `base` but the one of durability."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from heapq import nlargest, nsmallest
from itertools import islice
from typing import TypeVar

from openmcp_chain.domain import audit, filters, sizes
from openmcp_chain.domain.filters import Filter
from openmcp_chain.domain.queue import QueueState, Waiting
from openmcp_chain.domain.task import (
    Call,
    Change,
    DedupeKey,
    Key,
    Position,
    Queue,
    Status,
    Stretch,
    Task,
    View,
    seen,
    stretch,
)
from openmcp_chain.domain.workspace import SigningKey, State, Workspace
from openmcp_chain.store.base import LARGE_BYTES, Answer, Large, Page, Place, Signal, Taking

_K = TypeVar("_K")
_V = TypeVar("_V", QueueState, Workspace)


class MemoryStore:
    """Plain dictionaries. No method but `watch` waits inside, so each is atomic on its event loop.

    Several servers of one test may share one: it is the database, and closing it closes nothing for the others.
    """

    def __init__(self) -> None:
        self._tasks: dict[Key, Task] = {}
        self._queues: dict[Queue, QueueState] = {}
        self._holders: dict[tuple[str, str], Task] = {}
        self._calls: dict[tuple[str, str], tuple[datetime, Answer]] = {}
        self._workspaces: dict[str, Workspace] = {}
        self._keys: dict[str, SigningKey] = {}
        self._audit: dict[str, audit.Event] = {}
        self._processes: dict[str, tuple[datetime, bool]] = {}
        self._watchers: list[asyncio.Queue[Signal]] = []

    # --- tasks

    async def insert_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        first: dict[Key, Task] = {}
        for task in tasks:
            first.setdefault(task.key, task)
        stored = {key: self._insert(task) for key, task in first.items()}
        return [stored[task.key] for task in tasks]

    def _insert(self, task: Task) -> Task:
        stored = seen(self._tasks.setdefault(task.key, task), View.OUTLINE)
        return task if stored == seen(task, View.OUTLINE) else stored

    async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
        return [self._update(change) for change in changes]

    def _update(self, change: Change) -> bool:
        stored = self._tasks.get(change.after.key)
        if stored is None:
            return False
        after = replace(change.after, payload=stored.payload)
        if stored.version != change.before.version:
            return stored == after
        self._tasks[stored.key] = after
        return True

    async def get_tasks(self, keys: Collection[Key], view: View = View.WHOLE) -> Mapping[Key, Task]:
        return {key: seen(self._tasks[key], view) for key in keys if key in self._tasks}

    async def task_versions(self, keys: Collection[Key]) -> Mapping[Key, int]:
        return {key: self._tasks[key].version for key in keys if key in self._tasks}

    async def histories(self, positions: Collection[Position], limit: int) -> Mapping[Position, Stretch]:
        there = [one for one in positions if one.key in self._tasks]
        return {one: stretch(self._tasks[one.key], one.after, limit) for one in there}

    async def large_tasks(self, keys: Collection[Key], view: View) -> Mapping[Key, Large]:
        found = {key: _large(seen(self._tasks[key], view)) for key in keys if key in self._tasks}
        return {key: large for key, large in found.items() if any(large)}

    async def ready_tasks(
        self,
        queue: Queue,
        priority: int,
        since: datetime,
        until: datetime,
        limit: int,
        within: float | None = None,  # noqa: ARG002 - memory takes no time
    ) -> Sequence[Waiting]:
        def ready(task: Task) -> bool:
            of_it = task.status is Status.PENDING and task.queue == queue and task.priority == priority
            return of_it and since <= task.due_at <= until

        return [
            Waiting(task.key, task.type, task.priority, task.submitted_at, task.due_at)
            for task in nsmallest(limit, self._all(ready), key=lambda task: task.due_at)
        ]

    async def count_waiting(
        self,
        queues: Collection[Queue],
        limit: int,
        within: float,  # noqa: ARG002 - memory takes no time
    ) -> int:
        waiting = self._all(lambda task: task.status is Status.PENDING and task.queue in queues)
        return sum(1 for _ in islice(waiting, limit))

    async def expired_leases(self, now: datetime, limit: int, skip: int = 0) -> Sequence[Key]:
        expired = self._all(lambda task: task.status is Status.RUNNING and task.due_at <= now)
        return [task.key for task in islice(expired, skip, skip + limit)]

    async def late_tasks(
        self,
        now: datetime,
        limit: int,
        skip: int = 0,
        since: datetime | None = None,
        known: Container[Key] = (),  # noqa: ARG002 - a look costs nothing
    ) -> Sequence[Key]:
        late = {
            task.key: at
            for task in self._tasks.values()
            if (at := task.deadline) is not None and (since is None or since < at) and at <= now
        }
        found = iter(late) if since is None else iter(nlargest(skip + limit, late, key=late.__getitem__))
        return list(islice(found, skip, skip + limit))

    async def delete_ended(self, now: datetime, limit: int) -> int:
        over = list(islice(self._all(lambda task: _over(task, now) and not task.dedupe_key), limit))
        for task in over:
            del self._tasks[task.key]
        return len(over)

    async def ended_with_key(self, now: datetime, limit: int) -> Sequence[Key]:
        over = self._all(lambda task: _over(task, now) and task.dedupe_key != "")
        return [task.key for task in islice(over, limit)]

    async def delete_superseded(self, keys: Collection[Key]) -> None:
        for key in keys:
            if key in self._tasks and self._tasks[key].superseded:
                del self._tasks[key]

    async def erase_tasks(self, workspace: str, limit: int) -> int:
        erased = list(islice(self._all(lambda task: task.workspace == workspace), limit))
        for task in erased:
            del self._tasks[task.key]
        return len(erased)

    async def list_tasks(self, workspace: str, chosen: Filter, after: Place | None, limit: int) -> Page:
        def listed(task: Task) -> bool:
            behind = after is None or _place(task) < (after.submitted_at, after.task_id)
            return behind and task.workspace == workspace and filters.matches(chosen, task)

        found = sorted(self._all(listed), key=_place, reverse=True)
        page, more = found[:limit], len(found) > limit
        shown = [seen(task, View.BASIC) for task in page]
        return Page(shown, Place(page[-1].submitted_at, page[-1].id) if page and more else None)

    async def count_tasks(
        self,
        workspace: str,
        chosen: Filter,
        within: float | None = None,  # noqa: ARG002 - memory takes no time
    ) -> Mapping[Status, int]:
        counts: dict[Status, int] = {}
        for task in self._all(lambda task: task.workspace == workspace and filters.matches(chosen, task)):
            counts[task.status] = counts.get(task.status, 0) + 1
        return counts

    def _all(self, chosen: Callable[[Task], bool]) -> Iterable[Task]:
        return filter(chosen, self._tasks.values())

    # --- what belongs to tasks

    async def put_queue(self, state: QueueState) -> bool:
        return _put(self._queues, state.queue, state)

    async def list_queues(self, since: datetime | None) -> Sequence[QueueState]:
        return [state for state in self._queues.values() if since is None or state.changed_at >= since]

    async def key_holders(self, keys: Collection[DedupeKey]) -> Mapping[DedupeKey, str]:
        return {key: self._holders[key].id for key in keys if key in self._holders}

    async def held_submit(self, key: DedupeKey) -> Task | None:
        return self._holders.get(key)

    async def put_holders(self, takings: Sequence[Taking]) -> Sequence[bool]:
        for task, instead_of in takings:
            holder = self._holders.get(task.held_key)
            if (holder.id if holder else "") == instead_of:
                self._holders[task.held_key] = task
        holders = await self.key_holders([task.held_key for task, _ in takings])
        return [holders.get(task.held_key) == task.id for task, _ in takings]

    async def free_key(self, key: DedupeKey, task_id: str) -> bool:
        holder = self._holders.get(key)
        if holder is None or holder.id != task_id:
            return False
        del self._holders[key]
        return True

    async def record_call(self, workspace: str, call: str, answer: Answer, expire_at: datetime) -> Answer:
        return self._calls.setdefault((workspace, call), (expire_at, answer))[1]

    async def keep_call(self, workspace: str, call: str, expire_at: datetime) -> None:
        record = self._calls.get((workspace, call))
        if record is not None:
            self._calls[workspace, call] = (max(record[0], expire_at), record[1])

    async def recorded_calls(self, calls: Collection[Call]) -> Mapping[Call, Answer]:
        return {call: self._calls[call][1] for call in calls if call in self._calls}

    # --- identity

    async def get_workspace(self, workspace_id: str) -> Workspace | None:
        return self._workspaces.get(workspace_id)

    async def get_workspaces(self, workspace_ids: Collection[str]) -> Mapping[str, Workspace]:
        return {id_: self._workspaces[id_] for id_ in workspace_ids if id_ in self._workspaces}

    async def list_workspaces(self, after: str, limit: int) -> Sequence[Workspace]:
        return [self._workspaces[id_] for id_ in nsmallest(limit, (id_ for id_ in self._workspaces if id_ > after))]

    async def workspaces_in(self, state: State) -> Sequence[Workspace]:
        return [workspace for workspace in self._workspaces.values() if workspace.state is state]

    async def put_workspace(self, workspace: Workspace) -> bool:
        return _put(self._workspaces, workspace.id, workspace)

    async def delete_workspace(self, workspace: Workspace) -> bool:
        stored = self._workspaces.get(workspace.id)
        if stored is None or stored.version != workspace.version:
            return stored is None
        for queue in [queue for queue in self._queues if queue.workspace == workspace.id]:
            del self._queues[queue]
        for records in (self._holders, self._calls):
            for key in [key for key in records if key[0] == workspace.id]:
                del records[key]
        del self._workspaces[workspace.id]
        return True

    async def list_keys(self) -> Sequence[SigningKey]:
        return sorted(self._keys.values(), key=lambda key: key.signs_from)

    async def add_key(self, key: SigningKey) -> None:
        self._keys.setdefault(key.kid, key)

    async def delete_key(self, kid: str) -> None:
        self._keys.pop(kid, None)

    # --- the audit log

    async def add_audit_event(self, event: audit.Event) -> None:
        self._audit.setdefault(event.id, event)

    async def list_audit_events(self, workspace: str, before: str, limit: int) -> Sequence[audit.Event]:
        def listed(event: audit.Event) -> bool:
            return workspace in ("", event.workspace) and (not before or event.id < before)

        return nlargest(limit, filter(listed, self._audit.values()), key=lambda event: event.id)

    # --- between processes

    async def beat(self, process: str, now: datetime, *, listens: bool) -> None:
        self._processes[process] = now, listens
        # A database has a clock of its own to forget calls by; here a heartbeat tells the time.
        self._calls = {key: record for key, record in self._calls.items() if record[0] > now}

    async def processes(self, since: datetime) -> Mapping[str, bool]:
        return {process: listens for process, (seen_at, listens) in self._processes.items() if seen_at >= since}

    async def publish(self, signal: Signal) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(signal)

    async def watch(self) -> AsyncIterator[Signal]:
        signals: asyncio.Queue[Signal] = asyncio.Queue()
        self._watchers.append(signals)
        try:
            while True:
                yield await signals.get()
        finally:
            self._watchers.remove(signals)

    # --- itself

    async def ping(self) -> None:
        """Memory always answers."""

    async def close(self) -> None:
        """There is nothing to let go of."""


def _put(there: dict[_K, _V], key: _K, value: _V) -> bool:
    stored = there.get(key)
    if (stored.version if stored else 0) != value.version - 1:
        return stored == value
    there[key] = value
    return True


def _over(task: Task, now: datetime) -> bool:
    """Whether it is kept no longer."""
    return task.status.terminal and task.due_at <= now


def _place(task: Task) -> tuple[datetime, str]:
    return task.submitted_at, task.id


def _large(task: Task) -> Large:
    def only_large(*parts: int) -> int:
        return sum(size for size in parts if size > LARGE_BYTES)

    content = only_large(len(task.payload), len(task.result or b""))
    return Large(content, only_large(sizes.of_entries(task), sizes.of_events(task.events)))
