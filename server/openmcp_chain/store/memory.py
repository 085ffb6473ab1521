"""A store in memory: for unit tests and simulation. Keeps every promise of `base` but the one of durability."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from itertools import islice

from openmcp_chain.domain.task import Change, Key, Status, Task
from openmcp_chain.domain.workspace import SigningKey, Workspace


class MemoryStore:
    """Plain dictionaries. No method waits inside, so each is atomic on its event loop."""

    def __init__(self) -> None:
        self._tasks: dict[Key, Task] = {}
        self._workspaces: dict[str, Workspace] = {}
        self._keys: dict[str, SigningKey] = {}

    async def insert_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        first: dict[Key, Task] = {}
        for task in tasks:
            first.setdefault(task.key, task)
        stored = {key: self._insert(task) for key, task in first.items()}
        return [stored[task.key] for task in tasks]

    def _insert(self, task: Task) -> Task:
        stored = self._tasks.setdefault(task.key, task)
        return task if stored == task else stored

    async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
        return [self._update(change) for change in changes]

    def _update(self, change: Change) -> bool:
        stored = self._tasks.get(change.after.key)
        if stored is None or stored.version != change.before.version:
            return stored == change.after
        self._tasks[change.after.key] = change.after
        return True

    async def get_tasks(self, keys: Collection[Key]) -> Mapping[Key, Task]:
        return {key: self._tasks[key] for key in keys if key in self._tasks}

    async def ready_tasks(
        self, types: Collection[str], workspace: str | None, now: datetime, limit: int
    ) -> Sequence[Task]:
        def ready(task: Task, due_at: datetime) -> bool:
            return task.type in types and workspace in (None, task.workspace) and due_at <= now

        return self._due(Status.PENDING, ready, limit)

    async def expired_tasks(self, now: datetime, limit: int) -> Sequence[Task]:
        return self._due(Status.RUNNING, lambda _, due_at: due_at < now, limit)

    def _due(self, status: Status, wanted: Callable[[Task, datetime], bool], limit: int) -> Sequence[Task]:
        due = (t for t in self._tasks.values() if t.status is status and t.due_at is not None and wanted(t, t.due_at))
        return list(islice(due, limit))

    async def get_workspace(self, workspace_id: str) -> Workspace | None:
        return self._workspaces.get(workspace_id)

    async def list_workspaces(self) -> Sequence[Workspace]:
        return sorted(self._workspaces.values(), key=lambda workspace: workspace.id)

    async def put_workspace(self, workspace: Workspace) -> bool:
        stored = self._workspaces.get(workspace.id)
        if (stored.version if stored else 0) != workspace.version - 1:
            return stored == workspace
        self._workspaces[workspace.id] = workspace
        return True

    async def list_keys(self) -> Sequence[SigningKey]:
        return sorted(self._keys.values(), key=lambda key: key.signs_from)

    async def add_key(self, key: SigningKey) -> None:
        self._keys.setdefault(key.kid, key)

    async def ping(self) -> None:
        """Memory always answers."""

    async def close(self) -> None:
        """There is nothing to let go of."""
