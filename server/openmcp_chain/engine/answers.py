"""How much one answer may hold, so that every client can read it and Envoy can make JSON of it."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

from openmcp_chain.domain.task import Task

BYTES = 2560 * 1024
"""Of all tasks in an answer, in protobuf encoding. A single one never has more, and gRPC's clients read 4 MiB unless
they are told otherwise. In JSON a byte takes six at most: as the escape of a control character."""
_FRAME = 512
"""Bytes of a task for what has about the same length in all: ids, times, numbers, in JSON the names of fields."""
_ENTRY = 6
"""Bytes around a text in a map."""


def weight(task: Task) -> int:
    """About how many bytes the task takes in an answer, with what has been read of its payload and its result."""
    texts = (str(task.failure or ""), task.progress.message if task.progress else "", task.cancel or "")
    return given_weight(task) + _bytes(texts) + len(task.result or b"")


def given_weight(task: Task) -> int:
    """About how many bytes it takes on the way to a worker: the same all its life."""
    texts = (text for entries in (task.metadata, task.labels) for entry in entries.items() for text in entry)
    return _FRAME + _bytes(texts) + len(task.payload)


def _bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode(errors="replace")) + _ENTRY for text in texts)


def room(weights: Sequence[int], most: int = BYTES, *, first: bool = True) -> int:
    """How many of these, from the first on, fit into `most` bytes. If it is the answer's `first`, one always does."""
    fit = sum(1 for total in accumulate(weights) if total <= most)
    return min(len(weights), max(fit, 1 if first else 0))
