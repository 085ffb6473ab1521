"""A workspace's tasks by filter: a page of them, the newest first, or how many.

By aggregations with two `$match` stages, since the embedded server uses an index only for a condition that is on the
index's fields and no others. MongoDB itself makes one of the two.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from openmcp_chain.domain import filters
from openmcp_chain.domain.filters import MILLISECOND, Filter
from openmcp_chain.domain.task import Key, Status, Task
from openmcp_chain.store.base import Page, Place
from openmcp_chain.store.mongo import documents, spans
from openmcp_chain.store.mongo.client import ready
from openmcp_chain.store.mongo.filters import query
from openmcp_chain.store.mongo.part import Part

READING = 0.5
"""Seconds: once a page has taken as long, no further span is read for it, and the next call goes on from there."""

_NEWEST_FIRST = {"submitted_at": -1, "_id": -1}


class Lists(Part):
    """The part of `store.base.Store` that lists and counts."""

    async def list_tasks(
        self, workspace: str, chosen: Filter, after: Place | None, limit: int, *, bodies: bool
    ) -> Page:
        give_up = time.perf_counter() + READING
        hidden = {"events": 0} if bodies else {"events": 0, "payload": 0, "result": 0}
        found: list[Task] = []

        async def read(submitted_at: Any, *conditions: Mapping[str, Any]) -> None:  # noqa: ANN401 - a time, or a span
            found.extend(
                map(
                    documents.to_task,
                    await self._aggregate(
                        {"workspace": workspace, "submitted_at": submitted_at},
                        [query(chosen), *conditions],
                        # One more than is shown, to know whether there is more.
                        [{"$sort": _NEWEST_FIRST}, {"$limit": limit + 1 - len(found)}, {"$project": hidden}],
                    ),
                )
            )

        bottom, top = filters.span(chosen)
        if top is not None:
            top = _whole(top)
        if after is not None:
            top = after.submitted_at if top is None else min(top, after.submitted_at)
            await read(after.submitted_at, {"_id": {"$lt": documents.primary_key(Key(workspace, after.task_id))}})
        for low, span in spans.back(top or datetime.now(UTC), top, bottom):
            if len(found) > limit:
                break
            await read(span)
            if low is not None and len(found) <= limit and time.perf_counter() > give_up:
                return Page(found, Place(low, ""))
        shown = found[:limit]
        return Page(shown, Place(shown[-1].submitted_at, shown[-1].id) if len(found) > limit else None)

    async def count_tasks(self, workspace: str, chosen: Filter) -> Mapping[Status, int]:
        bottom, top = filters.span(chosen)
        span = spans.between(bottom, top and _whole(top))
        scope = {"workspace": workspace, "submitted_at": span} if span else {"workspace": workspace}
        group = {"$group": {"_id": "$status", "tasks": {"$sum": 1}}}
        return {Status(one["_id"]): one["tasks"] for one in await self._aggregate(scope, [query(chosen)], [group])}

    async def _aggregate(
        self, scope: Mapping[str, Any], conditions: Sequence[Mapping[str, Any]], then: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        pipeline = [{"$match": condition} for condition in (scope, *conditions) if condition]

        async def aggregate() -> list[dict[str, Any]]:
            cursor = await ready(self._database.tasks.aggregate([*pipeline, *then]))
            found: list[dict[str, Any]] = await cursor.to_list(None)
            return found

        return await self._persist(aggregate)


def _whole(time: datetime) -> datetime:
    """The first millisecond at or after it: the database cuts what is between two."""
    rest = timedelta(microseconds=time.microsecond % 1000)
    return time - rest + MILLISECOND if rest else time
