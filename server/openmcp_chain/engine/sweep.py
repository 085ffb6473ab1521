"""The sweep: finds in the database what memory does not know. It makes certain what dispatch makes quick.

It ends what has run out of time (leases of dead workers, waits that were too long), looks for ready tasks that are in
no backlog here, and deletes what has been kept for long enough.
"""

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from openmcp_chain.domain import errors
from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import Key, Queue
from openmcp_chain.engine.backlog import Backlog, Cursor
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import Dispatcher
from openmcp_chain.engine.ends import Ends
from openmcp_chain.engine.leases import Leases
from openmcp_chain.engine.looks import RARELY_SECONDS, Looks
from openmcp_chain.engine.moments import SHORT
from openmcp_chain.engine.queues import SKEW, Queues
from openmcp_chain.store.base import Store, TooMuch

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
OVERDUE = 1000
"""How many tasks that have run out of time are found at once, of each kind."""
NEWS = timedelta(seconds=2)
"""How long before the last search what is new may have become due: clocks differ, and a write may be late."""
HINTS = 1000
"""How many ready tasks are read at once, at most: twice as many as are needed."""
STEPS = 40
"""How many times in a row one queue is looked at, before the others have their turn."""
QUEUES = 100
"""How many queues are looked at in one sweep."""
AHEAD = timedelta(seconds=RARELY_SECONDS + 15)
"""A look finds what is due by then: until the next one, at the latest."""
DELETE_SECONDS = 10.0
DELETED = 1000
"""How many tasks are deleted at once, and how often."""
FASTER = 4.0
"""A span of time in which little was found is followed by one so many times as long, or if it was read at once."""
LITTLE = 1 / 8
"""Of what a look may find, so much or less is little: if it took long, then not for what was in the span."""
PACE_SECONDS = 0.1
"""How long a span should take to read in which more was found."""
LOOK_SECONDS = 0.25
"""On some servers the cost of a look grows with all that is in the span, and others wait for it meanwhile."""
LONGEST_SECONDS = 4.0
"""The most that a look may take where all is slow."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep found."""

    overdue: int
    ready: int


class Sweep:
    """Does twice a second what `run_once` does, and looks at once where it is wanted."""

    def __init__(self, store: Store, queues: Queues, dispatcher: Dispatcher, leases: Leases, clock: Clock) -> None:
        self._store = store
        self._queues = queues
        self._dispatcher = dispatcher
        self._leases = leases
        self._clock = clock
        self._wanted = asyncio.Event()
        self._looks = Looks()
        self._patience = LOOK_SECONDS
        """How long the next look may take: longer each time that it was too short."""
        self._ends = Ends()
        self._leases_passed = 0
        self._waits_passed = 0
        """How many that have run out of time were gone through since the first: there were more."""
        self._searched_at = clock()
        self._chance = random.Random()  # noqa: S311 - an order, no secret
        self._delete_at = 0.0

    def want(self, queue: Queue, wait: float = 0.0) -> None:
        """Looks at a queue in so many seconds: there may be tasks that are not known here."""
        self._looks.want(queue, asyncio.get_running_loop().time() + wait)
        if not wait:
            self._wanted.set()

    def look_again(self) -> None:
        """Looks at all queues soon: what others have told may not have been heard."""
        self._looks.all_anew(asyncio.get_running_loop().time())

    async def run_once(self) -> Swept:
        """One sweep, to the end of what it has found. Raises Unavailable if the database does not answer."""
        ended = await self._end()
        await self._ends.settle()
        ready = await self._look()
        await self._delete()
        return Swept(ended, ready)

    async def run(self) -> None:
        """Sweeps until cancelled. What has run out of time waits for no look, and no look for that."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_ends())
            group.create_task(self._run_looks())

    async def _run_ends(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                with _survived():
                    ended = await self._end()
                    if ended:
                        log.info("time ran out", extra={"tasks": ended})
                took = loop.time() - began
                # To find thousands has its cost: a search takes half of the time at most.
                await asyncio.sleep(max(INTERVAL_SECONDS - took, took))
        finally:
            self._ends.cancel()

    async def _run_looks(self) -> None:
        loop = asyncio.get_running_loop()
        sweep_at = loop.time()
        while True:
            self._wanted.clear()
            with _survived():
                due = loop.time() >= sweep_at
                if due:
                    sweep_at = loop.time() + INTERVAL_SECONDS
                await self._look()
                if due:  # else there is no more to what it was woken for
                    await self._delete()
            try:
                async with asyncio.timeout_at(sweep_at):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _end(self) -> int:
        """Has ended what has run out of time; returns how many tasks were not being ended already."""
        overdue = [*await self._find_expired(), *await self._find_late()]
        # Other processes have found the same: in the same order, each would come second to half of it.
        self._chance.shuffle(overdue)
        ended = sum(self._ends.want(key, partial(self._leases.expire, key)) for key in overdue)
        ended += sum(self._ends.want(held.key, partial(self._leases.lose, held)) for held in self._leases.silent())
        self._leases.let_go()
        return ended

    async def _find_expired(self) -> Sequence[Key]:
        """Goes through all leases that have run out, a part in each sweep: behind many others', one has its turn."""
        found = await self._store.expired_leases(self._clock(), OVERDUE, self._leases_passed)
        self._leases_passed = self._leases_passed + OVERDUE if len(found) >= OVERDUE else 0
        return found

    async def _find_late(self) -> Sequence[Key]:
        """Goes through all waits that were too long, a part in each sweep; what is new among them comes first.

        So one workspace's hundreds of thousands hold up nobody else's, which come to their end now and then.
        """
        now, since, found = self._clock(), self._searched_at - NEWS, list[Key]()
        if self._waits_passed:
            found += await self._store.late_tasks(now, OVERDUE, since=since, known=self._ends)
        part = await self._store.late_tasks(now, OVERDUE, self._waits_passed, known=self._ends)
        self._searched_at = now
        self._waits_passed = self._waits_passed + OVERDUE if len(part) >= OVERDUE else 0
        return list(dict.fromkeys([*found, *part]))

    async def _look(self) -> int:
        """Looks at the queues whose time has come, from which workers here take; returns how many tasks were new."""
        now, found = asyncio.get_running_loop().time(), 0
        for _ in range(QUEUES):
            planned = self._looks.next(now)
            if planned is None:
                break
            queue, anew = planned
            backlog = self._dispatcher.backlogs.get(queue.type)
            if backlog is None or not self._dispatcher.takes(queue) or not self._goes_on(queue):
                self._looks.drop(queue)  # until somebody wants it
                continue
            try:
                new = await self._look_at(queue, backlog, anew=anew)
            except BaseException:
                self._looks.want(queue, now)
                raise
            self._looks.looked(queue, now, anew=anew, news=new > 0)
            found += new
        return found

    def _goes_on(self, queue: Queue) -> bool:
        return self._queues.knows(queue) and not self._queues.halted(queue)

    async def _look_at(self, queue: Queue, backlog: Backlog, *, anew: bool) -> int:
        """Looks for the first priority first; for what was to be due only later, at that time again."""
        new = 0
        for priority, cursor in backlog.cursors(queue.workspace).items():
            new += await self._look_for(queue, priority, cursor, backlog, anew=anew)
            if cursor.missing is not None and cursor.missing > self._clock():
                self.want(queue, (cursor.missing - self._clock()).total_seconds())
        return new

    async def _look_for(self, queue: Queue, priority: int, cursor: Cursor, backlog: Backlog, *, anew: bool) -> int:
        """Goes on from where the last look ended, the tasks due first first, until there are enough."""
        new, enough = 0, None
        for _ in range(STEPS):
            if not (anew and cursor.missing is None) and not backlog.wants(
                queue.workspace, priority, self._clock(), enough
            ):
                return new
            anew, share = False, backlog.share(queue.workspace)
            ready = await self._ready(queue, priority, cursor, min(HINTS, 2 * share))
            new += sum(map(self._dispatcher.offer_waiting, ready))
            enough = share - 1
        self.want(queue)
        return new

    async def _ready(self, queue: Queue, priority: int, cursor: Cursor, limit: int) -> Sequence[Waiting]:
        """What is due next; moves the cursor behind it.

        Once a span held more than can be read, it is gone through from its beginning by short ones. They grow as long
        as they are read quickly, each by no more than half the way to the end of what was too much: so a crowd is found
        behind years of quiet.
        """
        now, since, missing = self._clock(), max(cursor.since, self._queues.beginning(queue)), cursor.missing
        end = now + AHEAD
        until = end if cursor.width is None else min(end, since + cursor.width)
        if cursor.crowd is not None:
            until = min(until, since + (cursor.crowd - since) / 2)
        span = until - since
        # A task that is turned away from here on moves the cursor back: that wins over what is set below.
        cursor.since, cursor.missing = until, None
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            within = None if span <= SHORT else self._patience
            ready = await self._store.ready_tasks(queue, priority, since, until, limit, within)
        except TooMuch:
            _advance(cursor, since, SHORT, since)
            cursor.crowd = until
            self._patience = min(2 * self._patience, LONGEST_SECONDS)
            # Such a server is still at it. Asked meanwhile, it would be as slow where there is nothing.
            await self._store.ready_tasks(queue, priority, since, since, 1)
            return ()
        except BaseException:
            _advance(cursor, since, cursor.width, missing or since)
            raise
        took = loop.time() - began
        if took < LOOK_SECONDS:
            self._patience = LOOK_SECONDS
        whole = len(ready) < limit
        if not whole:
            first, until = ready[0].due_at, ready[-1].due_at
            width = 2 * (until - first) + timedelta(milliseconds=1)
            cursor.crowd = None
        else:
            quick = len(ready) <= LITTLE * limit or FASTER * took <= PACE_SECONDS
            width = FASTER * span if quick else max(SHORT, span * (PACE_SECONDS / took))
            if cursor.crowd is not None and cursor.crowd - until <= SHORT:
                cursor.crowd = None
        if until < now:
            _advance(cursor, until, width, until)
        else:
            _advance(cursor, now - SKEW, None, None if whole and until == end else until)
        return ready

    async def _delete(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._delete_at:
            deleted = await self._store.delete_ended(self._clock(), DELETED)
            self._delete_at = now if deleted == DELETED else now + DELETE_SECONDS


@contextmanager
def _survived() -> Iterator[None]:
    """Whatever it was, leases still run out: the next turn is due."""
    try:
        yield
    except errors.Error as error:
        log.warning("sweep failed", extra={"code": error.code})
    except Exception:
        log.exception("unforeseen")


def _advance(cursor: Cursor, since: datetime, width: timedelta | None, missing: datetime | None) -> None:
    """Moves the cursor on, unless a task was turned away meanwhile."""
    turned_away = cursor.missing
    cursor.since, cursor.width, cursor.missing = since, width, missing
    if turned_away is not None:
        cursor.miss(turned_away)
