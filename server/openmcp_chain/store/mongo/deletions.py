"""Deleting tasks, a number at a time: those that have been kept for long enough, and all of a workspace."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pymongo import DeleteOne

from openmcp_chain.domain.task import Key
from openmcp_chain.store.mongo import documents, spans
from openmcp_chain.store.mongo.client import Connection
from openmcp_chain.store.mongo.documents import Document
from openmcp_chain.store.mongo.part import Part

COMMAND = 100
"""How many tasks one command deletes by their keys. It takes the embedded server up to 3 ms for each, and what takes it
long makes others wait, the driver's heartbeats too."""

_TIMED = {"version": 1, "close_by": 1, "terms.schedule_to_start": 1}
"""What tells whether a task had a timer, and which."""


class Deletions(Part):
    """The part of `store.base.Store` that deletes tasks."""

    def __init__(self, connection: Connection, patience: float) -> None:
        super().__init__(connection, patience)
        self._undeleted: datetime | None = None
        """Ended tasks that are due then, or some time before, are left."""

    async def delete_ended(self, now: datetime, limit: int) -> int:
        back = spans.Back(now, now + timedelta(milliseconds=1), None, self._undeleted)
        deleted, cut = await self._delete_last({"queue": documents.ENDED}, "due_at", back, limit)
        self._undeleted = cut or self._undeleted
        return deleted

    async def ended_with_key(self, now: datetime, limit: int) -> Sequence[Key]:
        if limit <= 0:  # to the database, 0 is no limit
            return []
        query = {"queue": documents.ENDED_WITH_KEY, "due_at": {"$lte": now}}
        found = await self._persist(lambda: self._tasks.find(query, {"_id": 1}, limit=limit).to_list(None))
        return list(map(documents.to_key, found))

    async def delete_superseded(self, keys: Collection[Key]) -> None:
        ids = [documents.primary_key(key) for key in keys]

        async def delete() -> None:
            for start in range(0, len(ids), COMMAND):
                those = ids[start : start + COMMAND]
                query = {"_id": {"$in": those}, "superseded": True}
                await self._forget_timers(await self._tasks.find(query, _TIMED).to_list(None))
                await self._tasks.bulk_write(
                    [DeleteOne({"_id": id_, "superseded": True}) for id_ in those], ordered=False
                )

        await self._persist(delete)

    async def erase_tasks(self, workspace: str, limit: int) -> int:
        back = spans.Back(datetime.now(UTC), None, None, self._newest.of(workspace))
        erased, cut = await self._delete_last({"workspace": workspace}, "submitted_at", back, limit)
        if cut is not None:
            self._newest.gone(workspace, cut)
        return erased

    async def _delete_last(
        self, scope: Document, time: str, back: spans.Back, limit: int
    ) -> tuple[int, datetime | None]:
        """Deletes up to `limit` of the tasks in scope, those with the latest `time` first.

        Returns how many, and the time of the last one that went, unless all went.
        """
        deleted, cut = 0, None
        for _, span in back:
            before, all_of_it = deleted, False
            while deleted < limit and not all_of_it:
                count, left = await self._persist(partial(self._delete, scope, time, span, limit - deleted))
                deleted += count
                cut, all_of_it = left or cut, left is None
            back.empty = deleted == before
            if deleted >= limit:
                break
        return deleted, cut

    async def _delete(self, scope: Document, time: str, span: spans.Span, limit: int) -> tuple[int, datetime | None]:
        """Deletes the last of the tasks in scope and span: how many, and where others may be left, if not all went.

        What is deleted is in scope still: it is said again in the command. One for a span of time costs the embedded
        server a quarter of one for each task.
        """
        query: dict[str, Any] = {**scope, time: span}
        found = await self._tasks.find(query, {time: 1, **_TIMED}, sort=[(time, -1)], limit=limit).to_list(None)
        if not found:
            return 0, None
        await self._forget_timers(found)
        if len(found) < limit:
            return (await self._tasks.delete_many(query)).deleted_count, None
        first: datetime = found[-1][time]
        if found[0][time] > first:
            query[time] = {**span, "$gte": first + timedelta(milliseconds=1)}
            return (await self._tasks.delete_many(query)).deleted_count, first
        deletes = [DeleteOne({"_id": one["_id"], **scope, time: first}) for one in found]
        results = [
            await self._tasks.bulk_write(deletes[start : start + COMMAND], ordered=False)
            for start in range(0, len(deletes), COMMAND)
        ]
        return sum(result.deleted_count for result in results), first

    async def _forget_timers(self, tasks: Sequence[Document]) -> None:
        """Before the tasks: what is left by a process that dies in between is found again."""
        deletes = [
            # A timer that is ahead is for a retry that is being written, or for the next task with this id.
            DeleteOne({"_id": task["_id"], "version": {"$lte": task["version"]}})
            for task in tasks
            if "close_by" in task or "schedule_to_start" in task.get("terms", {})
        ]
        if deletes:
            await self._database.timers.bulk_write(deletes, ordered=False)
