"""Tells the other processes on the same database what this one has changed, and hears it from them.

Hints, nothing more: they make quick what the sweep and the reads of event streams make certain. What changes while a
signal is being written goes out together in the next one, so that it costs a write for a batch and not for a task.

A process says nothing while no other wants to be told: it is alone, or nobody is at the others whom it would concern,
no worker, no subscriber. One that wants to be told says so with its beats; and when somebody comes, at once, to those
that listen themselves. Until the others have heard of that, and once more, it looks by itself for what they may have
changed. Who does not want to be told does not listen: on the embedded server every write costs more for each that does.

Every process hears every signal. So each pauses after its own, the longer the more processes there are: what all say
together does not grow with their number. Without that, a dozen would have little time left but to listen.
"""

import asyncio
import logging
import math
import secrets
import zlib
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import timedelta
from itertools import islice

from openmcp_chain.domain import errors, sizes
from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import Key, Status, Stretch, Task, stretch
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.store.base import Signal, Store

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
ALIVE = timedelta(seconds=5)
"""For how long a process counts as alive after its last beat. If clocks differ by more, processes don't see each other,
and find each other's changes by the sweep."""
UNSURE_BEATS = 3
"""For so long after a process has begun to listen, has been late with a beat, or has seen another come or go, there may
be signals that were not heard, or not given."""
LISTENS_SECONDS = 60.0
"""For so long after somebody was here whom signals concern, a process wants to be told: who calls is soon back."""
LATE_SECONDS = 2 * BEAT_SECONDS
"""After so long without a beat, others may take a process for gone, and tell it nothing."""
HEARD_A_SECOND = 100
"""Signals that a process hears of all others together, as long as none has more to tell than goes into one."""
BUSY, BUSY_SECONDS = 4, 0.04
"""A process that has more than so many tasks to tell of after a pause makes the next one so long at least. Of so many
it also tells what has happened to them; of more, who follows one reads that, together with others."""
NEWS_BYTES = 4096
"""Of what has happened to a task, what is told."""
KEYS = 1000
"""In a signal."""
UNTOLD = 10 * KEYS
"""When so many could not be told, the others are left to find more by themselves."""


class Signals:
    """Speaks to, and hears, the other processes."""

    def __init__(self, store: Store, ledger: Ledger, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.process = secrets.token_hex(8)
        self._others: AbstractSet[str] = frozenset()
        self._told: AbstractSet[str] = frozenset()
        """Those of them that want to be told."""
        self._place = 0
        """How many of the others sort before this one."""
        self._unsure = 0
        """For how many beats more."""
        self._beaten_at = -math.inf
        """By the loop's clock."""
        self._listens = False
        """Whether this one wants to be told, as far as others know."""
        self._concerned_at = -math.inf
        """When somebody was here last whom signals concern, by the loop's clock."""
        self._came = asyncio.Event()
        self._changed: dict[Key, Waiting | None] = {}
        """What is to be told."""
        self._news: dict[Key, Stretch] = {}
        """What has happened to those, as long as they are few."""
        self._wanted = asyncio.Event()
        self.heard: Callable[[Signal], None] = lambda _: None
        """Called with each signal of another process."""
        self.missed: Callable[[], None] = lambda: None
        """Called when there may have been signals that were not heard, or not given."""
        self.concerned: Callable[[], bool] = lambda: True
        """Whether somebody is here whom signals concern."""
        ledger.follow(self._announced)

    def turn(self, key: Key) -> float:
        """When it is this process's turn to try for a waiting task, among those on the database: 0 if it is the first.

        Each task has its own order of them, which is the same everywhere. Two that are always after the same tasks
        claim a good part of what they try for in vain.
        """
        others = len(self._others)
        if not others:
            return 0.0
        return (zlib.crc32(key.id.encode()) + self._place) % (others + 1) / (others + 1)

    def listen(self) -> None:
        """Somebody has come whom signals concern."""
        self._concerned_at = asyncio.get_running_loop().time()
        if not self._listens:
            self._came.set()

    async def run(self) -> None:
        """Beats, speaks and listens until cancelled."""
        async with asyncio.TaskGroup() as group:
            speaking = group.create_task(self._speak())
            listening: asyncio.Task[None] | None = None
            try:
                while True:
                    await self._beat()
                    if not (self._listens and self._others):
                        if listening is not None:
                            listening.cancel()
                            listening = None  # once: it may take a while to close its stream
                    elif listening is None or listening.done():
                        listening = group.create_task(self._hear())
                        self._unsure = UNSURE_BEATS
                    if self._unsure:
                        self._unsure -= 1
                        self.missed()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(BEAT_SECONDS):
                            await self._came.wait()
            finally:
                speaking.cancel()
                if listening is not None:
                    listening.cancel()

    async def _beat(self) -> None:
        now, loop = self._clock(), asyncio.get_running_loop()
        self._came.clear()
        if self.concerned():
            self._concerned_at = loop.time()
        listens = loop.time() - self._concerned_at < LISTENS_SECONDS
        begins = listens and not self._listens
        self._listens = listens and not begins  # who comes while it is written must not find that it is said already
        try:
            await self._store.beat(self.process, now, listens=listens)
            self._listens = listens
            if begins:
                self._unsure = UNSURE_BEATS
            late, self._beaten_at = self._beaten_at + LATE_SECONDS, loop.time()
            if self._beaten_at > late:
                self._unsure = UNSURE_BEATS
            found = await self._store.processes(now - ALIVE)
            others = found.keys() - {self.process}
            if self._others != others:
                self._unsure = UNSURE_BEATS  # what one that is gone alone knew of, and what a new one told nobody
                self._place = sum(other < self.process for other in others)
            self._others, self._told = others, {other for other in others if found[other]}
            if self._changed:
                self._wanted.set()
            if begins and others:
                await self._store.publish(Signal(self.process, (), ()))
        except errors.Error as error:
            log.warning("other processes not seen", extra={"code": error.code})
        except Exception:
            log.exception("unforeseen")

    async def _hear(self) -> None:
        try:
            async for signal in self._store.watch():
                if signal.process == self.process:
                    continue
                if signal.changed:
                    self.heard(signal)
                else:
                    self._told |= {signal.process}
        except errors.Error as error:
            log.warning("other processes not heard", extra={"code": error.code})
        except Exception:
            log.exception("unforeseen")

    async def _speak(self) -> None:
        busy = False
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._changed:
                taken = list(islice(self._changed.items(), KEYS))
                for key, _ in taken:
                    del self._changed[key]
                waiting = [hint for _, hint in taken if hint is not None]
                news, self._news = self._news, {}
                try:
                    await self._store.publish(Signal(self.process, [key for key, _ in taken], waiting, news))
                except errors.Error as error:
                    log.warning("other processes not told", extra={"code": error.code})
                    self._tell_again(taken)
                    break
                except Exception:
                    log.exception("unforeseen")
                if len(taken) < KEYS:
                    pause = len(self._others) / HEARD_A_SECOND
                    await asyncio.sleep(max(pause, BUSY_SECONDS) if busy else pause)
                    busy = len(self._changed) > BUSY

    def _tell_again(self, untold: Sequence[tuple[Key, Waiting | None]]) -> None:
        """With the next beat, or what is to be told next, by name; what has changed since is told as it is now."""
        if len(self._changed) < UNTOLD:
            self._changed = {**dict(untold), **self._changed}
            self._news.clear()

    def _announced(self, before: Task | None, task: Task) -> None:
        if not self._told:
            return
        waits = task.status is Status.PENDING
        self._changed[task.key] = (
            Waiting(task.key, task.type, task.priority, task.submitted_at, task.due_at) if waits else None
        )
        if len(self._changed) > BUSY:
            self._news.clear()
        elif before is not None:  # nobody follows a new one
            self._keep_news(task, len(before.events))
        self._wanted.set()

    def _keep_news(self, task: Task, after: int) -> None:
        """With what is to be told of it already."""
        known = self._news.pop(task.key, None)
        news = stretch(task, known.last - len(known.events) if known else after, len(task.events))
        if sizes.of_events(news.events) <= NEWS_BYTES:
            self._news[task.key] = news
