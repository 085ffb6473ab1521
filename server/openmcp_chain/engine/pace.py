"""How often workers' streams may say something: as often as their plan lets them call, beside what their leases need.

A stream is one call to Envoy, whatever is said on it. So what is said has to wait here until it has its turn, and past
a number of reports that wait, HTTP/2's flow control holds up the worker. Nothing is refused or lost.

That should cost no worker its leases, however many it has, and no task its end. So what a lease needs is not counted,
but bounded by the lease: `GIVEN` reports to begin with, and one more in each of the `NEEDED` parts of the time for
which its worker may be silent; it is told to send a heartbeat in a third. A report under a lease waits no longer than
such a part, behind nothing but what was said before it under the same lease. One more is not counted when the lease
ends: its worker may not know, and have it under way.

A workspace chooses how long its workers may be silent (`heartbeat_timeout`, from a second on). Of less than `SHORTEST`,
what is needed for that is not counted, and the rest is: else whoever chose a second would have no rate.

A worker that comes back to a process which does not know its leases has a first report on each of them to make, in a
hurry. These are not counted either if they prove true. Those that don't have a bucket of their own, of the same rate:
as many pass at once as one worker may have tasks.

Rejected: a cost for each kind of report, since the heartbeats of a thousand tasks would still be too many for a small
plan; to refuse, since every worker in every language would have to deal with that.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from openmcp_chain.domain.plans import Plan
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine.held import Held
from openmcp_chain.engine.sessions import Session

GIVEN = 2
"""Reports under a lease that are not counted, whenever they come: its end, and one more."""
NEEDED = 6
SHORTEST = 10.0
"""Seconds for which a worker may be silent: of less than that, heartbeats are counted."""
CLAIMS = 1000
"""Reports at once of leases that may be the worker's, and ends of leases that it may not have heard of."""
WORKSPACES = 10_000
"""Of so many is it known how much they have said; past it, the one that said something longest ago may begin anew."""


class Rates:
    """A token bucket for each workspace and operator, in this process."""

    def __init__(self, plan: Callable[[Principal], Plan], burst: int = 0) -> None:
        """`burst`: what a bucket has at least, whatever the plan."""
        self._plan = plan
        self._burst = burst
        self._full_at = OrderedDict[str, float]()
        """When each bucket is full again, by the loop's clock; the one that was taken from last at the end."""

    def take(self, principal: Principal) -> float:
        """Takes one; returns for how many seconds it is not there yet. 0 without end for a plan that has no rate."""
        plan = self._plan(principal)
        if not plan.requests_per_second:
            return 0.0
        now, each = asyncio.get_running_loop().time(), 1 / plan.requests_per_second
        full_at = max(now, self._full_at.pop(principal.workspace, now)) + each
        self._full_at[principal.workspace] = full_at
        if len(self._full_at) > WORKSPACES or next(iter(self._full_at.values())) <= now:
            self._full_at.popitem(last=False)
        return max(0.0, full_at - now - max(plan.burst, self._burst) * each)

    def give_back(self, principal: Principal) -> None:
        """What was taken is not needed."""
        plan = self._plan(principal)
        if plan.requests_per_second and principal.workspace in self._full_at:
            self._full_at[principal.workspace] -= 1 / plan.requests_per_second

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more."""
        self._full_at.pop(workspace_id, None)


class Pace:
    """Holds up streams that say too much. One for all of a process's streams."""

    def __init__(self, plan: Callable[[Principal], Plan]) -> None:
        """`plan` says which one a token is limited by."""
        self._plan = plan
        self._said = Rates(plan)
        self._unproven = Rates(plan, burst=CLAIMS)

    async def admit(self, principal: Principal, session: Session, *, claimed: bool) -> None:
        """Returns when what the session's stream says next, under no lease of the session's, has its turn.

        `claimed`: whether it is under one that may be the session's.
        """
        if not self._plan(principal).requests_per_second:
            return
        if claimed:
            if not self._unproven.take(principal):
                return
            self._unproven.give_back(principal)
        if session.spare:
            session.spare -= 1
        elif wait := self._said.take(principal):
            await asyncio.sleep(wait)

    async def admit_under(self, principal: Principal, held: Held, duration: float) -> None:
        """Returns when what is said next under the lease has its turn, in the order of the calls.

        `duration`: for how many seconds its worker may be silent.
        """
        if not self._plan(principal).requests_per_second:
            return
        needed = max(duration, SHORTEST) / NEEDED
        async with held.turn:
            if _spare(held, needed) >= 1:
                held.spare -= 1
                return
            wait = self._said.take(principal)
            if (sooner := (1 - held.spare) * needed) < wait:
                self._said.give_back(principal)
                held.spare -= 1
                wait = sooner
            if wait:
                await asyncio.sleep(wait)

    def proved(self, principal: Principal) -> None:
        """What a lease was claimed to be it is: its report was one of those that leases need."""
        self._unproven.give_back(principal)

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more."""
        for rates in (self._said, self._unproven):
            rates.forget(workspace_id)

    def ended(self, session: Session) -> None:
        """A lease of the session's has ended."""
        session.spare = min(session.spare + 1, CLAIMS)


def _spare(held: Held, needed: float) -> float:
    """How many reports that are not counted the lease has now."""
    now = asyncio.get_running_loop().time()
    held.spare = min(GIVEN, held.spare + (now - held.spare_at) / needed)
    held.spare_at = now
    return held.spare
