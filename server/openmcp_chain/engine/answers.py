"""How much one answer may hold, so that every client can read it and Envoy can make JSON of it."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeAlias

from openmcp_chain.domain import sizes
from openmcp_chain.domain.task import Task

BYTES = 2560 * 1024
"""Of all tasks in an answer, in protobuf encoding. A single one never has more, and gRPC's clients read 4 MiB unless
they are told otherwise. In JSON a byte takes six at most: as the escape of a control character."""
_FRAME = 512
"""Bytes of a task for what has about the same length in all: ids, times, numbers, in JSON the names of fields."""

Ask: TypeAlias = Callable[[int], None]
"""To be asked before anything is read for an answer that will have so many bytes, or more; raises what it would be
refused for."""


def free(_: int) -> None:
    """For answers that are never refused."""


def weight(task: Task) -> int:
    """About how many bytes the task takes in an answer, with what has been read of its payload and its result."""
    texts = (str(task.failure or ""), task.progress.message if task.progress else "", task.cancel or "")
    return given_weight(task) + sizes.of_texts(texts) + len(task.result or b"")


def given_weight(task: Task) -> int:
    """About how many bytes it takes on the way to a worker: the same all its life."""
    return _FRAME + sizes.of_entries(task) + len(task.payload)


def room(weights: Sequence[int], most: int = BYTES, *, first: bool = True) -> int:
    """How many of these, from the first on, fit into `most` bytes. If it is the answer's `first`, one always does."""
    fit = sum(1 for total in accumulate(weights) if total <= most)
    return min(len(weights), max(fit, 1 if first else 0))
