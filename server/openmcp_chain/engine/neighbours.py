"""What this process does when another one tells of a change, or may have told of one that was not heard."""

import asyncio
import logging

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Key
from openmcp_chain.engine.dispatch import Dispatcher
from openmcp_chain.engine.events import EventHub
from openmcp_chain.engine.leases import Leases
from openmcp_chain.engine.sweep import Sweep
from openmcp_chain.store.base import Signal

log = logging.getLogger(__name__)

FEW = 100
"""Tasks leased here that are read when something may have been missed; more would hold up what is known to be new."""


class Neighbours:
    """Passes signals on to those whom they concern: subscribers, what waits here, idle workers, holders of leases."""

    def __init__(self, events: EventHub, leases: Leases, dispatcher: Dispatcher, sweep: Sweep) -> None:
        self._events = events
        self._leases = leases
        self._dispatcher = dispatcher
        self._sweep = sweep
        self._looking: set[asyncio.Task[None]] = set()

    def heard(self, signal: Signal) -> None:
        """Takes a signal of another process."""
        for key in signal.changed:
            self._events.hint(key, signal.news.get(key))
            self._dispatcher.changed_elsewhere(key)
            if self._leases.holds(key):
                self._begin_look(key)
        for waiting in signal.waiting:
            self._dispatcher.hint(waiting)

    def concerned(self) -> bool:
        """Whether there is anybody here to pass anything on to."""
        return bool(self._events.open or self._dispatcher.backlogs or self._leases.any)

    def missed(self) -> None:
        """Looks for what others may have changed.

        At tasks that are leased here only if they are few, as where the first worker has just come: of what is to stop,
        heartbeats tell as well.
        """
        self._events.look_again()
        self._sweep.look_again()
        for key in self._leases.few(FEW):
            self._begin_look(key)

    def _begin_look(self, key: Key) -> None:
        looking = asyncio.create_task(self._look(key))
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)

    async def _look(self, key: Key) -> None:
        try:
            await self._leases.look(key)
        except errors.Error as error:
            log.info("hint not followed", extra={"task_id": key.id, "code": error.code})
