"""Brings ready tasks and idle workers together, in memory, by demand.

A worker's session brings credits; a task takes one. Whoever comes second, task or credit, finds the other waiting. The
claim itself is a guarded write, so two processes, or a stale hint, cost a lost claim and never a second run.

A task that finds a worker waiting when it is submitted is inserted already leased: one write instead of two.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from openmcp_chain.domain import errors, sizes, transitions
from openmcp_chain.domain.queue import QueueState, Waiting
from openmcp_chain.domain.task import Failure, Key, Lease, Queue, Status, Task, View
from openmcp_chain.engine import answers, shared, tracing
from openmcp_chain.engine.backlog import LAG, SMALL_BYTES, Backlog
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.demands import Demands
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.engine.queues import Queues
from openmcp_chain.engine.sessions import Demand, Idle, Session

log = logging.getLogger(__name__)

LATER = 100_000
"""How many tasks wait in memory for a time to come; more are left to the sweep."""
DOUBT_SECONDS = 2.0
"""Between what others have claimed and a look for what of it may wait all the same; for all of it one."""
LATER_SECONDS = 3600.0
"""How far ahead; the sweep finds what is farther, before its time."""
STORED = 1.5
"""A lease is stored for so many times the time that its worker may be silent; see `leases`."""
REST_SECONDS = 5.0
"""How long a session that owes is left alone before it is asked again: its plan may be another by then."""
PAUSED = Failure("TYPE_PAUSED", "the type was paused, or its workspace disabled, before the worker got the task")


class Holder(Protocol):
    """Keeps track of granted leases: `engine.leases`."""

    def granted(self, task: Task) -> None:
        """The task was claimed: what becomes of it from now on is heard of, before its worker has it."""
        ...

    def deliver(self, task: Task, session: Session) -> bool:
        """The session gets the task, and is told if that was cancelled meanwhile; unless it has ended (False)."""
        ...

    async def give_back(self, task: Task, failure: Failure) -> None:
        """The task was claimed, and its worker does not get it after all. It need not have its events."""
        ...


class _Claimed(NamedTuple):
    """A task on the way to the worker that it was claimed for."""

    task: Task
    """Without its events: it may wait for long, and they are not counted with what waits."""
    ready: datetime
    """Since when it waited for a worker."""


class _NoRoom(Exception):
    """The session has no room for a task of this size (0: it is not known)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class Dispatcher:
    """The meeting place of tasks and sessions."""

    def __init__(
        self,
        ledger: Ledger,
        queues: Queues,
        *,
        clock: Clock,
        lease_duration: timedelta,
        weight: Callable[[str], int] = lambda _: 1,
    ) -> None:
        self._ledger = ledger
        self._queues = queues
        self._clock = clock
        self.standard_lease = lease_duration
        """How long a worker may be silent on a task that does not say."""
        self.look: Callable[[Queue, float], None] = lambda _, __: None
        """Called when a look in the database may find tasks of a queue, in so many seconds (see `sweep`)."""
        self.turn: Callable[[Key], float] = lambda _: 0.0
        """When it is this process's turn to try for a task: 0 if it is first, less than 1 for all (see `signals`)."""
        self.came: Callable[[], None] = lambda: None
        """Called when a worker has come."""
        self.holder: Holder
        self.types = tracing.Types()
        self._demands = Demands(weight)
        self._idle = Idle()
        self._claiming: set[Key] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._doubted: dict[tuple[Queue, int], datetime] = {}
        """From when on there may be tasks that wait, of those that were let go of since others had changed them."""
        self._later: dict[Key, tuple[datetime, asyncio.TimerHandle]] = {}
        """When each task that waits for its time is due, and what will offer it then."""
        queues.changed = self._queue_changed
        queues.forgotten = self._queue_forgotten

    def lease_duration(self, task: Task) -> timedelta:
        """How long a worker may be silent on this task."""
        return task.terms.heartbeat or self.standard_lease

    # --- workers

    def join(self, session: Session) -> None:
        """A worker has come."""
        session.refill = self._feed
        self.came()
        if self._demands.join(session.demand):
            self._look_for(session.demand)
        self._feed(session)

    def leave(self, session: Session) -> None:
        """A worker has gone, or wants no more. Later calls do nothing."""
        if not session.open:
            return
        session.leave()
        self._demands.leave(session.demand)
        self._idle.remove(session)

    def credit(self, session: Session) -> None:
        """The session has room for one task more."""
        session.credits += 1
        if session.open:
            self._feed(session)

    def heard(self, session: Session) -> None:
        """The session's worker has said something over its stream, or is answered, for which it may have waited."""
        session.heard_at = asyncio.get_running_loop().time()
        if session.owed:
            session.credits += session.owed
            session.owed = 0
            if session.open:
                self._feed(session)

    def demands(self) -> Collection[Demand]:
        """What the workers here take, each once."""
        return self._demands.present

    def takes(self, queue: Queue) -> bool:
        """Whether a worker here takes tasks of this queue, or did lately."""
        return self._demands.cover(queue)

    @property
    def backlogs(self) -> Mapping[str, Backlog]:
        """What waits in memory, by type."""
        return self._demands.backlogs

    # --- tasks

    def offer(self, task: Task) -> None:
        """A task has changed: if it is PENDING, it is there now, or from its `due_at` on."""
        self._forget_later(task.key)
        if task.status is Status.PENDING and task.type in self.backlogs:
            kept, size = None, 0
            if len(task.events) == 1:  # it is new: only then it has its payload
                kept, size = (task, 0) if _small(task) else (None, answers.given_weight(task))
            self.offer_waiting(Waiting(task.key, task.type, task.priority, task.submitted_at, task.due_at, kept, size))

    def offer_waiting(self, task: Waiting) -> bool:
        """The same, for a task of which only this is known. Returns whether it is new here, and kept."""
        backlog = self.backlogs.get(task.type)
        if backlog is None or task.key in self._claiming:
            return False
        wait = (task.due_at - self._clock()).total_seconds()
        if wait > 0:
            return self._keep_for_later(task, wait)
        if self._queues.halted(task.queue):
            backlog.missing(task.key.workspace, task.priority, task.due_at)
            return False
        session = self._first_idle(task.queue)
        if session is None:
            return self._demands.add(task, self.turn(task.key) * LAG.total_seconds())
        self._spend(session)
        self._start_claim(task, session)
        return True

    def changed_elsewhere(self, key: Key) -> None:
        """Another process has changed a task: what is known of it here is out of date.

        Or not: a signal may come late, when the task waits again. So there is a look for such a while later.
        """
        gone = self._demands.remove(key)
        if gone is None:
            return
        self._look_if_wanted(gone.queue)
        if not self._doubted:
            asyncio.get_running_loop().call_later(DOUBT_SECONDS, self._look_for_doubted)
        place = gone.queue, gone.priority
        self._doubted[place] = min(gone.due_at, self._doubted.get(place, gone.due_at))

    def hint(self, task: Waiting) -> None:
        """Another process has a PENDING task: it goes to an idle worker here, or waits here for its workspace's turn.

        Unless it is left to that process, until it is its turn here as well.
        """
        backlog = self.backlogs.get(task.type)
        if backlog is None:
            return
        if task.due_at > self._clock() or self._idle.first(task.queue) is not None or backlog.heeds(task):
            self.offer_waiting(task)
        else:
            self._missing(task.queue, task.priority, task.due_at)

    def reserve(self, task: Task) -> tuple[Session, Task] | None:
        """Takes an idle worker for a task that is not stored yet; returns it, and the task leased to it.

        The caller stores the task and then calls `deliver`, or `give_back` if it was not stored.
        """
        if not self._idle or task.due_at > self._clock() or self._queues.halted(task.queue):
            return None
        while (session := self._first_idle(task.queue)) is not None:
            try:
                leased = self._leased(task, session)
            except errors.LeaseLost:  # its time is up before it began
                return None
            if session.admit(leased):
                self._spend(session)
                session.expect()
                return session, leased
            self._idle.remove(session)
        return None

    async def deliver(self, session: Session, task: Task) -> None:
        """Hands a claimed task to the worker, even one that left meanwhile; unless its queue was halted."""
        await self._hand_over(session, self._granted(task))

    def _granted(self, task: Task) -> _Claimed:
        self.holder.granted(task)
        return _Claimed(replace(task, events=()), tracing.ready(task))

    async def _hand_over(self, session: Session, claimed: _Claimed) -> None:
        task = claimed.task
        allowed = await self.lets_go(task)
        if not allowed or not self.holder.deliver(task, session):
            self.give_back(session, task)
            if not allowed:
                await self.holder.give_back(task, PAUSED)
            return
        if session.demand.workspace is None:
            self.types.operated(task.type)
        tracing.record_wait(task, claimed.ready, self.types)
        session.expected()

    async def lets_go(self, task: Task) -> bool:
        """Whether a claimed task may go to its worker now.

        Asked again by whoever sends it, as the last thing before: this process may have been stopped meanwhile.
        """
        return await self._queues.certain() and not self._queues.halted(task.queue)

    def sent(self, session: Session, task: Task) -> None:
        """A task that was delivered is on its way to the worker no longer: others have room to follow."""
        full = session.full
        session.release(task)
        if full and session.open:
            self._feed(session)

    def give_back(self, session: Session, task: Task | None = None) -> None:
        """The worker does not get what was to be its own after all; `task`, if it has room for that already."""
        if task is not None:
            session.release(task)
        self.credit(session)
        session.expected()

    async def settle(self) -> None:
        """Returns when no claim is under way."""
        while self._background:
            await asyncio.wait(self._background)

    # --- inside

    def _leased(self, task: Task, session: Session) -> Task:
        now = self._clock()
        expires_at = now + STORED * self.lease_duration(task)
        lease = Lease(secrets.token_urlsafe(16), session.worker, expires_at, call=session.call)
        return transitions.claim(task, lease, now, session.version)

    def _spend(self, session: Session) -> None:
        """Takes one credit of an idle session."""
        session.credits -= 1
        if session.credits > 0:
            self._idle.served(session)
        else:
            self._idle.remove(session)

    def _first_idle(self, queue: Queue) -> Session | None:
        """Who gets the next task of this queue."""
        while (session := self._idle.first(queue)) is not None and self._rests(session):
            self._idle.remove(session)
        return session

    def _rests(self, session: Session) -> bool:
        """Whether the session gets nothing for a while; it is fed when that is over."""
        if session.rest is None and (wait := session.owes()):
            session.rest = asyncio.get_running_loop().call_later(min(wait, REST_SECONDS), self._rested, session)
        return session.rest is not None

    def _rested(self, session: Session) -> None:
        session.rest = None
        self._feed(session)

    def _feed(self, session: Session) -> None:
        """Gives the session what waits for it; puts it in line if it could take more."""
        turns = self._demands.turns(session.demand)
        while session.credits > 0 and not session.full and not self._rests(session):
            queue = turns.next()
            if queue is None:
                self._idle.add(session)
                break
            session.credits -= 1
            self._start_claim(turns.take(queue), session)
            self._look_if_wanted(queue)

    def _start_claim(self, task: Waiting, session: Session) -> None:
        session.expect()
        self._claiming.add(task.key)
        claim = shared.alone(self._claim(task, session))
        self._background.add(claim)
        claim.add_done_callback(self._background.discard)

    async def _claim(self, waiting: Waiting, session: Session) -> None:
        claimed, fits = None, True
        try:
            claimed = await self._try_claim(waiting, session)
        except _NoRoom as no_room:
            waiting, fits = replace(waiting, size=no_room.size), False
        except errors.LeaseLost:
            pass  # it was claimed, cancelled or timed out: not ours
        except errors.Error as error:
            # The task is safe in the database; the sweep finds it when the database answers again.
            told = {"workspace": waiting.key.workspace, "task_id": waiting.key.id, "code": error.code}
            log.warning("claim not written", extra=told)
            self._missing(waiting.queue, waiting.priority, waiting.due_at)
        except Exception:
            log.exception("unforeseen", extra={"workspace": waiting.key.workspace, "task_id": waiting.key.id})
            self._missing(waiting.queue, waiting.priority, waiting.due_at)
        finally:
            self._claiming.discard(waiting.key)
        if claimed is not None:
            await self._hand_over(session, claimed)
        else:
            if not fits:
                self._idle.remove(session)
                self.offer_waiting(waiting)
            # The worker must not wait for this one for ever.
            self.give_back(session)
            if not fits:
                session.pass_on()

    async def _try_claim(self, waiting: Waiting, session: Session) -> _Claimed:
        """Raises _NoRoom before anything is written; where the size is known, before anything is read."""
        if waiting.task is None and (session.full or not session.fits(waiting.size)):
            raise _NoRoom(waiting.size)
        admitted: Task | None = None

        def claim(task: Task) -> Task:
            nonlocal admitted
            if admitted is None:
                if not session.admit(task):
                    raise _NoRoom(answers.given_weight(task))
                admitted = replace(task, events=())
            return self._leased(task, session)

        try:
            # What waited here may be out of date: cancelled and retried meanwhile, it is as ready as before.
            return self._granted(await self._ledger.change(waiting.task or waiting.key, claim, View.WHOLE))
        except BaseException:
            if admitted is not None:
                session.release(admitted)
            raise

    def _missing(self, queue: Queue, priority: int, due_at: datetime) -> None:
        """The database has a task that is not here."""
        backlog = self.backlogs.get(queue.type)
        if backlog is not None:
            backlog.missing(queue.workspace, priority, due_at)
            self._look_if_wanted(queue)

    def _look_for_doubted(self) -> None:
        doubted, self._doubted = self._doubted, {}
        for (queue, priority), due_at in doubted.items():
            self._missing(queue, priority, due_at)

    def _look_if_wanted(self, queue: Queue) -> None:
        if self.backlogs[queue.type].wants_any(queue.workspace, self._clock()):
            self.look(queue, 0.0)

    def _look_for(self, demand: Demand) -> None:
        """Nobody has looked lately for what there is for such workers."""
        for task_type in demand.types:
            for queue in self._queues.of_type(task_type):
                if demand.workspace in (None, queue.workspace):
                    self.look(queue, 0.0)

    def _keep_for_later(self, task: Waiting, wait: float) -> bool:
        if task.key in self._later and self._later[task.key][0] == task.due_at:
            return False
        self._forget_later(task.key)
        if wait > LATER_SECONDS:
            return False
        if len(self._later) >= LATER:
            self.backlogs[task.type].missing(task.key.workspace, task.priority, task.due_at)
            self.look(task.queue, wait)
            return False
        timer = asyncio.get_running_loop().call_later(wait, self._offer_later, replace(task, task=None))
        self._later[task.key] = task.due_at, timer
        return True

    def _forget_later(self, key: Key) -> None:
        """The task is due at another time by now, or not at all."""
        if later := self._later.pop(key, None):
            later[1].cancel()

    def _offer_later(self, task: Waiting) -> None:
        del self._later[task.key]
        if self._queues.knows(task.queue):
            self.offer_waiting(task)

    def _queue_changed(self, state: QueueState) -> None:
        backlog = self.backlogs.get(state.queue.type)
        if backlog is None:
            return
        if state.halted:
            backlog.drop(state.queue.workspace)
        else:
            self.look(state.queue, 0.0)

    def _queue_forgotten(self, queue: Queue) -> None:
        backlog = self.backlogs.get(queue.type)
        if backlog is not None:
            backlog.forget(queue.workspace)


def _small(task: Task) -> bool:
    """Whether it may be kept in memory with all it has."""
    return len(task.payload) + sizes.of_entries(task) <= SMALL_BYTES
