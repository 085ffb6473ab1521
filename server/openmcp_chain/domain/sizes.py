"""About how many bytes a task has in its texts: in UTF-8, and more or less as many in memory."""

from collections.abc import Iterable

from openmcp_chain.domain.task import Event, Task

EVENT = 128
"""Of an event, without the texts in its context."""


def of_entries(task: Task) -> int:
    """Of its metadata and labels."""
    return _bytes(text for entries in (task.metadata, task.labels) for entry in entries.items() for text in entry)


def of_events(events: Iterable[Event]) -> int:
    """Of what happened."""
    return sum(EVENT + _bytes(value for value in event.context.values() if isinstance(value, str)) for event in events)


def _bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode(errors="replace")) for text in texts)
