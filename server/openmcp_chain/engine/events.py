"""Event streams: a task's events, those of the past first, then each as it happens, up to the terminal one.

A subscriber registers first and reads the task then, so nothing falls between; what it is woken for is the whole task,
from which it takes the events it has not had yet. So a wake-up too many or too few does no harm: the history itself
says what is missing. A task may have megabytes of it, and its subscriber's caller need not read: what a subscriber
keeps of events, until they have been sent, is a part, and counted as unread by the workspace; where there is no room, a
small part. Of a task to which nothing happens it keeps its place and the version.

Most who follow a task have just submitted it. So a small one that was written here a moment ago is not read for that:
the subscriber begins with what was written, as if it had been there since; and on an idle system it may have succeeded
by then.

A change made by another server process comes with the signal that tells of it, or is read then. It is also looked for,
`poll` seconds after the last news, and then in pauses that double up to `LONGEST_POLL_SECONDS`; of many followers, so
that all together make `POLLS` a second: so thousands of streams on which nothing happens cost next to nothing. When
signals may have been missed, all look again.
"""

import asyncio
import math
from abc import abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from openmcp_chain.domain import errors, sizes
from openmcp_chain.domain.task import Event, Key, Status, Stretch, Task, View, seen, stretch
from openmcp_chain.engine.ledger import STRETCH, Ledger
from openmcp_chain.engine.queues import SKEW
from openmcp_chain.engine.quotas import Streams
from openmcp_chain.engine.volume import SMALL, Share, Volume

POLL_SECONDS = 2.0
LONGEST_POLL_SECONDS = 30.0
POLLS = 30
"""A second, of all followers of a process together, once there are many. Each costs 0.15 ms, and none finds anything as
long as signals are heard."""
RECENT = 1000
"""How many small tasks are remembered that were written here within `poll` seconds. Not one that failed or was
cancelled: who has had it retried elsewhere, and then waits for it here, is not to be told of its old end."""
STAYS = SKEW + timedelta(seconds=POLL_SECONDS)
"""One that has succeeded is remembered only if it is kept for longer: no other server, by whatever clock, may have
deleted it by now, and made another task of the same request and so of the same id."""
PART_BYTES = 256 * 1024
"""What a subscriber keeps of events, about."""
SMALL_BYTES, SMALL_ENTRIES = 4096, 8
"""What a small one has at most: of payload and of result; of metadata, and of events."""


class Follower:
    """One who follows a task, as an async context manager: hears what has become of it. What it keeps, it decides."""

    def __init__(self, hub: "EventHub", key: Key, limit: int) -> None:
        self._hub = hub
        self._key = key
        self._limit = limit
        self._version = 0
        """The newest that was taken note of."""
        self._news = asyncio.Event()
        self._stale = False
        """Whether the task is to be looked at again."""
        self._changed = False
        """Whether it is known to be another than it was, or to have more: then its version is not asked for before."""
        self._pause = hub.poll
        """Seconds until it is looked at again, if no news comes."""
        self._look_at = asyncio.get_running_loop().time() + hub.poll
        """When that is, by the loop's clock."""

    async def __aenter__(self) -> Self:
        self._hub.add(self, self._key, self._limit)
        try:
            self.wake(self._hub.recent(self._key))
            if not self._version:
                await self._read()
        except BaseException:
            self._hub.remove(self, self._key)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hub.remove(self, self._key)

    def look(self) -> None:
        """Tells that the task may have something new."""
        self._stale = True
        self._news.set()

    def read_again(self) -> None:
        """Tells that the task has something new: to ask for its version first would cost more."""
        self._changed = True
        self.look()

    @abstractmethod
    def hear(self, part: Stretch) -> None:
        """Tells what another process has written of the task: the last of its history, up to its newest event."""

    def wake(self, task: Task | None) -> None:
        """Tells of the task's newest state, or with None only that something is up."""
        if task is not None:
            try:
                self._note(task)
            except errors.Error:
                self._stale = True  # told again when it is read, to whoever waits for it then
        self._news.set()

    def _note(self, task: Task) -> None:
        if task.version > self._version:
            self._take(task)
            self._version = task.version

    @abstractmethod
    def _take(self, task: Task) -> None:
        """Takes what it wants of a state that is new. If it raises, nothing was taken."""

    async def _read(self) -> None:
        if self._changed or not await self._hub.is_as_of(self._key, self._version):
            self._changed = False
            await self._read_anew()

    @abstractmethod
    async def _read_anew(self) -> None:
        """Reads what it wants of the task, and takes it if it is new. Raises TaskNotFound."""

    async def _hear(self, deadline: float) -> bool:
        """Returns when there may be news; false if it is too late for any. Raises ServerDraining, and as reading does.

        `deadline`: by the loop's clock.
        """
        if self._hub.draining:
            raise errors.ServerDraining
        loop = asyncio.get_running_loop()
        if loop.time() >= deadline:
            return False
        try:
            async with asyncio.timeout_at(min(deadline, self._look_at)):
                await self._news.wait()
            self._pause = self._hub.poll
        except TimeoutError:
            if loop.time() < self._look_at:
                return False
            self._stale = True
            self._pause = min(2 * self._pause, LONGEST_POLL_SECONDS)
        self._look_at = loop.time() + max(self._pause, self._hub.open / POLLS)
        self._news.clear()
        if self._stale:
            self._stale = False
            await self._read()
        return True


class Subscription(Follower):
    """One subscriber's place in one task's history, and the events that it has not sent yet.

    Those are counted, where they are not few. There are no more than PART_BYTES of them, or few where there is no room
    for so many: what comes behind stays where it is, to be read when they are sent.
    """

    def __init__(self, hub: "EventHub", key: Key, after: int, limit: int, named: str) -> None:
        super().__init__(hub, key, limit)
        self._after = after
        """The last that was taken."""
        self._named = named
        self._terminal = False
        """Whether the last that was taken is a terminal one."""
        self._more = False
        """Whether there is more than was taken."""
        self._events: tuple[Event, ...] = ()
        """To be given out."""
        self._bytes = self._given = 0
        """Of those and of what was given out last; and of the latter alone."""
        self._counted = 0
        self._share = Share(hub.unread, key.workspace)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        self._events = ()
        self._count(0)

    @property
    def task_id(self) -> str:
        return self._key.id

    @property
    def ended(self) -> bool:
        """Whether the terminal event has been given out: nothing will follow."""
        return self._terminal and not self._events

    @property
    def unsent(self) -> int:
        """Bytes in memory, about, of what was given out last: until the next call of `next` it is not known as sent."""
        return self._given

    async def next(self, wait: float) -> Sequence[Event]:
        """The events that are new since the last call, waiting up to `wait` seconds for the first: may be none.

        What it returned before is kept no more. Raises ServerDraining when the server shuts down and everything that
        is kept has been given out.
        """
        self._count(self._bytes - self._given)
        self._given = 0
        deadline = asyncio.get_running_loop().time() + wait
        while not self._events and not self.ended:
            if self._more:
                self.read_again()
            if not await self._hear(deadline):
                break
        events, self._events = self._events, ()
        self._given = self._bytes
        return events

    def hear(self, part: Stretch) -> None:
        if part.version <= self._version:
            return
        if part.last - len(part.events) <= self._after <= part.last:
            self._take_part(part, more=False)
            self._version = part.version
            self._news.set()
        else:  # what was before has not come, or not been taken
            self.read_again()

    def _take(self, task: Task) -> None:
        part = stretch(task, self._after, STRETCH)
        self._take_part(part, more=part.last < task.events[-1].seq)

    async def _read_anew(self) -> None:
        part = await self._hub.history(self._key, self._after)
        if part.version >= self._version:  # else what is newer has been taken meanwhile
            self._take_part(part, more=len(part.events) == STRETCH)
            self._version = part.version

    def _take_part(self, part: Stretch, *, more: bool) -> None:
        """Takes what fits; `more`: others may follow. Some may have been taken since the part was read."""
        if self._after > part.last and not more:
            raise errors.SequenceOutOfRange(self._named, self._after, part.last)
        room = (PART_BYTES if self._share.fits(PART_BYTES) else SMALL) - self._bytes
        new, size = list[Event](), 0
        for event in part.events:
            if event.seq <= self._after:
                continue
            weight = sizes.in_memory([event])
            if size + weight > room:
                more = True
                break
            new.append(event)
            size += weight
        if new:
            self._events += tuple(new)
            self._after = new[-1].seq
            self._count(self._bytes + size)
        self._more = more
        self._terminal = part.status.terminal and not more

    def _count(self, size: int) -> None:
        """So many bytes are kept from now on."""
        counted = size if size > SMALL else 0
        if counted > self._counted:
            self._share.enter(counted - self._counted)
        elif counted < self._counted:
            self._share.leave(self._counted - counted)
        self._bytes, self._counted = size, counted


class Ending(Follower):
    """One who waits for a task's end, and wants nothing else of it."""

    _ended: Task | None = None

    async def task(self, wait: float) -> Task:
        """The task once it has ended, or as it is after `wait` seconds. Raises ServerDraining, TaskNotFound."""
        deadline = asyncio.get_running_loop().time() + wait
        while self._ended is None and await self._hear(deadline):
            pass
        return self._ended or await self._hub.read(self._key)

    def hear(self, part: Stretch) -> None:
        if part.status.terminal:  # its result is to be read
            self.read_again()
        else:  # it goes on: should the end not be heard, it is looked for soon
            self._version = max(self._version, part.version)
            self._news.set()

    def _take(self, task: Task) -> None:
        self._ended = seen(task, View.RESULT) if task.status.terminal else None

    async def _read_anew(self) -> None:
        self._note(await self._hub.read(self._key))


class EventHub:
    """Brings each announced task to those who follow it."""

    def __init__(self, ledger: Ledger, streams: Streams, unread: Volume, poll: float = POLL_SECONDS) -> None:
        """`unread`: what there is of what callers have not read, among it events."""
        self.poll = poll
        self.unread = unread
        self.draining = False
        self.came: Callable[[], None] = lambda: None
        """Called when a subscriber has come."""
        self._ledger = ledger
        self._followers: defaultdict[Key, set[Follower]] = defaultdict(set)
        self.open = 0
        """How many followers there are."""
        self._recent: OrderedDict[Key, tuple[float, Task]] = OrderedDict()
        """When each was written, and what; the oldest first."""
        self._streams = streams
        ledger.follow(self._announced)

    def hint(self, key: Key, news: Stretch | None = None) -> None:
        """Another process has changed the task: who follows it hears the news or reads it again; who will, reads."""
        self._recent.pop(key, None)
        for follower in self._followers.get(key, ()):
            if news is None:
                follower.read_again()
            else:
                follower.hear(news)

    def look_again(self) -> None:
        """Others may have changed any task."""
        self._recent.clear()
        for followers in self._followers.values():
            for follower in followers:
                follower.look()

    def recent(self, key: Key) -> Task | None:
        """What was written of the task, here and just now; others may have changed it since."""
        written_at, task = self._recent.get(key, (-math.inf, None))
        return task if asyncio.get_running_loop().time() - written_at < self.poll else None

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more."""
        for key in [key for key in self._recent if key.workspace == workspace_id]:
            del self._recent[key]

    def _remember(self, task: Task) -> None:
        now, key, recent = asyncio.get_running_loop().time(), task.key, self._recent
        recent.pop(key, None)
        if _stays(task) and _is_small(task):
            recent[key] = (now, task)
        while recent and (len(recent) > RECENT or next(iter(recent.values()))[0] <= now - self.poll):
            recent.popitem(last=False)

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

    def ending(self, key: Key, limit: int) -> Ending:
        """Follows the task to its end. Entering it raises TaskNotFound, TooManyStreams and ServerDraining likewise."""
        return Ending(self, key, limit)

    def drain(self) -> None:
        """Ends every subscription once it has given out what is known, and takes no new ones."""
        self.draining = True
        for followers in self._followers.values():
            for follower in followers:
                follower.wake(None)

    async def is_as_of(self, key: Key, version: int) -> bool:
        """Whether nothing has happened to the task since this version, if it is one.

        As many subscribers as a plan allows look every few seconds: no more is read for it.
        """
        return version > 0 and await self._ledger.version(key) == version

    async def read(self, key: Key) -> Task:
        """The task as stored now, with its result. Raises TaskNotFound."""
        task = await self._ledger.get(key, View.RESULT)
        if task is None:
            raise errors.TaskNotFound(key.id)
        return task

    async def history(self, key: Key, after: int) -> Stretch:
        """What follows the event `after`, up to STRETCH events. Raises TaskNotFound."""
        part = await self._ledger.history(key, after)
        if part is None:
            raise errors.TaskNotFound(key.id)
        return part

    def add(self, follower: Follower, key: Key, limit: int) -> None:
        """Registers a follower, within the workspace's limit."""
        if self.draining:
            raise errors.ServerDraining
        self._streams.enter(key.workspace, limit)
        self._followers[key].add(follower)
        self.open += 1
        self.came()

    def remove(self, follower: Follower, key: Key) -> None:
        """Forgets a follower."""
        self._streams.leave(key.workspace)
        self.open -= 1
        self._followers[key].discard(follower)
        if not self._followers[key]:
            del self._followers[key]


def _stays(task: Task) -> bool:
    """Whether it is told as it was written, a moment later: what has changed is heard of, or it can't have changed."""
    if task.status is Status.SUCCEEDED:
        return task.due_at - task.updated_at > STAYS
    return not task.status.terminal


def _is_small(task: Task) -> bool:
    content, entries = (task.payload, task.result or b""), (task.metadata, task.events)
    return max(map(len, content)) <= SMALL_BYTES and max(map(len, entries)) <= SMALL_ENTRIES
