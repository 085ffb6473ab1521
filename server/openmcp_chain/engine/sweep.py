"""The sweep: finds in the database what memory does not know. It makes certain what dispatch makes quick.

It ends what has run out of time (leases of dead workers, waits that were too long), looks for ready tasks that are in
no backlog here, and deletes what has been kept for long enough.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from openmcp_chain.domain import errors
from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import Key, Queue
from openmcp_chain.engine.backlog import Backlog, Cursor
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import Dispatcher
from openmcp_chain.engine.leases import Leases
from openmcp_chain.engine.queues import SKEW, Queues
from openmcp_chain.store.base import Store, TooMuch

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
OVERDUE = 1000
"""How many tasks that have run out of time are seen to at once."""
HINTS = 1000
"""How many ready tasks are read at once, at most: twice as many as are needed."""
STEPS = 40
"""How many times in a row one queue is looked at, before the others have their turn."""
QUEUES = 100
"""How many queues are looked at in one sweep."""
AGAIN_SECONDS = 5.0
"""How often a queue is looked at that should have nothing new: a process may have died with what it alone knew of."""
DELETE_SECONDS = 10.0
DELETED = 1000
"""How many tasks are deleted at once, and how often."""
FASTER = 4
"""A span of time in which little was found is followed by one so many times as long."""
SHORT = timedelta(milliseconds=100)
"""A span as short as this is read to its end, however long that takes."""
LOOK_SECONDS = 0.25
"""On some servers the cost of a look grows with all that is in the span, and others wait for it meanwhile."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep found."""

    overdue: int
    ready: int


class Sweep:
    """Runs `run_once` twice a second, and looks for ready tasks at once when `wake` is called."""

    def __init__(self, store: Store, queues: Queues, dispatcher: Dispatcher, leases: Leases, clock: Clock) -> None:
        self._store = store
        self._queues = queues
        self._dispatcher = dispatcher
        self._leases = leases
        self._clock = clock
        self._wanted = asyncio.Event()
        self._looked: dict[Queue, float] = {}
        self._delete_at = 0.0

    def wake(self) -> None:
        """Looks soon rather than at the next sweep."""
        self._wanted.set()

    async def run_once(self) -> Swept:
        """One sweep. Raises Unavailable if the database does not answer."""
        overdue = await self._store.overdue_tasks(self._clock(), OVERDUE)
        await self._end(overdue)
        reaped = await self._leases.reap()
        ready = await self._look()
        await self._delete()
        return Swept(len(overdue) + reaped, ready)

    async def run(self) -> None:
        """Sweeps until cancelled."""
        loop = asyncio.get_running_loop()
        sweep_at = loop.time()
        while True:
            self._wanted.clear()
            try:
                if loop.time() < sweep_at:
                    await self._look()  # there is no more to what it was woken for
                else:
                    sweep_at = loop.time() + INTERVAL_SECONDS
                    swept = await self.run_once()
                    if swept.overdue:
                        log.info("time ran out", extra={"tasks": swept.overdue})
            except errors.Error as error:
                log.warning("sweep failed", extra={"code": error.code})
            except Exception:
                # Whatever it was, leases still run out: the next sweep is due.
                log.exception("unforeseen")
            try:
                async with asyncio.timeout_at(sweep_at):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _end(self, overdue: Sequence[Key]) -> None:
        results = await asyncio.gather(*map(self._leases.expire, overdue), return_exceptions=True)
        for result in results:
            # Another process, or the worker itself, may have been first; anything else is found again next time, and
            # must not keep the others from being swept.
            if isinstance(result, BaseException) and not isinstance(result, errors.Error):
                log.error("unforeseen", exc_info=result)

    async def _look(self) -> int:
        """Looks at the queues from which workers here take, those not looked at for longest first."""
        now, found = asyncio.get_running_loop().time(), 0
        wanted = [
            (queue, backlog)
            for task_type, backlog in list(self._dispatcher.backlogs.items())
            for queue in self._queues.of_type(task_type)
            if self._wants(queue, backlog, now)
        ]
        wanted.sort(key=lambda entry: self._looked.get(entry[0], 0.0))
        for queue, backlog in wanted[:QUEUES]:
            self._looked[queue] = now
            for priority, cursor in backlog.cursors(queue.workspace).items():
                found += await self._look_at(queue, priority, cursor, backlog)
        for task_type, backlog in self._dispatcher.backlogs.items():
            backlog.behind = any(
                cursor.behind
                for queue in self._queues.of_type(task_type)
                if self._dispatcher.takes(queue) and not self._queues.halted(queue)
                for cursor in backlog.cursors(queue.workspace).values()
            )
        return found

    def _wants(self, queue: Queue, backlog: Backlog, now: float) -> bool:
        if self._queues.halted(queue) or not backlog.short_of(queue.workspace) or not self._dispatcher.takes(queue):
            return False
        behind = any(cursor.behind for cursor in backlog.cursors(queue.workspace).values())
        return behind or now - self._looked.get(queue, 0.0) >= AGAIN_SECONDS

    async def _look_at(self, queue: Queue, priority: int, cursor: Cursor, backlog: Backlog) -> int:
        """Goes on from where the last look ended, the tasks due first first, until there are enough."""
        found = 0
        for _ in range(STEPS):
            share = backlog.share(queue.workspace)
            if backlog.waiting(queue.workspace) >= share:
                cursor.behind = True
                break
            ready = await self._ready(queue, priority, cursor, min(HINTS, 2 * share))
            for task in ready:
                self._dispatcher.offer_waiting(task)
            found += len(ready)
            if not cursor.behind:
                break
        return found

    async def _ready(self, queue: Queue, priority: int, cursor: Cursor, limit: int) -> Sequence[Waiting]:
        """What is due next; moves the cursor behind it.

        A span that holds more than can be read is halved until its beginning can: halves with nothing in them cost next
        to nothing, so a crowd is found behind years of quiet.
        """
        now, since = self._clock(), cursor.since
        until = now if cursor.width is None else min(now, since + cursor.width)
        if cursor.crowd is not None:
            until = min(until, since + (cursor.crowd - since) / 2)
        span = until - since
        # A task that is turned away from here on moves the cursor back: that wins over what is set below.
        cursor.since, cursor.behind = until, False
        try:
            within = None if span <= SHORT else LOOK_SECONDS
            ready = await self._store.ready_tasks(queue, priority, since, until, limit, within)
        except TooMuch:
            _advance(cursor, since, cursor.width, behind=True)
            cursor.crowd = until
            return ()
        except BaseException:
            cursor.since, cursor.behind = min(since, cursor.since), True
            raise
        if len(ready) == limit:
            first, last = ready[0].due_at, ready[-1].due_at
            _advance(cursor, last, 2 * (last - first) + timedelta(milliseconds=1), behind=True)
            cursor.crowd = None
        elif until < now:
            _advance(cursor, until, FASTER * span, behind=True)
            if cursor.crowd is not None and cursor.crowd - until <= SHORT:
                cursor.crowd = None
        else:
            _advance(cursor, now - SKEW, None, behind=False)
        return ready

    async def _delete(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._delete_at:
            self._looked = {queue: looked for queue, looked in self._looked.items() if self._queues.knows(queue)}
            deleted = await self._store.delete_ended(self._clock(), DELETED)
            self._delete_at = now if deleted == DELETED else now + DELETE_SECONDS


def _advance(cursor: Cursor, since: datetime, width: timedelta | None, *, behind: bool) -> None:
    """Moves the cursor on, unless a task was turned away meanwhile."""
    if cursor.behind:
        since = min(since, cursor.since)
    cursor.since, cursor.width, cursor.behind = since, width, behind or cursor.behind
