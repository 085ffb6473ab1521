"""Spans of time, back from the newest: without gaps, and no more of them than it takes."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest

from openmcp_chain.store.mongo import spans
from openmcp_chain.store.mongo.spans import FIRST, GROWTH, Back

NOW = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that takes longer for each span than one should take."""
    monkeypatch.setattr(spans, "PACE", 0.0)


def test_decades_of_nothing_take_a_dozen_spans() -> None:
    """However busy the database is: what it takes long for is not there."""
    back, seen = Back(NOW, NOW, None), 0
    for _ in islice(back, 100):
        back.empty = True
        seen += 1
    assert seen < 15


def test_where_there_is_much_spans_stay_short() -> None:
    """What takes long to read is not followed by more at once; nothing is left out, up to where there is nothing."""
    back, read = Back(NOW, NOW, None), list[spans.Span]()
    for number, (_, span) in enumerate(islice(back, 8)):
        read.append(span)
        back.empty = number > 4
    assert all(later["$gte"] == earlier["$lt"] for later, earlier in pairwise(read))
    widths = [span["$lt"] - span["$gte"] for span in read]
    assert widths[:6] == [FIRST] * 6
    assert widths[6:] == [FIRST * GROWTH, FIRST * GROWTH**2]


def test_a_mark_begins_anew_with_short_spans() -> None:
    """Before it, there may be much."""
    back, widths = Back(NOW, NOW, None, NOW - timedelta(days=1)), dict[datetime, timedelta]()
    for low, span in islice(back, 100):
        back.empty = True
        if low is not None:
            widths[span["$lt"]] = span["$lt"] - low
    assert widths[NOW - timedelta(days=1)] == FIRST
