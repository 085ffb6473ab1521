"""When waiting tasks must have a worker: a collection of its own, so that tasks without a deadline pay nothing for it.

A timer is written before the task that it is for is, or is made to wait again, and names that task's version. So for
each waiting task with a deadline there is a timer that is due no later than that. It may be due earlier, or be for
nothing: the task was claimed, or the write lost, or never came. Whoever finds it due looks at the task, and mends the
timer.

What mends it is guarded by what was seen of it, since the task may be about to wait again, with its timer just set. If
a timer is ahead of the task's version, the write that it is for may still come: it is awaited for a while, in which the
timer stays. Meanwhile the task has its own deadline, for which the timer is due as well: the write may have lost.
"""

from collections.abc import Container, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import DESCENDING, DeleteOne, UpdateOne

from openmcp_chain.domain.task import Key, Status, Task, deadline
from openmcp_chain.store.mongo import documents
from openmcp_chain.store.mongo.documents import Document
from openmcp_chain.store.mongo.part import Collection

GRACE = timedelta(minutes=1)
"""How long a write may still come whose timer is due. Longer than the store tries it, by much."""

MENDS = 200
"""How many timers are mended in a look, which is waited for."""
AT_ONCE = 50
"""How many in one write, which others' writes wait for."""

_SHOWN = {"version": 1, "status": 1, "start_by": 1, "close_by": 1}
"""What tells whether a task is late: the rest of a thousand may be hundreds of megabytes."""


class Timers:
    def __init__(self, timers: Collection, tasks: Collection) -> None:
        self._timers = timers
        self._tasks = tasks

    async def set(self, tasks: Iterable[Task]) -> None:
        """Sets the timers of these tasks, as they are about to be written; each has a deadline."""
        writes = [
            UpdateOne(
                {"_id": documents.primary_key(task.key)},
                {"$min": {"at": task.deadline}, "$max": {"version": task.version}, "$unset": {"awaited_until": ""}},
                upsert=True,
            )
            for task in tasks
        ]
        if writes:
            await self._timers.bulk_write(writes, ordered=False)

    async def due(
        self,
        now: datetime,
        limit: int,
        skip: int = 0,
        since: datetime | None = None,
        known: Container[Key] = (),
    ) -> tuple[list[Key], bool]:
        """Of up to `limit` timers that are due: those tasks whose deadline has passed, and whether to look again.

        The first `skip` are passed over; with `since`, those that were due by then are, and the last come first. Tasks
        that are `known` to be late are not read again. Timers that are due for nothing are mended, so another look
        finds others.
        """
        span: dict[str, datetime] = {"$lte": now} if since is None else {"$gt": since, "$lte": now}
        order = None if since is None else [("at", DESCENDING)]
        timers = await self._timers.find({"at": span}, skip=skip, limit=limit, sort=order).to_list(None)
        if not timers:
            return [], False
        late = [key for key in map(documents.to_key, timers) if key in known]
        unknown = [timer for timer in timers if documents.to_key(timer) not in known]
        found = await self._read([timer["_id"] for timer in unknown])
        tasks = {document["_id"]: document for document in found}
        mends: list[UpdateOne | DeleteOne] = []
        for timer in unknown:
            task = tasks.get(timer["_id"])
            at = _deadline(task)
            if at is not None and at <= now:
                late.append(documents.to_key(timer))
            else:
                mends.append(_mend(timer, task, now))
        for start in range(0, min(len(mends), MENDS), AT_ONCE):
            await self._timers.bulk_write(mends[start : min(start + AT_ONCE, MENDS)], ordered=False)
        return late, 0 < len(mends) <= MENDS and len(timers) == limit

    async def _read(self, ids: Sequence[str]) -> Sequence[Document]:
        return await self._tasks.find({"_id": {"$in": ids}}, _SHOWN).to_list(None) if ids else []


def _deadline(task: Document | None) -> datetime | None:
    if task is None:
        return None
    return deadline(Status(task["status"]), task.get("start_by"), task.get("close_by"))


def _mend(timer: Document, task: Document | None, now: datetime) -> UpdateOne | DeleteOne:
    """Makes of a timer, found due too early or for nothing, what it should be."""
    seen: dict[str, Any] = {name: timer.get(name) for name in ("_id", "at", "version", "awaited_until")}
    at = _deadline(task)
    if task is None or task["version"] < timer["version"]:
        until = timer.get("awaited_until") or now + GRACE
        if until > now:
            return UpdateOne(seen, {"$set": {"at": min(at or until, until), "awaited_until": until}})
    if at is not None:
        return UpdateOne(seen, {"$set": {"at": at}, "$unset": {"awaited_until": ""}})
    return DeleteOne(seen)
