"""Wrong secrets are answered slowly, right ones at once, whatever else goes on.

A lockout would let anybody who knows a workspace's name shut it out. So every secret is looked at, and a right one is
let in as if there were no others. A wrong one waits for its answer: the longer, the more there were of late for that
name. What waits is bounded, for each name and in all; past that a wrong secret is refused at once, with the time to
come back (but for the moment in which those of one name are gathered, so that they share a read). That gives nothing
away: a secret is 256 random bits, and nobody finds one by trying faster.

An answer comes a whole number of `STEP`s after its call. So its time tells neither whether the workspace exists nor how
long the database took to say so.

Left out: a limit for each address, which Envoy has (an address behind a proxy is not ours to see); a count in the
database, which would make each wrong secret a write; a KDF, which would be the lever that slows everybody.
"""

import asyncio
import math
from collections import Counter, OrderedDict
from typing import NoReturn

from openmcp_chain.domain import errors

STEP = 0.1
"""Seconds: a wrong secret's answer takes at least so long."""
FREE = 3
"""Wrong secrets that are answered after one step; each further one takes twice as long as the one before."""
LONGEST = 5.0
"""Seconds. Less than clients wait for a call."""
MOST = FREE + math.ceil(math.log2(LONGEST / STEP))
"""Wrong secrets of a name that are counted; more slow no more."""
FORGET_SECONDS = 20.0
"""In so long one wrong secret is forgotten."""
NAMES = 10_000
"""Of so many names the wrong secrets are counted; past it, the name that had none for longest is forgotten."""
WAITING = 1000
WAITING_OF_NAME = 100
"""Wrong secrets that wait for their answer at a time."""


class SignIns:
    """Counts wrong secrets, and holds up their answers."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By name: how many, and when that was so; the one with the latest last."""
        self._waiting = Counter[str]()

    def crowded(self, name: str) -> bool:
        """Whether there were more wrong secrets of late than somebody would type by mistake."""
        count, at = self._wrong.get(name, (0.0, 0.0))
        return count - (asyncio.get_running_loop().time() - at) / FORGET_SECONDS > FREE

    async def refuse(self, name: str, began: float) -> NoReturn:
        """Answers a wrong secret for this name, whose call began then, by the loop's clock.

        Raises CredentialsInvalid when its time has come; TooManySignIns at once if too many others wait.
        """
        loop = asyncio.get_running_loop()
        delay = self._delay(name, loop.time())
        if self._waiting[name] >= WAITING_OF_NAME or self._waiting.total() >= WAITING:
            raise errors.TooManySignIns
        self._waiting[name] += 1
        try:
            steps = math.ceil(max(delay, loop.time() - began) / STEP)
            await asyncio.sleep(began + steps * STEP - loop.time())
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name]
        raise errors.CredentialsInvalid

    def _delay(self, name: str, now: float) -> float:
        """Counts another one, and says how long it is to wait."""
        count, at = self._wrong.pop(name, (0.0, now))
        count = min(max(0.0, count - (now - at) / FORGET_SECONDS) + 1, MOST)
        self._wrong[name] = (count, now)
        oldest = next(iter(self._wrong.values()))[1]
        if len(self._wrong) > NAMES or now - oldest > MOST * FORGET_SECONDS:
            self._wrong.popitem(last=False)
        return min(STEP * math.pow(2.0, max(0.0, count - FREE)), LONGEST)
