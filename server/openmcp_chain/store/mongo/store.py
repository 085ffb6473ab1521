"""The store itself: each promise of `store.base` as one read or one guarded write, and a read of what a write lost to.

A caller that is cancelled in the middle of an operation costs its connection (the driver closes it), and leaves open
whether a write happened; so a caller shields a write that others share.

Left out with reason, for what they cost on the embedded server and in contention on any: find-and-modify, sort with
limit, `$or`, ranges on `_id`, counts, transactions.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, NotPrimaryError

from openmcp_chain.domain.task import Change, Key, Status, Task
from openmcp_chain.domain.workspace import SigningKey, Workspace
from openmcp_chain.store.mongo import client, documents, indexes
from openmcp_chain.store.mongo.errors import persist, taken

PATIENCE = 5.0
"""Seconds in which a method begins a new try; it raises Unavailable after twice that at most."""

PING_PATIENCE = 1.0

_T = TypeVar("_T")


async def connect(
    uri: str, database: str, driver: client.Driver = "motor", *, patience: float = PATIENCE
) -> "MongoStore":
    """The store in this database, its indexes made.

    Raises ValueError for a URI that is none, Unavailable if no primary answers in time (see PATIENCE).
    """
    connection = await persist(lambda: client.connect(uri, database, driver), patience)
    try:
        await persist(lambda: indexes.create(connection.database), patience)
    except BaseException:
        await connection.close()
        raise
    return MongoStore(connection, patience)


class MongoStore:
    """`store.base.Store` on MongoDB."""

    def __init__(self, connection: client.Connection, patience: float) -> None:
        self._connection = connection
        self._patience = patience
        self._tasks = connection.database.tasks
        self._workspaces = connection.database.workspaces
        self._keys = connection.database.signing_keys

    async def _persist(self, operation: Callable[[], Awaitable[_T]]) -> _T:
        return await persist(operation, self._patience)

    async def insert_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        first: dict[Key, Task] = {}
        for task in tasks:
            first.setdefault(task.key, task)
        stored = await self._persist(lambda: self._insert(first))
        return [stored[task.key] for task in tasks]

    async def _insert(self, tasks: Mapping[Key, Task]) -> dict[Key, Task]:
        """One round trip if all are new, else a second to see what the others lost to."""
        if not tasks:
            return {}
        try:
            await self._tasks.insert_many([documents.from_task(task) for task in tasks.values()], ordered=False)
        except BulkWriteError as error:
            keys = list(tasks)
            lost = {keys[index]: tasks[keys[index]] for index in taken(error)}
        else:
            return dict(tasks)
        there = {key: _same_if_equal(tasks[key], found) for key, found in (await self._find(lost)).items()}
        # One that was in the way and is gone: retention took it in between.
        again = await self._insert({key: task for key, task in lost.items() if key not in there})
        return {**tasks, **there, **again}

    async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
        return await self._persist(lambda: self._update(changes)) if changes else []

    async def _update(self, changes: Sequence[Change]) -> Sequence[bool]:
        """One round trip if all win, else a second to see which."""
        ids = [documents.primary_key(change.after.key) for change in changes]
        result = await self._tasks.bulk_write(
            [
                UpdateOne({"_id": id_, "version": change.before.version}, documents.update(change.before, change.after))
                for id_, change in zip(ids, changes, strict=True)
            ],
            ordered=False,
        )
        if result.matched_count == len(changes):
            return [True] * len(changes)
        fields = dict.fromkeys(documents.STATE, 1)
        found = await self._tasks.find(_one_of(ids), fields).to_list(None)
        stored = {document.pop("_id"): document for document in found}
        return [stored.get(id_) == documents.state(change.after) for id_, change in zip(ids, changes, strict=True)]

    async def get_tasks(self, keys: Collection[Key]) -> Mapping[Key, Task]:
        return await self._persist(lambda: self._find(keys)) if keys else {}

    async def _find(self, keys: Iterable[Key]) -> dict[Key, Task]:
        ids = [documents.primary_key(key) for key in keys]
        found = map(documents.to_task, await self._tasks.find(_one_of(ids)).to_list(None))
        return {task.key: task for task in found}

    async def ready_tasks(
        self, types: Collection[str], workspace: str | None, now: datetime, limit: int
    ) -> Sequence[Task]:
        found: list[Task] = []
        of_workspace = {} if workspace is None else {"workspace": workspace}
        # One query for each type: an equality on each field but the last is what every server has an index scan for.
        for task_type in set(types):
            query = {"status": Status.PENDING.value, "type": task_type, **of_workspace, "due_at": {"$lte": now}}
            found += await self._due(query, limit - len(found))
        return found

    async def expired_tasks(self, now: datetime, limit: int) -> Sequence[Task]:
        return await self._due({"status": Status.RUNNING.value, "due_at": {"$lt": now}}, limit)

    async def _due(self, query: Mapping[str, Any], limit: int) -> list[Task]:
        if limit <= 0:  # to the database, 0 is no limit
            return []

        found = await self._persist(lambda: self._tasks.find(query, limit=limit).to_list(None))
        return [documents.to_task(document) for document in found]

    async def get_workspace(self, workspace_id: str) -> Workspace | None:
        document = await self._persist(lambda: self._workspaces.find_one({"_id": workspace_id}))
        return documents.to_workspace(document) if document else None

    async def list_workspaces(self) -> Sequence[Workspace]:
        found = await self._persist(lambda: self._workspaces.find().to_list(None))
        return sorted(map(documents.to_workspace, found), key=lambda workspace: workspace.id)

    async def put_workspace(self, workspace: Workspace) -> bool:
        document = documents.from_workspace(workspace)
        before = {"_id": workspace.id, "version": workspace.version - 1}

        async def put() -> bool:
            if workspace.version == 1:
                try:
                    await self._workspaces.insert_one(document)
                except DuplicateKeyError:
                    pass
                else:
                    return True
            elif (await self._workspaces.replace_one(before, document)).matched_count:
                return True
            return await self._workspaces.find_one({"_id": workspace.id}) == document

        return await self._persist(put)

    async def list_keys(self) -> Sequence[SigningKey]:
        found = await self._persist(lambda: self._keys.find().to_list(None))
        return sorted(map(documents.to_key, found), key=lambda key: key.signs_from)

    async def add_key(self, key: SigningKey) -> None:
        async def add() -> None:
            with suppress(DuplicateKeyError):
                await self._keys.insert_one(documents.from_key(key))

        await self._persist(add)

    async def ping(self) -> None:
        """Asks the primary now: what the driver last heard of it may be seconds old."""

        async def hello() -> None:
            answer = await self._connection.client.admin.command("hello")
            if not answer.get("isWritablePrimary"):
                raise NotPrimaryError

        await persist(hello, PING_PATIENCE)

    async def close(self) -> None:
        await self._connection.close()


def _same_if_equal(given: Task, found: Task) -> Task:
    """What an earlier try has added counts as added, and so is the task given, not a copy of it."""
    return given if found == given else found


def _one_of(ids: list[str]) -> dict[str, Any]:
    return {"_id": {"$in": ids}}
