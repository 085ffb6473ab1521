"""Where the model's tasks are kept: in a dict, or by stores. Two servers use it."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import Change, Key, Queue, Status, Task
from openmcp_chain.store.base import Store

SERVERS = (0, 1)
LIMIT = 1000


class Shelf(Protocol):
    """What of a `Store` the model uses. `server` says which of the two processes asks."""

    def insert(self, server: int, task: Task, /) -> Task: ...

    def update(self, changes: Sequence[tuple[int, Change]], /) -> Sequence[bool]:
        """Writes of both servers, at once. Two of one server name two tasks."""
        ...

    def get(self, server: int, keys: Collection[Key], /) -> Mapping[Key, Task]: ...

    def ready(
        self, server: int, queue: Queue, priority: int, since: datetime, until: datetime, /
    ) -> Sequence[Waiting]: ...

    def overdue(self, server: int, now: datetime, /) -> Sequence[Key]: ...

    def delete_ended(self, server: int, now: datetime, /) -> int: ...


class Plain:
    """The domain alone: a dict, and versions compared."""

    def __init__(self) -> None:
        self._tasks: dict[Key, Task] = {}

    def insert(self, _: int, task: Task) -> Task:
        return self._tasks.setdefault(task.key, task)

    def update(self, changes: Sequence[tuple[int, Change]]) -> Sequence[bool]:
        made = []
        for _, change in changes:
            stored = self._tasks.get(change.before.key)
            if stored is not None and stored.version == change.before.version:
                self._tasks[change.before.key] = stored = change.after
            made.append(stored == change.after)
        return made

    def get(self, _: int, keys: Collection[Key]) -> Mapping[Key, Task]:
        return {key: self._tasks[key] for key in keys if key in self._tasks}

    def ready(self, _: int, queue: Queue, priority: int, since: datetime, until: datetime) -> Sequence[Waiting]:
        waiting = (t for t in self._tasks.values() if t.status is Status.PENDING and t.queue == queue)
        return [
            Waiting(task.key, task.type, task.priority, task.submitted_at, task.due_at)
            for task in sorted(waiting, key=lambda task: task.due_at)
            if task.priority == priority and since <= task.due_at <= until
        ]

    def overdue(self, _: int, now: datetime) -> Sequence[Key]:
        due = {Status.PENDING: lambda task: task.deadline, Status.RUNNING: lambda task: task.due_at}
        return [t.key for t in self._tasks.values() if t.status in due and (at := due[t.status](t)) and at <= now]

    def delete_ended(self, _: int, now: datetime) -> int:
        over = [task.key for task in self._tasks.values() if task.status.terminal and task.due_at <= now]
        for key in over:
            del self._tasks[key]
        return len(over)


class Stored:
    """Real stores on the same data, one for each server, as if each were in a process of its own."""

    def __init__(self, runner: asyncio.Runner, stores: Sequence[Store]) -> None:
        self._run = runner.run
        self._stores = stores

    def insert(self, server: int, task: Task) -> Task:
        (stored,) = self._run(self._stores[server].insert_tasks([task]))
        return stored

    def update(self, changes: Sequence[tuple[int, Change]]) -> Sequence[bool]:
        batches: defaultdict[int, list[Change]] = defaultdict(list)
        for server, change in changes:
            batches[server].append(change)

        async def at_once() -> dict[int, list[bool]]:
            answers = await asyncio.gather(*(self._stores[s].update_tasks(batch) for s, batch in batches.items()))
            return {server: list(answer) for server, answer in zip(batches, answers, strict=True)}

        made = self._run(at_once())
        return [made[server].pop(0) for server, _ in changes]

    def get(self, server: int, keys: Collection[Key]) -> Mapping[Key, Task]:
        return self._run(self._stores[server].get_tasks(keys))

    def ready(self, server: int, queue: Queue, priority: int, since: datetime, until: datetime) -> Sequence[Waiting]:
        return self._run(self._stores[server].ready_tasks(queue, priority, since, until, LIMIT))

    def overdue(self, server: int, now: datetime) -> Sequence[Key]:
        store = self._stores[server]
        return [*self._run(store.expired_leases(now, LIMIT)), *self._run(store.late_tasks(now, LIMIT))]

    def delete_ended(self, server: int, now: datetime) -> int:
        return self._run(self._stores[server].delete_ended(now, LIMIT))
