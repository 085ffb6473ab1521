"""How much workers' streams may say: what their leases need, and beside it as much as their plan lets them call.

A stream is one call to Envoy, whatever is said on it. What is said under one of its leases never waits: were an end
late, or a heartbeat that it comes behind, its task would run twice. So past the rate something is left out instead:

* the end of an attempt is not counted: with the first that is carried out, the lease is over;
* of heartbeats, those that a lease needs are not counted: `GIVEN`, and one more in each of `NEEDED` parts of the time
  for which its worker may be silent; it is told to send one in a third. Past the rate, one more is answered and no
  more: one before it has just kept the lease. Where the worker wants to be missed in less than `SHORTEST`
  (`heartbeat_timeout`), as many are free as if it were that, and one more is refused;
* progress and lines are counted, since each is written. Progress is left out: newer progress will follow. A line is
  refused, as a call would be.

Of everything together, `HEARD` a second are read of a workspace, and the rest waits on its way.

What is said of no lease of the stream's is held up until it has its turn, and so is what comes behind it. A worker that
comes back to a process which does not know its leases has a first report on each of them to make, in a hurry: these are
not counted if they prove true. Those that don't have a bucket of their own, of the same rate: as many pass at once as
one worker may have tasks. One report more is not counted when a lease ends: its worker may not know, and have it under
way.

Rejected: to hold up what is said under a lease, in its order, however short: ends come behind it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from openmcp_chain.domain.plans import Plan
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine.held import Held
from openmcp_chain.engine.sessions import Session

GIVEN = 2
"""Heartbeats under a lease that are not counted, whenever they come."""
NEEDED = 6
SHORTEST = 10.0
"""Seconds."""
HEARD = 2000
"""Reports a second under leases; of a workspace or operator, in this process."""
CLAIMS = 1000
"""Reports at once of leases that may be the worker's, and ends of leases that it may not have heard of."""
EXACT = 1e-6
"""Seconds: less is what numbers are rounded by."""
WORKSPACES = 10_000
"""Of so many is it known how much they have said; past it, the one that said something longest ago may begin anew."""


class Rates:
    """A token bucket for each workspace and operator, in this process."""

    def __init__(self, plan: Callable[[Principal], Plan], burst: int = 0, rate: int = 0) -> None:
        """`burst`: what a bucket has at least; `rate`: what it has instead of the plan's, if that has one."""
        self._plan = plan
        self._burst = burst
        self._rate = rate
        self._full_at = OrderedDict[str, tuple[float, float]]()
        """When each bucket is full again, by the loop's clock, at which rate; that was taken from last at the end."""

    def take(self, principal: Principal, cost: int = 1) -> float:
        """Takes so many; returns for how many seconds they are not there yet, as `owed` does."""
        rate = self._rate_of(principal)
        if not rate:
            return 0.0
        now = asyncio.get_running_loop().time()
        missing = self._missing(principal, rate, now) + cost
        self._full_at.pop(principal.workspace, None)
        self._full_at[principal.workspace] = now + missing / rate, rate
        if len(self._full_at) > WORKSPACES or next(iter(self._full_at.values()))[0] <= now:
            self._full_at.popitem(last=False)
        return self.owed(principal)

    def owed(self, principal: Principal) -> float:
        """For how many seconds what was taken is not there yet. 0 without end for a plan that has no rate."""
        rate = self._rate_of(principal)
        if not rate or principal.workspace not in self._full_at:
            return 0.0
        burst = max(self._plan(principal).burst, self._burst)
        wait = (self._missing(principal, rate, asyncio.get_running_loop().time()) - burst) / rate
        return wait if wait > EXACT else 0.0

    def give_back(self, principal: Principal, cost: int = 1) -> None:
        """So many that were taken are not needed."""
        rate = self._rate_of(principal)
        if rate and principal.workspace in self._full_at:
            now = asyncio.get_running_loop().time()
            self._full_at[principal.workspace] = now + (self._missing(principal, rate, now) - cost) / rate, rate

    def _rate_of(self, principal: Principal) -> float:
        """0 for a plan that has none."""
        rate = self._plan(principal).requests_per_second
        return (self._rate or rate) if rate else 0

    def _missing(self, principal: Principal, rate: float, now: float) -> float:
        """How many are missing from the bucket: as many as were, whatever its rate is now."""
        full_at, before = self._full_at.get(principal.workspace, (now, rate))
        return max(0.0, full_at - now) * before

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more."""
        self._full_at.pop(workspace_id, None)


class Pace:
    """Says what is left out, and holds up the rest. One for all of a process's streams."""

    def __init__(self, plan: Callable[[Principal], Plan]) -> None:
        """`plan` says which one a token is limited by."""
        self._plan = plan
        self._said = Rates(plan)
        self._unproven = Rates(plan, burst=CLAIMS)
        self._heard = Rates(plan, burst=HEARD, rate=HEARD)

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

    async def hear(self, principal: Principal) -> None:
        """Returns when the next report under a lease may be read."""
        if wait := self._heard.take(principal):
            await asyncio.sleep(wait)

    def takes(self, principal: Principal, held: Held, duration: float, *, ends: bool, writes: bool) -> bool:
        """Whether what is said under the lease may be carried out; if not, it is to be left out.

        `duration`: for how many seconds its worker may be silent. `ends`: it ends the attempt; `writes`: it is progress
        or a line. Else it is a heartbeat.
        """
        if not self._plan(principal).requests_per_second:
            return True
        if ends or (not writes and _spared(held, max(duration, SHORTEST) / NEEDED)):
            return True
        if self._said.take(principal):
            self._said.give_back(principal)
            return False
        return True

    def proved(self, principal: Principal) -> None:
        """What a lease was claimed to be it is: its report was one of those that leases need."""
        self._unproven.give_back(principal)

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more."""
        for rates in (self._said, self._unproven, self._heard):
            rates.forget(workspace_id)

    def ended(self, session: Session) -> None:
        """A lease of the session's has ended."""
        session.spare = min(session.spare + 1, CLAIMS)


def _spared(held: Held, each: float) -> bool:
    """Whether the lease has a heartbeat that is not counted; takes it. It has another after `each` seconds."""
    now = asyncio.get_running_loop().time()
    held.spare = min(GIVEN, held.spare + (now - held.spare_at) / each)
    held.spare_at = now
    if held.spare < 1:
        return False
    held.spare -= 1
    return True
