"""A workspace's tasks by filter: a page of them, the newest first, or how many.

By aggregations with two `$match` stages, since the embedded server uses an index only for a condition that is on the
index's fields and no others. MongoDB itself makes one of the two.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
from pymongo.errors import PyMongoError

from openmcp_chain.domain import filters
from openmcp_chain.domain.filters import Filter
from openmcp_chain.domain.task import Key, Status, Task, View
from openmcp_chain.store.base import Page, Place, TooMuch
from openmcp_chain.store.mongo import documents, spans
from openmcp_chain.store.mongo.client import ready
from openmcp_chain.store.mongo.documents import Document
from openmcp_chain.store.mongo.filters import query
from openmcp_chain.store.mongo.part import Part

READING = 0.5
"""Seconds: once a page has taken as long, no further span is read for it, and the next call goes on from there."""


class Lists(Part):
    """The part of `store.base.Store` that lists and counts."""

    async def list_tasks(self, workspace: str, chosen: Filter, after: Place | None, limit: int) -> Page:
        give_up = time.perf_counter() + READING
        found: list[Task] = []

        async def read(at: Any, order: Mapping[str, int], most: int, *conditions: Document) -> list[Task]:  # noqa: ANN401 - a time, or a span
            scope = {"workspace": workspace, "submitted_at": at}
            then: list[Document] = [{"$sort": order}, {"$limit": most}, {"$project": documents.HIDDEN[View.BASIC]}]
            found = await self._aggregate(scope, [query(chosen), *conditions], then)
            return [documents.to_task(document) for document in found]

        async def take(span: spans.Span) -> None:
            """The newest of the span. MongoDB's index has no order within a millisecond, so the last is read again."""
            most = limit + 1 - len(found)
            got = await read(span, {"submitted_at": -1}, most)
            if len(got) == most:
                last = got[-1].submitted_at
                got = [task for task in got if task.submitted_at > last]
                got += await read(last, {"_id": -1}, most - len(got))
            found.extend(sorted(got, key=lambda task: (task.submitted_at, task.id), reverse=True))

        bottom, top = filters.span(chosen)
        if top is not None:
            top = _whole(top)
        if after is not None:
            top = after.submitted_at if top is None else min(top, after.submitted_at)
            behind = {"_id": {"$lt": documents.primary_key(Key(workspace, after.task_id))}}
            found += await read(after.submitted_at, {"_id": -1}, limit + 1, behind)
        for low, span in spans.Back(top or datetime.now(UTC), top, bottom, self._newest.of(workspace)):
            if len(found) > limit:
                break
            await take(span)
            if low not in (None, bottom) and len(found) <= limit and time.perf_counter() > give_up:
                return Page(found, Place(low, ""))
        if found:
            self._newest.saw(workspace, found[0].submitted_at)
        shown = found[:limit]
        return Page(shown, Place(shown[-1].submitted_at, shown[-1].id) if len(found) > limit else None)

    async def count_tasks(self, workspace: str, chosen: Filter, within: float | None = None) -> Mapping[Status, int]:
        """By spans of time: whoever gives up leaves the embedded server, which reads on, no more than one to read."""
        counts = Counter[Status]()
        bottom, top = filters.span(chosen)
        top = top and _whole(top)
        give_up = math.inf if within is None else time.perf_counter() + within
        group = {"$group": {"_id": "$status", "tasks": {"$sum": 1}}}
        for _, span in spans.Back(top or datetime.now(UTC), top, bottom, self._newest.of(workspace)):
            scope = {"workspace": workspace, "submitted_at": span}
            for one in await self._aggregate(scope, [query(chosen)], [group], give_up):
                counts[Status(one["_id"])] += one["tasks"]
        return counts

    async def _aggregate(
        self,
        scope: Document,
        conditions: Sequence[Document],
        then: Sequence[Document],
        give_up: float = math.inf,
    ) -> list[dict[str, Any]]:
        """Raises TooMuch if it is not there by the time to give up."""
        pipeline = [{"$match": condition} for condition in (scope, *conditions) if condition]

        async def aggregate() -> list[dict[str, Any]]:
            cursor = await ready(self._tasks.aggregate([*pipeline, *then]))
            found: list[dict[str, Any]] = await cursor.to_list(None)
            return found

        async def aggregate_in_time() -> list[dict[str, Any]]:
            if (left := give_up - time.perf_counter()) > 0:
                try:
                    with pymongo.timeout(left):
                        return await aggregate()
                except PyMongoError as error:
                    if not error.timeout:
                        raise
            raise TooMuch

        return await self._persist(aggregate if give_up == math.inf else aggregate_in_time)


def _whole(time: datetime) -> datetime:
    """The first millisecond at or after it: the database cuts what is between two."""
    rest = timedelta(microseconds=time.microsecond % 1000)
    return time - rest + timedelta(milliseconds=1) if rest else time
