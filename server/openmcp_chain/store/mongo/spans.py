"""Going back in time, span by span: how the newest of many documents are found at a cost that does not grow with them.

MongoDB itself would read an index backwards until it has enough. The embedded server reads all that the query matches,
sorts it, and then cuts: 10 ms for 100 documents, 1.4 s for 20,000. So each query asks for a span of time only, short at
first and longer as long as answers come quickly. On a database where little happens this costs some ten queries that
find nothing, of 1 ms each.
"""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

FIRST = timedelta(milliseconds=100)
GROWTH = 8.0
PACE = 0.1
"""Seconds: what a span should take to read. The next one grows accordingly, up to GROWTH times."""

MARKS = 10_000
"""How many are remembered."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Nothing is older; the last span is open, in case it is."""


Span: TypeAlias = Mapping[str, datetime]
"""A condition on a time."""


class Back:
    """Spans of time without gaps: from before `top`, if any, back to `bottom`, if any. Each: its start, its condition.

    The first starts a little before `begin`. One starts at `mark`, if that is on the way; they grow anew from there:
    before a time where nothing happens there may be thousands of documents in one second, and a span that has grown
    long until it comes upon them has them all. The caller reads a span before it asks for the next.
    """

    def __init__(
        self, begin: datetime, top: datetime | None, bottom: datetime | None, mark: datetime | None = None
    ) -> None:
        self._begin = begin
        self._top = top
        self._bottom = bottom
        self._mark = mark
        self.empty = False
        """Said by a caller who reads all that is in a span, and found nothing in the last. How long that took says what
        else the database has to do, and the next one is as much longer as may be: else it would take for ever to come
        past years of nothing on a database that is busy."""

    def __iter__(self) -> Iterator[tuple[datetime | None, Span]]:
        begin, top, bottom, mark = self._begin, self._top, self._bottom, self._mark
        if mark is None or (top is not None and top <= mark) or (bottom is not None and mark <= bottom):
            yield from self._grow(begin, top, bottom)
        else:
            yield from self._grow(begin, top, mark)
            yield from self._grow(mark, mark, bottom)

    def _grow(
        self, begin: datetime, top: datetime | None, bottom: datetime | None
    ) -> Iterator[tuple[datetime | None, Span]]:
        width = FIRST
        low: datetime | None = begin
        while low is not None:
            low = low - width if low - _EPOCH > width else None
            if bottom is not None and (low is None or low < bottom):
                low = bottom
            self.empty, began = False, time.perf_counter()
            yield low, between(low, top)
            if low == bottom:
                return
            width *= GROWTH if self.empty else min(GROWTH, max(1.0, PACE / (time.perf_counter() - began)))
            top = low


def between(low: datetime | None, top: datetime | None) -> Span:
    """At or after `low`, and before `top`."""
    bounds = {"$gte": low, "$lt": top}
    return {operator: at for operator, at in bounds.items() if at is not None}


class Newest:
    """When the newest task of a workspace was submitted, as far as this process knows: a mark for `back`."""

    def __init__(self) -> None:
        self._seen: dict[str, datetime] = {}

    def saw(self, workspace: str, submitted_at: datetime) -> None:
        # Taken out and put in again, so that the first is the one that was not seen for the longest time.
        seen = self._seen.pop(workspace, submitted_at)
        self._seen[workspace] = max(seen, submitted_at)
        if len(self._seen) > MARKS:
            del self._seen[next(iter(self._seen))]

    def gone(self, workspace: str, submitted_at: datetime) -> None:
        """Those that were submitted later have been deleted."""
        if workspace in self._seen:
            self._seen[workspace] = submitted_at

    def of(self, workspace: str) -> datetime | None:
        return self._seen.get(workspace)
