"""About how many bytes a task has in its texts: in UTF-8, and more or less as many in memory."""

import sys
from collections.abc import Iterable

from openmcp_chain.domain.task import Event, Task

AROUND = 6
"""Of what is around a text."""
EVENT = 128
"""Of an event, without the texts in its context."""
EVENT_MEMORY = 400
"""The same in memory: measured, of one with a line."""


def of_entries(task: Task) -> int:
    """Of its metadata and labels."""
    return sum(of_texts(entries) + of_texts(entries.values()) for entries in (task.metadata, task.labels) if entries)


def of_submit(task: Task) -> int:
    """Of what it is submitted with."""
    return len(task.payload) + of_entries(task)


def of_events(events: Iterable[Event]) -> int:
    """Of what happened."""
    contexts = [event.context.values() for event in events]
    return len(contexts) * EVENT + of_texts(value for told in contexts for value in told if isinstance(value, str))


def in_memory(events: Iterable[Event]) -> int:
    """What events take in memory, where one wide character makes its whole text wide."""
    return sum(EVENT_MEMORY + sum(map(sys.getsizeof, event.context.values())) for event in events)


def of_texts(texts: Iterable[str]) -> int:
    """Of texts, each in a field or a map."""
    size = 0
    for text in texts:
        # To encode one makes another: most need not be.
        size += AROUND + (len(text) if text.isascii() else len(text.encode(errors="replace")))
    return size
