"""When each queue is to be looked at in the database, so that a sweep goes to those and not through all.

A queue is looked at when somebody wants it, and anew now and then though nobody does: that finds what is scheduled,
before its time, and what no other process has told of. One in which there is nothing new is looked at less and less
often, so a thousand empty queues cost next to nothing; when something may have been missed, all are looked at again.
"""

import heapq
import itertools
from dataclasses import dataclass

from openmcp_chain.domain.task import Queue

AGAIN_SECONDS = 5.0
"""How soon a queue is looked at anew in which there was something new."""
MISSED_SECONDS = 1.0
"""How soon at the earliest when something may have been missed since."""
RARELY_SECONDS = 60.0
"""How soon one in which there was nothing for a long time; each time it is twice as long."""
NEVER = float("inf")


@dataclass(slots=True)
class _Plan:
    at: float
    """When to look at it."""
    anew_at: float
    """When to look at it though nobody knows of anything."""
    interval: float = AGAIN_SECONDS / 2
    """Between this time and the one before."""
    looked_at: float = -NEVER
    """When it was looked at so."""


class Looks:
    """The times, by the loop's clock."""

    def __init__(self) -> None:
        self._plans: dict[Queue, _Plan] = {}
        self._heap: list[tuple[float, int, Queue]] = []
        """Each plan with the time that it had; what has another by now is passed over."""
        self._serial = itertools.count()

    def want(self, queue: Queue, at: float) -> None:
        """Looks at it then, if not sooner; if it is new here, anew."""
        plan = self._plans.setdefault(queue, _Plan(NEVER, at))
        if at < plan.at:
            plan.at = at
            heapq.heappush(self._heap, (at, next(self._serial), queue))

    def next(self, now: float) -> tuple[Queue, bool] | None:
        """A queue whose time has come, and whether to look at it anew. `looked` or `drop` is to follow."""
        while self._heap and self._heap[0][0] <= now:
            at, _, queue = heapq.heappop(self._heap)
            plan = self._plans.get(queue)
            if plan is not None and plan.at == at:
                plan.at = NEVER
                return queue, plan.anew_at <= now
        return None

    def looked(self, queue: Queue, now: float, *, anew: bool, news: bool) -> None:
        """It has been; `news`: whether there was something that was not known."""
        plan = self._plans[queue]
        if anew:
            plan.interval = AGAIN_SECONDS if news else min(2 * plan.interval, RARELY_SECONDS)
            plan.looked_at, plan.anew_at = now, now + plan.interval
        self.want(queue, plan.anew_at)

    def drop(self, queue: Queue) -> None:
        """It is not to be looked at."""
        self._plans.pop(queue, None)

    def all_anew(self, now: float) -> None:
        """Something may have been missed, in whichever queue."""
        for queue, plan in self._plans.items():
            plan.interval = AGAIN_SECONDS / 2
            plan.anew_at = max(now, plan.looked_at + MISSED_SECONDS)  # however often it is said
            self.want(queue, plan.anew_at)
