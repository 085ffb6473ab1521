"""Time, injected: every engine part takes a `Clock`, so that tests decide what time it is."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives the time now: UTC, whole milliseconds (what every store keeps)."""


def system() -> datetime:
    """The machine's time."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
