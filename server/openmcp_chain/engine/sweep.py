"""The sweep: finds in the database what memory does not know. It makes certain what dispatch makes quick.

What a dead process left is of two kinds: leases that run out, and ready tasks that no process has in its backlog. The
second are looked for only where an idle worker waits for them, so that a sweep costs little however large the backlog
is.
"""

import asyncio
import logging
from dataclasses import dataclass

from openmcp_chain.domain import errors
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import Dispatcher
from openmcp_chain.engine.leases import Leases
from openmcp_chain.store.base import Store

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep found."""

    expired: int
    ready: int


class Sweep:
    """Runs `run_once` every second, and at once when `wake` is called."""

    def __init__(self, store: Store, dispatcher: Dispatcher, leases: Leases, clock: Clock) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._leases = leases
        self._clock = clock
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """Sweeps soon rather than at the next interval."""
        self._wanted.set()

    async def run_once(self) -> Swept:
        """One sweep. Raises Unavailable if the database does not answer."""
        now = self._clock()
        expired = await self._store.expired_tasks(now, BATCH)
        results = await asyncio.gather(*map(self._leases.expire, expired), return_exceptions=True)
        for result in results:
            # Another process, or the worker itself, may have been first; anything else is found again next time, and
            # must not keep the others from being swept.
            if isinstance(result, BaseException) and not isinstance(result, errors.Error):
                log.error("unforeseen", exc_info=result)
        found = 0
        for demand in self._dispatcher.demands():
            ready = await self._store.ready_tasks(demand.types, demand.workspace, now, BATCH)
            if len(ready) == BATCH:
                self._dispatcher.more(demand.types)
            for task in ready:
                self._dispatcher.offer(task)
            found += len(ready)
        return Swept(len(expired), found)

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            self._wanted.clear()
            try:
                swept = await self.run_once()
            except errors.Error as error:
                log.warning("sweep failed", extra={"code": error.code})
            except Exception:
                # Whatever it was, leases still run out: the next sweep is due.
                log.exception("unforeseen")
            else:
                if swept.expired:
                    log.info("leases ran out", extra={"tasks": swept.expired})
            try:
                async with asyncio.timeout(INTERVAL_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                continue
