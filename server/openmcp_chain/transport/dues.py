"""What large answers cost, and what is said again on streams: of each, every 16 KiB is a call.

Envoy counts calls, whatever it costs to make JSON of their answers: 0.4 s of a processor for 2 MiB of small values. At
ten of those a second, the smallest plan held both of its threads. How large an answer is, only the server knows. So it
counts what is over the call that Envoy has counted, by the rate and burst of the token's plan. An answer may be as
large as it is; but whoever owes for it gets no other large one until time has paid. Small ones cost nothing.

On workers' streams, large ends of leases that have ended already are charged before they are read, which is what costs.
Those of leases that live are read whatever is owed, or their tasks would run again; but who owes for them gets no more
tasks, and they are read slowly.

Rejected: to wait instead of refusing, since calls that wait would be as many as the plan's calls; and on a stream
others come behind.
"""

import math
from collections.abc import Callable
from typing import Literal

from openmcp_chain.domain import errors
from openmcp_chain.domain.plans import ANSWER_BYTES, REPORT_BYTES, Plan
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine.pace import Rates


class Dues:
    """What each workspace owes, in this process."""

    def __init__(self, plan: Callable[[Principal], Plan]) -> None:
        """`plan` says which one a token is limited by."""
        self._read = Rates(plan)
        self._leased = Rates(plan)
        self._repeated = Rates(plan)
        self._said = Rates(plan)
        self._ended = Rates(plan)

    def may_read(self, principal: Principal, size: int) -> None:
        """Raises RateLimited if an answer to a read of so many bytes is large, and others are owed."""
        if _cost(size):
            _settle(self._read, principal)

    def read(self, principal: Principal, size: int) -> None:
        """Charges for an answer to a read."""
        if cost := _cost(size):
            self._read.take(principal, cost)

    def streamed(self, principal: Principal, before: int, size: int) -> int:
        """Charges for so many bytes more on a stream of reads that had `before`; returns how many that makes.

        Raises RateLimited where it becomes large, if others are owed: one that has is not broken off.
        """
        after = before + size
        if cost := _cost(after) - _cost(before):
            if not _cost(before):
                _settle(self._read, principal)
            self._read.take(principal, cost)
        return after

    def may_lease(self, principal: Principal) -> None:
        """To be asked before tasks are leased, which are given away then. Raises RateLimited if others are owed."""
        _settle(self._leased, principal)
        _settle(self._ended, principal, "reports")

    def leased(self, principal: Principal, size: int) -> None:
        """Charges for an answer with leased tasks."""
        if cost := _cost(size):
            self._leased.take(principal, cost)

    def repeated(self, principal: Principal, size: int) -> None:
        """The same for one with tasks that were leased to a call before, whose answer may have been lost.

        Raises RateLimited if it is large, and others of this kind are owed: whatever is owed for leases, one is given.
        """
        if cost := _cost(size):
            _settle(self._repeated, principal)
            self._repeated.take(principal, cost)

    def said_again(self, principal: Principal, size: int) -> None:
        """Charges for a report of so many bytes that ends what has ended, before it is read.

        Raises RateLimited if it is large, and others of this kind are owed.
        """
        if cost := size // REPORT_BYTES:
            _settle(self._said, principal, "reports")
            self._said.take(principal, cost)

    def ended(self, principal: Principal, size: int) -> float:
        """Charges for a report of so many bytes that ends a lease, and is read in any case; returns as `owes` does."""
        self._ended.take(principal, size // REPORT_BYTES)
        return self.owes(principal)

    def owes(self, principal: Principal) -> float:
        """For how many seconds others of this kind are owed: for so long, its workers get no more tasks."""
        return self._ended.owed(principal)

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more."""
        for rates in (self._read, self._leased, self._repeated, self._said, self._ended):
            rates.forget(workspace_id)


def _cost(size: int) -> int:
    """In calls, beside the one that Envoy has counted."""
    return max(0, size - 1) // ANSWER_BYTES


def _settle(rates: Rates, principal: Principal, whose: Literal["answers", "reports"] = "answers") -> None:
    if wait := rates.owed(principal):
        raise errors.RateLimited(whose, math.ceil(wait * 1000) / 1000)  # it is told in whole milliseconds
