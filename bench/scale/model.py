"""How many servers, shards and Envoys a rate of tasks takes, by the prices that were measured. It is arithmetic.

A task is submitted, waits, is claimed and ends: three changes. Each is named in a signal that every server hears. So of
a core a server has, for tasks of its own, what is left once it has heard of all others': the same at each server,
however many there are. Where nothing is left, more servers carry no more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from openmcp_chain.domain.task import PRIORITIES
from openmcp_chain.engine.looks import RARELY_SECONDS
from openmcp_chain.engine.signals import BEAT_SECONDS, HEARD_A_SECOND

BUSY = 0.6
"""Of a core, at most: what is left is for peaks, and for when a server is gone."""
CHANGES = 3
"""Of a task that waits before it is claimed: each is a write of one document on one shard, and named in a signal."""
WRITES = CHANGES + 1
"""With its deletion, when it has been kept for long enough."""


@dataclass(frozen=True, slots=True)
class Prices:
    """CPU milliseconds of a server, if nothing else is said."""

    busy: Sequence[tuple[float, float]]
    """Of a server that does so many tasks a second, a task, from its submit to its end."""
    follow: float
    """More for a task whose events somebody follows at another server, to its end."""
    envoy: float
    """Of Envoy: a submit by REST."""
    signal: float
    """To hear a signal."""
    changed: float
    """To hear of a task in it that was claimed or has ended."""
    waiting: float
    """To hear of a task in it that is new."""
    idle: float
    """A second, whatever there is to do."""
    document: float
    """Bytes of a task that has ended, without indexes."""

    def task(self, rate: float) -> float:
        """The price of a task at a server that does so many a second: what was measured, and between that a line."""
        for (low, dear), (high, cheap) in pairwise(self.busy):
            if low <= rate <= high:
                return dear + (rate - low) / (high - low) * (cheap - dear)
        return self.busy[0][1] if rate < self.busy[0][0] else self.busy[-1][1]

    @property
    def heard(self) -> float:
        """To hear of another server's task, from its submit to its end."""
        return self.waiting + (CHANGES - 1) * self.changed


@dataclass(frozen=True, slots=True)
class Load:
    """Tasks a second, and which part of them is followed by somebody at another server."""

    tasks: float
    followed: float = 0.1


def left(prices: Prices, tasks: float) -> float:
    """CPU milliseconds a second that a server has for tasks of its own, where all servers together have so many."""
    return BUSY * 1000 - prices.idle - HEARD_A_SECOND * prices.signal - tasks * prices.heard


def each(prices: Prices, followed: float, room: float) -> float:
    """Tasks a second that a server does with so many CPU milliseconds a second: the more, the cheaper."""
    few, many = 0.0, room / prices.busy[-1][1]
    for _ in range(60):
        rate = (few + many) / 2
        if rate * (prices.task(rate) + followed * prices.follow) < room:
            few = rate
        else:
            many = rate
    return few


def servers(prices: Prices, load: Load) -> int | None:
    """How many it takes; None: none are enough."""
    room = left(prices, load.tasks)
    return math.ceil(load.tasks / each(prices, load.followed, room)) if room > 0 else None


def alone(prices: Prices, load: Load) -> int:
    """How many it would take if none had to hear of another's tasks."""
    return math.ceil(load.tasks / each(prices, load.followed, BUSY * 1000 - prices.idle))


def ceiling(prices: Prices) -> float:
    """Tasks a second at which a server has nothing left but to hear of others'."""
    return left(prices, 0) / prices.heard


def cell(prices: Prices, part: float = 0.15) -> float:
    """Tasks a second of servers that hear only each other, of whose time so much goes into hearing of tasks."""
    return part * BUSY * 1000 / prices.heard


def envoys(prices: Prices, calls: float) -> int:
    """How many of two threads each."""
    return math.ceil(calls * prices.envoy / (BUSY * 2 * 1000))


def shards(load: Load, takes: float) -> int:
    """How many, if a primary takes so many writes a second at most, and all have even parts of them."""
    return math.ceil(WRITES * load.tasks / (BUSY * takes))


def told_late(servers: int) -> float:
    """Seconds for which a busy server of so many gathers what it tells next."""
    return (servers - 1) / HEARD_A_SECOND


def beats(servers: int) -> float:
    """Documents a second that the database shows to servers that look who is there."""
    return servers**2 / BEAT_SECONDS


def looks(queues: int) -> float:
    """Queries a second of one server whose workers take of so many quiet queues."""
    return queues * len(PRIORITIES) / RARELY_SECONDS


def kept(prices: Prices, load: Load, days: float) -> float:
    """Bytes of tasks that are kept for so many days after their end."""
    return load.tasks * prices.document * days * 86_400
