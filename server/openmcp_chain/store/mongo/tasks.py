"""Tasks by their keys and by what is due: each promise is a read, or a guarded write and a read of what it lost to."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import pymongo
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import (
    PRIORITIES,
    Change,
    Key,
    Position,
    Queue,
    Status,
    Stretch,
    Task,
    View,
    seen,
)
from openmcp_chain.store.base import Large, TooMuch
from openmcp_chain.store.mongo import documents
from openmcp_chain.store.mongo.client import Connection
from openmcp_chain.store.mongo.documents import Document
from openmcp_chain.store.mongo.errors import taken
from openmcp_chain.store.mongo.part import Part
from openmcp_chain.store.mongo.timers import Timers

EMBEDDED_COUNT = 0.0005
"""Seconds that the embedded server takes to count a task, more or less."""

OUTLINES = 100
"""So many are read at a time: for each, a database may have to look through all of the task."""

_WAITING = {"submitted_at": 1, "due_at": 1}


class Tasks(Part):
    """The part of `store.base.Store` under "tasks", but for lists and deletions."""

    def __init__(self, connection: Connection, patience: float) -> None:
        super().__init__(connection, patience)
        self._embedded: bool | None = None
        """None: it is not known yet."""
        self._timers = Timers(self._database.timers, self._tasks)

    async def insert_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        first: dict[Key, Task] = {}
        for task in tasks:
            first.setdefault(task.key, task)

        async def insert() -> dict[Key, Task]:
            await self._timers.set(task for task in first.values() if task.deadline is not None)
            return await self._insert(first)

        stored = await self._persist(insert)
        for task in first.values():
            self._newest.saw(task.workspace, task.submitted_at)
        return [stored[task.key] for task in tasks]

    async def _insert(self, tasks: Mapping[Key, Task]) -> dict[Key, Task]:
        """One round trip if all are new, else others to see what the rest lost to."""
        if not tasks:
            return {}
        try:
            await self._tasks.insert_many([documents.from_task(task) for task in tasks.values()], ordered=False)
        except BulkWriteError as error:
            keys = list(tasks)
            lost = {keys[index]: tasks[keys[index]] for index in taken(error)}
        else:
            return dict(tasks)
        there: dict[Key, Task] = {}
        left = list(lost)
        while left:
            for key, found in (await self._find(left[:OUTLINES], View.OUTLINE)).items():
                there[key] = tasks[key] if seen(tasks[key], View.OUTLINE) == found else found
            del left[:OUTLINES]
        # One that was in the way and is gone: retention took it in between.
        again = await self._insert({key: task for key, task in lost.items() if key not in there})
        return {**tasks, **there, **again}

    async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
        return await self._persist(lambda: self._update(changes)) if changes else []

    async def _update(self, changes: Sequence[Change]) -> Sequence[bool]:
        """One round trip if all win and no deadline is new, else another to see which won."""
        await self._timers.set(
            change.after for change in changes if change.after.deadline not in (None, change.before.deadline)
        )
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
        made = await self._made(dict(zip(ids, changes, strict=True)))
        return [id_ in made for id_ in ids]

    async def _made(self, changes: Mapping[str, Change]) -> Collection[str]:
        """The ids of those tasks that are now as their changes make them.

        A task may have megabytes of events, and many may lose at once, so no more is read than it takes to tell: of
        events the last, since those of the right version are the same up to the change; a result only where all else
        is as it should be, its length too if it is large.
        """
        last = max(1, *(len(change.after.events) - len(change.before.events) for change in changes.values()))
        shown = {**dict.fromkeys(documents.STATE, 1), "events": {"$slice": -last}}
        del shown["result"]
        wanted = {
            id_: {**documents.state(change.after), "events": documents.events(change.after.events[-last:])}
            for id_, change in changes.items()
        }
        results = {id_: state.pop("result", None) for id_, state in wanted.items()}
        found = await self._tasks.find(_one_of(list(changes)), shown).to_list(None)
        alike = [id_ for document in found if document == wanted[id_ := document.pop("_id")]]
        found = await self._tasks.find(_one_of(alike), {"result": 1}).to_list(None) if alike else []
        return {id_ for document in found if document.get("result") == results[id_ := document["_id"]]}

    async def get_tasks(self, keys: Collection[Key], view: View = View.WHOLE) -> Mapping[Key, Task]:
        return await self._persist(lambda: self._find(keys, view)) if keys else {}

    async def _find(self, keys: Iterable[Key], view: View) -> dict[Key, Task]:
        ids = [documents.primary_key(key) for key in keys]
        hidden = documents.HIDDEN[view] or None
        found = map(documents.to_task, await self._tasks.find(_one_of(ids), hidden).to_list(None))
        return {task.key: task for task in found}

    async def task_versions(self, keys: Collection[Key]) -> Mapping[Key, int]:
        if not keys:
            return {}
        query = _one_of([documents.primary_key(key) for key in keys])
        found = await self._persist(lambda: self._tasks.find(query, {"version": 1}).to_list(None))
        return {documents.to_key(one): one["version"] for one in found}

    async def histories(self, positions: Collection[Position], limit: int) -> Mapping[Position, Stretch]:
        keys = defaultdict[int, list[Key]](list)
        for position in positions:
            keys[position.after].append(position.key)
        read = [self._persist(partial(self._stretches, those, after, limit)) for after, those in keys.items()]
        return {position: found for part in await asyncio.gather(*read) for position, found in part.items()}

    async def _stretches(self, keys: Sequence[Key], after: int, limit: int) -> dict[Position, Stretch]:
        """What follows the same place in the histories of several tasks; read with the event before, if it is there."""
        before = min(after, 1)
        found, nowhere = dict[Position, Stretch](), dict[Key, Stretch]()
        for document in await self._slices(keys, [after - before, before + limit]):
            key, events = documents.to_key(document), documents.to_events(document)
            version, status = document["version"], Status(document["status"])
            if events:
                found[Position(key, after)] = Stretch(version, status, events[before:], events[-1].seq)
            else:
                nowhere[key] = Stretch(version, status, (), 0)
        if nowhere:
            for document in await self._slices(list(nowhere), -1):
                key, (last,) = documents.to_key(document), documents.to_events(document)
                found[Position(key, after)] = replace(nowhere[key], last=last.seq)
        return found

    async def _slices(self, keys: Sequence[Key], part: int | list[int]) -> Sequence[Document]:
        """Of each task no more than a part of its events; as `$slice` names it."""
        query = _one_of([documents.primary_key(key) for key in keys])
        return await self._tasks.find(query, {"version": 1, "status": 1, "events": {"$slice": part}}).to_list(None)

    async def large_tasks(self, keys: Collection[Key], view: View) -> Mapping[Key, Large]:
        content, rest = (
            [size for part, size in sizes.items() if part not in documents.HIDDEN[view]]
            for sizes in (documents.CONTENT_BYTES, documents.REST_BYTES)
        )
        if not keys or not (content or rest):
            return {}
        query, shown = _one_of([documents.primary_key(key) for key in keys]), dict.fromkeys((*content, *rest), 1)
        found = await self._persist(lambda: self._tasks.find(query, shown).to_list(None))
        sizes = {
            documents.to_key(one): Large(*(sum(one.get(field, 0) for field in part) for part in (content, rest)))
            for one in found
        }
        return {key: large for key, large in sizes.items() if any(large)}

    async def ready_tasks(
        self, queue: Queue, priority: int, since: datetime, until: datetime, limit: int, within: float | None = None
    ) -> Sequence[Waiting]:
        if limit <= 0:  # to the database, 0 is no limit
            return []
        query = {"queue": documents.waiting(queue, priority), "due_at": {"$gte": since, "$lte": until}}

        async def find() -> Sequence[Document]:
            try:
                with pymongo.timeout(within):
                    return await self._tasks.find(query, _WAITING, sort=[("due_at", 1)], limit=limit).to_list(None)
            except PyMongoError as error:
                if within is None or not error.timeout:
                    raise
            raise TooMuch

        return [
            Waiting(documents.to_key(document), queue.type, priority, document["submitted_at"], document["due_at"])
            for document in await self._persist(find)
        ]

    async def count_waiting(self, queues: Collection[Queue], limit: int, within: float) -> int:
        if limit <= 0 or not queues:
            return 0
        if self._embedded is None:
            self._embedded = await self._persist(self._connection.embedded)
        if self._embedded and await self._persist(self._tasks.estimated_document_count) * EMBEDDED_COUNT > within:
            raise TooMuch  # it would count on after we had given up, and others would wait
        query = {"queue": {"$in": [documents.waiting(queue, priority) for queue in queues for priority in PRIORITIES]}}

        async def count() -> int:
            try:
                with pymongo.timeout(within):
                    return await self._tasks.count_documents(query, limit=limit)
            except PyMongoError as error:
                if not error.timeout:
                    raise
            raise TooMuch

        return await self._persist(count)

    async def expired_leases(self, now: datetime, limit: int, skip: int = 0) -> Sequence[Key]:
        if limit <= 0:
            return []
        query = {"queue": documents.RUNNING, "due_at": {"$lte": now}}
        found = await self._persist(lambda: self._tasks.find(query, {"_id": 1}, skip=skip, limit=limit).to_list(None))
        return list(map(documents.to_key, found))

    async def late_tasks(
        self,
        now: datetime,
        limit: int,
        skip: int = 0,
        since: datetime | None = None,
        known: Container[Key] = (),
    ) -> Sequence[Key]:
        late: list[Key] = []
        more = True
        while more and len(late) < limit:
            found, more = await self._persist(lambda: self._timers.due(now, limit, skip, since, known))
            late = list(dict.fromkeys([*late, *found]))
        return late[:limit]


def _one_of(ids: list[str]) -> dict[str, Any]:
    return {"_id": {"$in": ids}}
