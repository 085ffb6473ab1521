"""Lets go of ended tasks that had a dedupe_key, once they have been kept for long enough, and of their keys.

Others are deleted by the sweep, all at once. One of these is first marked, so that it can't be tried again; then its
key is free; and then, a while later, it is deleted: a submit that is under way elsewhere, and has seen that the task
has the key, still finds it.
"""

import asyncio
import logging

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.task import Key, Task, View
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.store.base import Store

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
MOST = 1000
"""How many tasks are seen to at once, and how often."""


class Retention:
    """Runs `run_once` every ten seconds."""

    def __init__(self, store: Store, ledger: Ledger, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock

    async def run_once(self) -> int:
        """One round; returns how many tasks it saw to. Raises Unavailable if the database does not answer."""
        keys = await self._store.ended_with_key(self._clock(), MOST)
        gone = await asyncio.gather(*map(self._let_go, keys))
        await self._store.delete_superseded([key for key, over in zip(keys, gone, strict=True) if over])
        return len(keys)

    async def run(self) -> None:
        """Goes on until cancelled."""
        while True:
            seen = 0
            try:
                seen = await self.run_once()
            except errors.Error as error:
                log.warning("retention failed", extra={"code": error.code})
            except Exception:
                log.exception("unforeseen")
            if seen < MOST:
                await asyncio.sleep(INTERVAL_SECONDS)

    async def _let_go(self, key: Key) -> bool:
        """Whether it can be deleted now."""
        task = await self._ledger.get(key, View.OUTLINE)
        if task is None:
            return False
        if not task.superseded:
            try:
                await self._ledger.change(key, self._over)
            except (errors.DedupeKeyTaken, errors.LeaseLost):
                return False  # it is being tried again, or another process has deleted it
        freed = await self._store.free_key(task.held_key, task.id)
        # If it was marked long ago and had its key yet, a process died in between: it stays for another round.
        return task.superseded and not freed

    def _over(self, task: Task) -> Task:
        return transitions.supersede(task, self._clock())
