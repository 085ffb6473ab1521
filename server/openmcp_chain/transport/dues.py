"""What answers cost, and what is sent on streams: of each, every 16 KiB is a call.

Envoy counts calls, whatever it costs to make JSON of their answers: 0.4 s of a processor for 2 MiB of small values. At
ten of those a second, the smallest plan held both of its threads. How large an answer is, only the server knows. So it
counts what is over the call that Envoy has counted, by the rate and burst of the token's plan. An answer may be as
large as it is; but whoever owes for it gets no other large one until time has paid. Small ones cost nothing.

Rejected: to wait instead of refusing, since calls that wait would be as many as the plan's calls. A message on a stream
does wait, and holds up its own stream alone. It is charged before it is read, as that is what costs; what a lease needs
is given back.
"""

import asyncio
import math
from collections.abc import Callable

from openmcp_chain.domain import errors
from openmcp_chain.domain.plans import ANSWER_BYTES, REPORT_BYTES, Plan
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine.pace import Rates

LOOK_SECONDS = 0.05
"""Between two looks whether a message may be read."""


class Dues:
    """What each workspace owes, in this process. Not for what streams answer, which Envoy writes at once."""

    def __init__(self, plan: Callable[[Principal], Plan]) -> None:
        """`plan` says which one a token is limited by."""
        self._read = Rates(plan)
        self._leased = Rates(plan)
        self._repeated = Rates(plan)
        self._sent = Rates(plan)

    def read(self, principal: Principal, size: int) -> None:
        """Charges for an answer to a read of so many bytes. Raises RateLimited if it is large, and others are owed."""
        _charge(self._read, principal, size)

    def may_lease(self, principal: Principal) -> None:
        """To be asked before tasks are leased, which are given away then. Raises RateLimited if others are owed."""
        _settle(self._leased, principal)

    def leased(self, principal: Principal, size: int) -> None:
        """Charges for an answer with leased tasks."""
        if cost := _cost(size):
            self._leased.take(principal, cost)

    def repeated(self, principal: Principal, size: int) -> None:
        """The same for one with tasks that were leased to a call before, whose answer may have been lost.

        Raises RateLimited if it is large, and others of this kind are owed: whatever is owed for leases, one is given.
        """
        _charge(self._repeated, principal, size)

    async def send(self, principal: Principal | None, size: int) -> Callable[[], None]:
        """Charges for a message of so many bytes on a stream, before it is read; returns when others are owed no more.

        What is returned is to be called when the message is one that a lease needs: these cost nothing.
        """
        cost = size // REPORT_BYTES
        if principal is None or not cost:
            return _nothing
        while wait := self._sent.owed(principal):  # noqa: ASYNC110 - time pays; and some may be found to be needed
            await asyncio.sleep(min(wait, LOOK_SECONDS))
        self._sent.take(principal, cost)
        return lambda: self._sent.give_back(principal, cost)

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more."""
        for rates in (self._read, self._leased, self._repeated, self._sent):
            rates.forget(workspace_id)


def _nothing() -> None:
    """For what costs nothing."""


def _cost(size: int) -> int:
    """In calls, beside the one that Envoy has counted."""
    return max(0, size - 1) // ANSWER_BYTES


def _charge(rates: Rates, principal: Principal, size: int) -> None:
    if cost := _cost(size):
        _settle(rates, principal)
        rates.take(principal, cost)


def _settle(rates: Rates, principal: Principal) -> None:
    if wait := rates.owed(principal):
        raise errors.RateLimited("answers", math.ceil(wait * 1000) / 1000)  # it is told in whole milliseconds
