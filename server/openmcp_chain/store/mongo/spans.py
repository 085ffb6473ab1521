"""Going back in time, span by span: how the newest of many documents are found at a cost that does not grow with them.

MongoDB itself would read an index backwards until it has enough. The embedded server reads all that the query matches,
sorts it, and then cuts: 10 ms for 100 documents, 1.4 s for 20,000. So each query asks for a span of time only, short at
first and longer as long as answers come quickly. On a database where little happens this costs some ten queries that
find nothing, of 1 ms each.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

FIRST = timedelta(milliseconds=100)
GROWTH = 8.0
PACE = 0.1
"""Seconds: what a span should take to read. The next one grows accordingly, up to GROWTH times."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Nothing is older; the last span is open, in case it is."""


def back(
    begin: datetime, top: datetime | None, bottom: datetime | None
) -> Iterator[tuple[datetime | None, dict[str, Any]]]:
    """Spans of time without gaps: from before `top`, if any, back to `bottom`, if any. Each: its start, its condition.

    The first starts a little before `begin`. The caller reads a span before it asks for the next.
    """
    width = FIRST
    low: datetime | None = begin
    while low is not None:
        low = low - width if low - _EPOCH > width else None
        if bottom is not None and (low is None or low < bottom):
            low = bottom
        began = time.perf_counter()
        yield low, between(low, top)
        if low == bottom:
            return
        width *= min(GROWTH, max(1.0, PACE / (time.perf_counter() - began)))
        top = low


def between(low: datetime | None, top: datetime | None) -> dict[str, Any]:
    """At or after `low`, and before `top`."""
    bounds = {"$gte": low, "$lt": top}
    return {operator: at for operator, at in bounds.items() if at is not None}
