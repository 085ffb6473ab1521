"""What hypothesis chooses: moves, and the terms of tasks."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import prod
from typing import Any

from hypothesis import strategies as st
from model.shelf import SERVERS
from support.samples import SECOND

from openmcp_chain.domain import transitions
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Progress, Terms
from openmcp_chain.domain.transitions import Action

MILLISECOND = timedelta(milliseconds=1)
CODES = ("BROKEN", "INPUT_NOT_FOUND", transitions.LEASE_EXPIRED.code)


class Fate(enum.Enum):
    """How far a server comes with what it does."""

    ANSWERS = "it answers"
    DIES = "it dies before it writes"
    MUTE = "it has written, and the answer is lost"


class Upkeep(enum.Enum):
    """What a server does by itself."""

    SWEEP = "ends what is overdue"
    DELETE = "deletes what retention is over for"
    LOOK = "looks for what may run"
    RESTART = "forgets what it saw"


@dataclass(frozen=True, slots=True)
class Move:
    """What a server tries, and how."""

    server: int
    pick: int
    """Which task, and which action; and which lease."""
    aims: bool
    """At a change, by the lease that is held; else it does anything, by this or any lease that ever was."""
    looks: bool
    """It reads the task first."""
    fate: Fate
    then: timedelta | None
    """How much time passes afterwards; None: until something is due."""
    lease: timedelta
    """How long the lease is to last."""
    retryable: bool
    delay: timedelta | None
    code: str
    progress: Progress | None
    text: str
    jitter: float


CHOICES: tuple[Sequence[Any], ...] = (
    SERVERS,
    range(48),
    (True, True, False),
    (True, True, False),
    (Fate.ANSWERS, Fate.ANSWERS, Fate.ANSWERS, Fate.ANSWERS, Fate.MUTE, Fate.DIES),
    (*[timedelta()] * 6, None, SECOND, 10 * SECOND),
    (10 * SECOND, SECOND, 60 * SECOND),
    (True, True, False),
    (None, timedelta(), 5 * SECOND),
    CODES,
    (None, Progress(0.5, "half")),
    ("", "a"),
    (0.0, 0.999),
)
"""For each part of a move, what it may be; what is to be frequent, more than once."""
MANY = prod(map(len, CHOICES))


def _move(number: int) -> Move:
    """One of all moves, drawn as one number: each draw costs hypothesis 0.1 ms.

    It draws small numbers most often; so they are scattered, all but 0, the simplest.
    """
    number = number * 2_654_435_761 % MANY
    parts = []
    for choices in CHOICES:
        number, at = divmod(number, len(choices))
        parts.append(choices[at])
    return Move(*parts)


def milliseconds(least: int, most: int) -> st.SearchStrategy[timedelta]:
    return st.integers(least, most).map(lambda number: number * MILLISECOND)


SIMPLEST = _move(0)
MOVES = st.integers(0, MANY - 1).map(_move)
SPAN = st.sampled_from([None, None, None, 5 * SECOND, 90 * SECOND]) | milliseconds(1, 600_000)
TERMS = st.builds(
    Terms,
    retry=st.builds(
        RetryPolicy,
        milliseconds(0, 10_000),
        st.sampled_from([1.0, 1.5, 10.0]),
        st.just(20 * SECOND),
        st.integers(1, 4),
        st.frozensets(st.sampled_from(CODES), max_size=1),
    ),
    schedule_to_start=SPAN,
    start_to_close=SPAN,
    schedule_to_close=SPAN,
    heartbeat=SPAN,
    # Longer than clocks differ: a key must not be used again by a server that believes to do so sooner.
    retention=st.none() | milliseconds(10_000, 30_000),
)
OFTEN = {
    Action.CLAIM: 8,
    Action.EXTEND: 2,
    Action.NOTE: 3,
    Action.FAIL: 4,
    Action.RELEASE: 2,
    Action.EXPIRE: 2,
    Action.RETRY: 15,
}
"""How much oftener than others an action is chosen, so that lives are long."""
