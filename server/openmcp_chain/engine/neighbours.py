"""What this process does when another one tells of a change."""

import asyncio
import logging

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Key
from openmcp_chain.engine.dispatch import Dispatcher
from openmcp_chain.engine.events import EventHub
from openmcp_chain.engine.leases import Leases
from openmcp_chain.store.base import Signal

log = logging.getLogger(__name__)


class Neighbours:
    """Passes signals on to those whom they concern: subscribers, idle workers, holders of leases."""

    def __init__(self, events: EventHub, leases: Leases, dispatcher: Dispatcher) -> None:
        self._events = events
        self._leases = leases
        self._dispatcher = dispatcher
        self._looking: set[asyncio.Task[None]] = set()

    def heard(self, signal: Signal) -> None:
        """Takes a signal of another process."""
        for key in signal.changed:
            self._events.hint(key)
            if self._leases.holds(key):
                looking = asyncio.create_task(self._look(key))
                self._looking.add(looking)
                looking.add_done_callback(self._looking.discard)
        for waiting in signal.waiting:
            self._dispatcher.hint(waiting)

    async def _look(self, key: Key) -> None:
        try:
            await self._leases.look(key)
        except errors.Error as error:
            log.info("hint not followed", extra={"task_id": key.id, "code": error.code})
