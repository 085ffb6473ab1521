"""Workers as dispatch sees them: what each takes, how much it has room for, and who is idle."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from openmcp_chain.domain.task import Call, Queue, Task
from openmcp_chain.engine import answers
from openmcp_chain.engine.volume import Share


@dataclass(frozen=True, slots=True)
class Demand:
    """What idle workers would take: tasks of these types, of one workspace or (None) of any."""

    types: frozenset[str]
    workspace: str | None


class Session:
    """One worker's stream, or one call for tasks."""

    def __init__(
        self,
        *,
        worker: str,
        version: str = "",
        demand: Demand,
        room: int,
        deliver: Callable[[Task], None],
        cancel: Callable[[Task], None] = lambda _: None,
        most_bytes: int | None = None,
        share: Share | None = None,
        call: Call | None = None,
        owes: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`room`: how many tasks it takes now. `deliver` gets each new one; `cancel` each one that is to stop.

        `most_bytes`: what may be on the way to it, but for the first; None: whatever comes. `share`: where that is
        counted, with what is on the way to others. `call`: which one it is, if it is a call that may be repeated.
        `owes`: for how many seconds from now on it is to get nothing.
        """
        self.worker = worker
        self.version = version
        self.call = call
        self.demand = demand
        self.credits = room
        self.owed = 0
        """Credits that it gets when it is heard of."""
        self.heard_at: float | None = None
        """When its stream last said something, or was answered, by the loop's time; None if it has no stream."""
        self.spare = 0
        """Reports of leases that have ended, which are not counted against its workspace's rate; see `pace`."""
        self._coming = 0
        self._none_coming = asyncio.Event()
        self._none_coming.set()
        self.deliver = deliver
        self.cancel = cancel
        self.open = True
        self.owes = owes
        self.rest: asyncio.TimerHandle | None = None
        """What will end its rest, while it gets nothing for what it owes."""
        self.refill: Callable[[Session], None] = lambda _: None
        """Called when there may be room for it again, among others."""
        self._most_bytes = most_bytes
        self._share = share
        self._bytes = 0
        self.full = False
        """Whether there was a task that did not fit."""

    def admit(self, task: Task) -> bool:
        """Gives room to a task that is about to be claimed, if it fits. `release` is to follow."""
        size = self._size(task)
        if not self.fits(size):
            return False
        self._bytes += size
        if self._share is not None:
            self._share.enter(size)
        return True

    def release(self, task: Task) -> None:
        """A task that was admitted won't come, or is on its way no longer."""
        size = self._size(task)
        self._bytes -= size
        self.full = False
        if self._share is not None:
            self._share.leave(size)

    def pass_on(self) -> None:
        """There was no room for what it was to get: others may have some use for what there is."""
        if self._share is not None:
            self._share.pass_on()

    def leave(self) -> None:
        """Nothing more is to come to it."""
        self.open = False
        if self.rest is not None:
            self.rest.cancel()
        if self._share is not None:
            self._share.forget(self._again)

    def end(self) -> None:
        """What was on the way to it is counted no more, nor what may still come."""
        share, self._share = self._share, None
        if share is not None and self._bytes:
            share.leave(self._bytes)

    def fits(self, size: int) -> bool:
        """Whether there is room for so many bytes; if not, nothing else gets it: what is first is not passed over."""
        if self._most_bytes is not None and self._bytes and self._bytes + size > self._most_bytes:
            self.full = True
        elif self._share is not None and not self._share.fits(size):
            self.full = True
            self._share.wait(self._again)
        return not self.full

    def _again(self) -> bool:
        self.full, before = False, self.credits
        if self.open:
            self.refill(self)
        return self.credits < before

    def _size(self, task: Task) -> int:
        return answers.given_weight(task) if self._most_bytes is not None else 0

    def expect(self) -> None:
        """A task is being claimed for it."""
        self._coming += 1
        self._none_coming.clear()

    def expected(self) -> None:
        """A task that was being claimed for it has come, or won't."""
        self._coming -= 1
        if not self._coming:
            self._none_coming.set()

    async def settle(self) -> None:
        """Returns when no task is being claimed for it."""
        await self._none_coming.wait()


_Line: TypeAlias = OrderedDict[Session, None]


class Idle:
    """The open sessions that have room and found nothing: in lines, so that nobody is looked for among all of them."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str | None, str], _Line] = {}
        """By the workspace and the type that they take."""

    def __bool__(self) -> bool:
        return bool(self._lines)

    def first(self, queue: Queue) -> Session | None:
        """Who gets the next task of this queue: a worker of the workspace's own, or else one that takes any's."""
        for workspace in (queue.workspace, None):
            line = self._lines.get((workspace, queue.type))
            if line:
                return next(iter(line))
        return None

    def add(self, session: Session) -> None:
        """Puts it at the end of its lines, unless it is in them."""
        for place in _places(session):
            self._lines.setdefault(place, OrderedDict()).setdefault(session)

    def remove(self, session: Session) -> None:
        """Takes it out of its lines, if it is in them."""
        for place in _places(session):
            line = self._lines.get(place)
            if line is not None:
                line.pop(session, None)
                if not line:
                    del self._lines[place]

    def served(self, session: Session) -> None:
        """It has got a task: to the end of its lines, so that idle workers take turns."""
        for place in _places(session):
            self._lines[place].move_to_end(session)


def _places(session: Session) -> Iterable[tuple[str | None, str]]:
    return ((session.demand.workspace, task_type) for task_type in session.demand.types)
