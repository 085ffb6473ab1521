"""Event streams: a task's events, those of the past first, then each as it happens, up to the terminal one.

A subscriber registers first and reads the task then, so nothing falls between; what it is woken for is the whole task,
from which it takes the events it has not had yet. So nothing is queued per subscriber, and a wake-up too many or too
few does no harm: the history itself says what is missing. A task may have megabytes of it, so it is let go of once its
events are taken: of one to which nothing happens, a subscriber keeps its place and the version.

Most who follow a task have just submitted it. So a small one that was written here a moment ago is not read for that:
the subscriber begins with what was written, as if it had been there since.

A change made by another server process is read when a signal tells of it. It is also looked for, `poll` seconds after
the last news, and then in pauses that double up to `LONGEST_POLL_SECONDS`: so thousands of streams on which nothing
happens cost next to nothing. When signals may have been missed, all look again.
"""

import asyncio
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Event, Key, Task, View
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.engine.quotas import Streams

POLL_SECONDS = 2.0
LONGEST_POLL_SECONDS = 30.0
RECENT = 1000
"""How many small tasks are remembered that were written here within `poll` seconds, and have not ended."""
SMALL_BYTES, SMALL_ENTRIES = 4096, 8
"""What a small one has at most: of payload; of metadata, and of events."""


class Subscription:
    """One subscriber's place in one task's history; made by `EventHub.subscribe`, used as an async context manager."""

    def __init__(self, hub: "EventHub", key: Key, after: int, limit: int, named: str) -> None:
        self._hub = hub
        self._key = key
        self._limit = limit
        self._after = after
        self._named = named
        self._version = 0
        """The newest that was heard of."""
        self._task: Task | None = None
        """That one, while its events are to be taken; once taken, only if it has ended."""
        self._news = asyncio.Event()
        self._stale = False
        """Whether the task is to be read again."""
        self._pause = hub.poll
        """Seconds until it is looked at again, if no news comes."""

    async def __aenter__(self) -> Self:
        self._hub.add(self, self._key, self._limit)
        try:
            recent = self._hub.recent(self._key)
            if recent is not None and self._after <= len(recent.events):
                self.wake(recent)
            else:
                await self._read()
        except BaseException:
            self._hub.remove(self, self._key)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hub.remove(self, self._key)

    @property
    def task_id(self) -> str:
        return self._key.id

    @property
    def ended(self) -> bool:
        """Whether the terminal event has been given out: nothing will follow."""
        task = self._task
        return task is not None and task.status.terminal and self._after == len(task.events)

    async def next(self, wait: float) -> Sequence[Event]:
        """The events that are new since the last call, waiting up to `wait` seconds for the first: may be none.

        Raises ServerDraining when the server shuts down and everything known has been given out.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while not (events := self._take()) and not self.ended:
            if self._hub.draining:
                raise errors.ServerDraining
            remaining = deadline - loop.time()
            if remaining <= 0:
                break
            try:
                async with asyncio.timeout(min(remaining, self._pause)):
                    await self._news.wait()
                self._pause = self._hub.poll
            except TimeoutError:
                self._stale = True
                self._pause = min(2 * self._pause, LONGEST_POLL_SECONDS)
            self._news.clear()
            if self._stale:
                self._stale = False
                await self._read()
        return events

    async def end(self, wait: float) -> Task:
        """The task once it has ended, or as it is after `wait` seconds. Raises as `next` does."""
        deadline = asyncio.get_running_loop().time() + wait
        while not self.ended:
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                break
            await self.next(remaining)
        return self._task if self._task is not None and self.ended else await self._hub.read(self._key)

    def look(self) -> None:
        """Tells that the task has something new, which is to be read."""
        self._stale = True
        self._news.set()

    def wake(self, task: Task | None) -> None:
        """Tells of the task's newest state, or with None only that something is up."""
        if task is not None and task.version > self._version:
            self._task, self._version = task, task.version
        self._news.set()

    async def _read(self) -> None:
        if await self._hub.is_as_of(self._key, self._version):
            return
        task = await self._hub.read(self._key)
        if self._after > len(task.events):
            raise errors.SequenceOutOfRange(self._named, self._after, len(task.events))
        self.wake(task)

    def _take(self) -> Sequence[Event]:
        task = self._task
        if task is None:
            return ()
        if not task.status.terminal:
            self._task = None
        events = task.events[self._after :]
        self._after += len(events)
        return events


class EventHub:
    """Brings each announced task to those who follow it."""

    def __init__(self, ledger: Ledger, streams: Streams, poll: float = POLL_SECONDS) -> None:
        self.poll = poll
        self.draining = False
        self.came: Callable[[], None] = lambda: None
        """Called when a subscriber has come."""
        self._ledger = ledger
        self._followers: defaultdict[Key, set[Subscription]] = defaultdict(set)
        self._recent: OrderedDict[Key, tuple[float, Task]] = OrderedDict()
        """When each was written, and what; the oldest first."""
        self._streams = streams
        ledger.follow(self._announced)

    def hint(self, key: Key) -> None:
        """Another process has changed the task: those who follow it read it again, and those who will, anew."""
        self._recent.pop(key, None)
        for follower in self._followers.get(key, ()):
            follower.look()

    def look_again(self) -> None:
        """Others may have changed any task."""
        self._recent.clear()
        for key in self._followers:
            self.hint(key)

    def recent(self, key: Key) -> Task | None:
        """What was written of the task, here and just now; others may have changed it since."""
        written_at, task = self._recent.get(key, (-math.inf, None))
        return task if asyncio.get_running_loop().time() - written_at < self.poll else None

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more."""
        for key in [key for key in self._recent if key.workspace == workspace_id]:
            del self._recent[key]

    def _remember(self, task: Task) -> None:
        now = asyncio.get_running_loop().time()
        self._recent.pop(task.key, None)
        if not task.status.terminal and _is_small(task):
            self._recent[task.key] = (now, task)
        while self._recent and (len(self._recent) > RECENT or next(iter(self._recent.values()))[0] <= now - self.poll):
            self._recent.popitem(last=False)

    def _announced(self, _: Task | None, task: Task) -> None:
        self._remember(task)
        for follower in self._followers.get(task.key, ()):
            follower.wake(task)

    def subscribe(self, key: Key, after: int, limit: int, named: str = "after_sequence") -> Subscription:
        """Follows the task's events after sequence number `after`.

        Entering it raises TaskNotFound; SequenceOutOfRange, with the name `named`, if the task has no event `after`;
        TooManyStreams if the workspace has `limit` streams open in this process; ServerDraining.
        """
        return Subscription(self, key, after, limit, named)

    def drain(self) -> None:
        """Ends every subscription once it has given out what is known, and takes no new ones."""
        self.draining = True
        for followers in self._followers.values():
            for follower in followers:
                follower.wake(None)

    @property
    def open(self) -> int:
        """How many subscriptions there are."""
        return sum(map(len, self._followers.values()))

    async def is_as_of(self, key: Key, version: int) -> bool:
        """Whether nothing has happened to the task since this version, if it is one.

        As many subscribers as a plan allows look every few seconds: no more is read for it.
        """
        return version > 0 and await self._ledger.version(key) == version

    async def read(self, key: Key) -> Task:
        """The task as stored now, for a subscription."""
        task = await self._ledger.get(key, View.RESULT)
        if task is None:
            raise errors.TaskNotFound(key.id)
        return task

    def add(self, subscription: Subscription, key: Key, limit: int) -> None:
        """Registers a subscription, within the workspace's limit."""
        if self.draining:
            raise errors.ServerDraining
        self._streams.enter(key.workspace, limit)
        self._followers[key].add(subscription)
        self.came()

    def remove(self, subscription: Subscription, key: Key) -> None:
        """Forgets a subscription."""
        self._streams.leave(key.workspace)
        self._followers[key].discard(subscription)
        if not self._followers[key]:
            del self._followers[key]


def _is_small(task: Task) -> bool:
    return len(task.payload) <= SMALL_BYTES and max(len(task.metadata), len(task.events)) <= SMALL_ENTRIES
