"""Leases by call: a worker asks for tasks, waits a while, and gets what there is.

With a request_id the call may be repeated: what it granted is kept, before it is answered, for as long as its leases
live. So an answer that was lost on the way hides no task, but those that are paused by then: their leases run out.
Another call with the same request_id is refused. Nothing is
granted any more to a call that its callers have left: what was being claimed by then is its answer.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Call, Failure, Status, Task, View
from openmcp_chain.engine import shared
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import PAUSED, Dispatcher
from openmcp_chain.engine.leases import ANSWER_KEPT, WORKER_GONE, Leases
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.engine.quotas import Streams
from openmcp_chain.engine.sessions import Demand, Session
from openmcp_chain.engine.volume import Share, Volume
from openmcp_chain.store.base import Answer, Granted, Store

LOOK_SECONDS = 0.25
"""A call that does not want to wait gives the database so long to be looked through."""
CALL_FAILED = Failure("CALL_FAILED", "the call that the task was leased to failed before it was answered")
CALL_REPEATED = Failure("CALL_REPEATED", "a call with the same request_id was answered with other tasks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A call for tasks."""

    worker: str
    version: str
    demand: Demand
    most: int
    """How many tasks it takes."""
    wait: float
    """Seconds to wait for the first."""
    request_id: str
    """A UUID, or empty."""
    most_bytes: int
    """What they may have together in an answer; the first may have more."""

    def fingerprint(self) -> bytes:
        """What tells one call from another under the same request_id."""
        types, workspace = sorted(self.demand.types), self.demand.workspace
        words = json.dumps([self.worker, self.version, types, workspace, self.most, self.wait])
        return hashlib.sha256(words.encode()).digest()


class Leased(NamedTuple):
    """What a call gets."""

    tasks: Sequence[Task]
    again: bool
    """Whether they are another call's too, which it repeats: it may itself be repeated."""


@dataclass(slots=True, eq=False)
class _Asked:
    """A call with a request_id that is under way, once for all who make it."""

    enough: asyncio.Event
    """Ends its wait."""
    place: ExitStack
    """What is let go of when it has been answered."""
    answer: asyncio.Task["Leased"]
    callers: int = 0
    left: bool = False
    """Whether its last caller gave up."""


class Leasing:
    """Grants leases to calls."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        dispatcher: Dispatcher,
        leases: Leases,
        streams: Streams,
        unread: Volume,
        clock: Clock,
    ) -> None:
        """`unread` counts what is claimed for calls, until they are answered."""
        self._store = store
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._leases = leases
        self._streams = streams
        self._unread = unread
        self._clock = clock
        self._asked: dict[tuple[str, str, bytes], _Asked] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._waits: set[asyncio.Event] = set()
        """Each ends a wait."""
        self._draining = False

    @asynccontextmanager
    async def lease(
        self, workspace: str, limit: int, ask: Ask, admit: Callable[[], None] = lambda: None
    ) -> AsyncIterator[Leased]:
        """Leased tasks; none if none came in time. The same call gets the same tasks, as far as it still holds them.

        To be left when they are on their way, with nothing waited for in between: till then they are `unread`.
        `admit` is called before tasks are given away, not where they were; what it raises is raised.
        Raises RequestIdReused if the call differs from the one that got tasks with its request_id; TooManyStreams if
        the workspace has `limit` streams and calls like this open in this process.
        """
        with ExitStack() as place:
            place.enter_context(self._streams.hold(workspace, limit))
            if not ask.request_id:
                admit()
                tasks = await self._lease(workspace, ask, asyncio.Event(), place)
                yield Leased(await self._let_go(tasks), again=False)
                return
            asked, again = await self._join(workspace, ask, admit)
            try:
                # One caller who gives up must not end it for the others.
                answer = await asyncio.shield(asked.answer)
                yield Leased(answer.tasks, again or answer.again)
            finally:
                asked.callers -= 1
                if not asked.callers and asked.answer.done():
                    asked.place.close()
                elif not asked.callers:
                    asked.left = True
                    asked.enough.set()
                    # What goes on without the caller keeps its place.
                    asked.place.push(place.pop_all())
                    asked.answer.add_done_callback(lambda _: asked.place.close())

    def drain(self) -> None:
        """Ends every wait, and lets no new one begin."""
        self._draining = True
        for enough in self._waits:
            enough.set()

    async def settle(self) -> None:
        """Returns when no call is under way."""
        while pending := {*(asked.answer for asked in self._asked.values()), *self._background}:
            await asyncio.wait(pending)

    async def _join(self, workspace: str, ask: Ask, admit: Callable[[], None]) -> tuple[_Asked, bool]:
        """The same call of others that is under way, or a new one; and whether it is another's."""
        key = workspace, ask.request_id, ask.fingerprint()
        while (asked := self._asked.get(key)) is not None and asked.left:
            await asyncio.wait([asked.answer])
        again = asked is not None
        if asked is None:
            enough, place = asyncio.Event(), ExitStack()
            once = self._lease_once(workspace, ask, admit, enough, place)
            asked = self._asked[key] = _Asked(enough, place, shared.begin(once))
            asked.answer.add_done_callback(lambda _: self._asked.pop(key, None))
        asked.callers += 1
        return asked, again

    async def _lease_once(
        self, workspace: str, ask: Ask, admit: Callable[[], None], enough: asyncio.Event, place: ExitStack
    ) -> Leased:
        call = Call(workspace, f"lease/{ask.request_id}")
        recorded = (await self._store.recorded_calls([call])).get(call)
        if recorded is None:
            if enough.is_set():
                return Leased((), again=False)
            admit()
            tasks = await self._lease(workspace, ask, enough, place, call)
            if not tasks:
                return Leased(tasks, again=False)
            granted = tuple(Granted(task.key, task.lease.token if task.lease else "") for task in tasks)
            answer = Answer(ask.fingerprint(), granted)
            expire_at = max(task.due_at for task in tasks) + ANSWER_KEPT
            try:
                recorded = await self._store.record_call(*call, answer, expire_at)
            except BaseException:
                for task in tasks:
                    self._spawn(task, CALL_FAILED)
                raise
            if recorded == answer:
                return Leased(await self._let_go(tasks), again=False)
            # The same call went to another process, or another call came under its request_id, which was first.
            await asyncio.gather(*(self._leases.give_back(task, CALL_REPEATED) for task in tasks))
        if recorded.fingerprint != ask.fingerprint():
            raise errors.RequestIdReused
        found = await asyncio.gather(*(self._ledger.get(one.key, View.FULL) for one in recorded.granted))
        held = [
            task
            for one, task in zip(recorded.granted, found, strict=True)
            if task is not None
            and task.status is Status.RUNNING
            and task.lease is not None
            and task.lease.token == one.token
            # It may not have gone to its worker yet. If it has, it is being worked on, and is not given back.
            and await self._dispatcher.lets_go(task)
            and task.due_at > self._clock()
        ]
        return Leased(held, again=True)

    async def _lease(
        self, workspace: str, ask: Ask, enough: asyncio.Event, place: ExitStack, call: Call | None = None
    ) -> Sequence[Task]:
        """Joins as a worker that takes so many tasks, until the first have come, or there is no more time: `enough`.

        They are `unread` until the `place` is left.
        """
        tasks: list[Task] = []
        closed = False

        def deliver(task: Task) -> None:
            if closed:
                self._spawn(task, WORKER_GONE)
                return
            tasks.append(task)
            enough.set()

        session = Session(
            worker=ask.worker,
            version=ask.version,
            demand=ask.demand,
            room=ask.most,
            deliver=deliver,
            most_bytes=ask.most_bytes,
            share=Share(self._unread, workspace),
            call=call,
        )
        place.callback(session.end)
        self._dispatcher.join(session)
        try:
            await self._wait(enough, ask.wait)
            self._dispatcher.leave(session)
            await session.settle()  # what is being claimed for it comes as well
        except BaseException:
            closed = True
            for task in tasks:
                self._spawn(task, WORKER_GONE)
            raise
        finally:
            closed = True
            self._dispatcher.leave(session)
            self._leases.left(session)
        return tasks

    async def _let_go(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Those that may still go to their worker; the others are given back, unless their leases have ended."""
        allowed: list[Task] = []
        left = list(tasks)
        try:
            while left:
                if await self._dispatcher.lets_go(left[0]):
                    allowed.append(left[0])
                else:
                    self._spawn(left[0], PAUSED)
                del left[0]
            return list(filter(self._leases.lives, allowed))
        except BaseException:
            for task in (*allowed, *left):
                self._spawn(task, WORKER_GONE)
            raise

    async def _wait(self, enough: asyncio.Event, seconds: float) -> None:
        """Returns when it is enough, or after `seconds`; what is at hand is waited for in any case."""
        if self._draining:
            return
        self._waits.add(enough)
        try:
            async with asyncio.timeout(max(seconds, LOOK_SECONDS)):
                await enough.wait()
        except TimeoutError:
            return
        finally:
            self._waits.discard(enough)

    def _spawn(self, task: Task, failure: Failure) -> None:
        giving_back = asyncio.create_task(self._leases.give_back(task, failure))
        self._background.add(giving_back)
        giving_back.add_done_callback(self._background.discard)
