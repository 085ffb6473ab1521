"""What a store promises. One conformance suite (`tests/store/`) holds every store to it.

Every method may raise `errors.Unavailable`: the database could not be reached within the store's own time limit, after
the store's own tries. The write may or may not have happened; every write is guarded, so the same call may simply be
made again.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from openmcp_chain.domain.task import Change, Key, Task
from openmcp_chain.domain.workspace import SigningKey, Workspace


class Store(Protocol):
    """Tasks, workspaces and signing keys on durable storage.

    What a write method has returned survives the death of any process. A read sees every write that has returned before
    it began.
    """

    async def insert_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Adds tasks, each by itself: one that loses does not stop the others.

        Returns, for each, the task now stored under its key: the very task given if it was added, the one that was
        there otherwise. Two of the batch may have the same key: the first wins. A task equal to the one that is there
        counts as added: an earlier try of the same call has done it.
        """
        ...

    async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
        """Makes each change, by itself, if the stored task still has the version of `before`.

        State and events go in one write. Returns, for each, whether `after` is now what is stored; so a change that an
        earlier try of the same call has made counts as made. Keys in a batch are distinct.
        """
        ...

    async def get_tasks(self, keys: Collection[Key]) -> Mapping[Key, Task]:
        """The tasks with these keys; a key that has none is left out."""
        ...

    async def ready_tasks(
        self, types: Collection[str], workspace: str | None, now: datetime, limit: int
    ) -> Sequence[Task]:
        """Up to `limit` tasks of these types that are PENDING with `due_at` at or before `now`, in no set order.

        Of one workspace, or of all if it is None.
        """
        ...

    async def expired_tasks(self, now: datetime, limit: int) -> Sequence[Task]:
        """Up to `limit` tasks that are RUNNING with `due_at` before `now`, in no set order."""
        ...

    async def get_workspace(self, workspace_id: str) -> Workspace | None:
        """The workspace or operator with this id."""
        ...

    async def list_workspaces(self) -> Sequence[Workspace]:
        """All workspaces and operators, by id."""
        ...

    async def put_workspace(self, workspace: Workspace) -> bool:
        """Adds the workspace if its version is 1, else replaces the one whose version is one less.

        Returns whether it is now what is stored; if not, another write came first.
        """
        ...

    async def list_keys(self) -> Sequence[SigningKey]:
        """All signing keys, by `signs_from`."""
        ...

    async def add_key(self, key: SigningKey) -> None:
        """Adds a signing key; one with the same kid that is there stays as it is."""
        ...

    async def ping(self) -> None:
        """Returns if the database takes writes."""
        ...

    async def close(self) -> None:
        """Lets go of connections. The store is not used again."""
        ...
