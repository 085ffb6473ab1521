"""Brings ready tasks and idle workers together, in memory, by demand.

A worker's session brings credits; a task takes one. Whoever comes second, task or credit, finds the other waiting. The
claim itself is a guarded write, so two processes, or a stale hint, cost a lost claim and never a second run.

A task that finds a worker waiting when it is submitted is inserted already leased: one write instead of two.
"""

import asyncio
import logging
import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.task import Key, Lease, Status, Task
from openmcp_chain.engine import tracing
from openmcp_chain.engine.backlog import Backlog
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.ledger import Ledger

log = logging.getLogger(__name__)

LATER = 10_000
LATER_BYTES = 64 * 1024 * 1024
"""How many tasks, and payloads, wait in memory for a time to come; more are left to the sweep."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What idle workers would take: tasks of these types, of one workspace or (None) of any."""

    types: frozenset[str]
    workspace: str | None


class Session:
    """One worker's stream, as the dispatcher sees it."""

    def __init__(
        self,
        *,
        worker: str,
        version: str = "",
        demand: Demand,
        room: int,
        held: Iterable[str] = (),
        deliver: Callable[[Task], None],
    ) -> None:
        """`room`: how many tasks it takes now, beside those under `held` lease tokens. `deliver` gets each new one."""
        self.worker = worker
        self.version = version
        self.demand = demand
        self.turns = deque(demand.types)
        """The types, the one whose turn it is first."""
        self.credits = room
        self.deliver = deliver
        self.open = True
        self.leases: dict[str, Task | None] = dict.fromkeys(held)
        """What it holds, by lease token: the newest state known here, None if it came with the lease."""

    def accepts(self, task: Task) -> bool:
        return self.open and self.credits > 0 and self.demand.workspace in (None, task.workspace)


class Dispatcher:
    """The meeting place of tasks and sessions."""

    def __init__(
        self, ledger: Ledger, *, clock: Clock, lease_duration: timedelta, look: Callable[[], None] = lambda: None
    ) -> None:
        """`look` is called when a look in the database may find work for someone (see `sweep`)."""
        self._ledger = ledger
        self._clock = clock
        self.lease_duration = lease_duration
        self.look = look
        self._backlogs: dict[str, Backlog] = {}
        """One for each type that a worker here takes; what nobody here takes is not kept in memory."""
        self._takers = Counter[str]()
        self._idle: defaultdict[str, deque[Session]] = defaultdict(deque)
        self._claiming: set[Key] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._later = self._later_bytes = 0

    # --- workers

    def join(self, session: Session) -> None:
        """A worker has come."""
        for task_type in session.demand.types:
            self._takers[task_type] += 1
            self._backlogs.setdefault(task_type, Backlog())
        self._feed(session)
        self.look()

    def leave(self, session: Session) -> None:
        """A worker has gone, or wants no more. Later calls do nothing."""
        if not session.open:
            return
        session.open = False
        for task_type in session.demand.types:
            self._takers[task_type] -= 1
            if not self._takers[task_type]:
                del self._takers[task_type], self._backlogs[task_type]
            idle = self._idle[task_type]
            if session in idle:
                idle.remove(session)
            if not idle:
                del self._idle[task_type]

    def release(self, session: Session, token: str) -> None:
        """The session no longer holds this lease: it has room for another task. A second call does nothing."""
        if token in session.leases:
            del session.leases[token]
            self._credit(session)

    def demands(self) -> Collection[Demand]:
        """What idle workers wait for in vain, each once."""
        return {session.demand for idle in self._idle.values() for session in idle}

    def more(self, types: Iterable[str]) -> None:
        """The database has more ready tasks of these types than were offered."""
        for task_type in types:
            if task_type in self._backlogs:
                self._backlogs[task_type].overflowed = True

    # --- tasks

    def offer(self, task: Task) -> None:
        """A PENDING task is there: now, or from its `due_at` on."""
        if task.due_at is None or task.status is not Status.PENDING:
            return
        wait = (task.due_at - self._clock()).total_seconds()
        if wait > 0:
            if self._later < LATER and self._later_bytes + len(task.payload) <= LATER_BYTES:
                self._later += 1
                self._later_bytes += len(task.payload)
                asyncio.get_running_loop().call_later(wait, self._offer_later, task)
            return
        if task.key in self._claiming:
            return
        session = self._idle_for(task)
        if session is not None:
            self._spend(session)
            self._start_claim(task, session)
        elif task.type in self._backlogs:
            self._backlogs[task.type].add(task)

    def reserve(self, task: Task) -> tuple[Session, Task] | None:
        """Takes an idle worker for a task that is not stored yet; returns it, and the task leased to it.

        The caller stores the task and then calls `deliver`, or `give_back` if it was not stored.
        """
        session = self._idle_for(task)
        if session is None:
            return None
        self._spend(session)
        return session, self._leased(task, session)

    def deliver(self, session: Session, task: Task) -> None:
        """Hands a leased task to the worker, who is told of it even if it left meanwhile (see `Session`)."""
        tracing.record_wait(task)
        if task.lease is not None:
            session.leases[task.lease.token] = task
        session.deliver(task)

    def give_back(self, session: Session) -> None:
        """The reserved worker gets nothing after all."""
        self._credit(session)

    async def settle(self) -> None:
        """Returns when no claim is under way."""
        while self._background:
            await asyncio.wait(self._background)

    # --- inside

    def _leased(self, task: Task, session: Session) -> Task:
        now = self._clock()
        lease = Lease(secrets.token_urlsafe(16), session.worker, now + self.lease_duration)
        return transitions.claim(task, lease, now, session.version)

    def _idle_for(self, task: Task) -> Session | None:
        return next((session for session in self._idle.get(task.type, ()) if session.accepts(task)), None)

    def _spend(self, session: Session) -> None:
        """Takes one credit; the session goes to the end of the line, so that idle workers take turns."""
        session.credits -= 1
        for task_type in session.demand.types:
            idle = self._idle.get(task_type)
            if idle is not None and session in idle:
                idle.remove(session)
                if session.credits > 0:
                    idle.append(session)

    def _credit(self, session: Session) -> None:
        session.credits += 1
        if session.open:
            self._feed(session)

    def _feed(self, session: Session) -> None:
        """Gives the session what waits for it; puts it in line if it could take more."""
        for task in self._waiting_for(session):
            session.credits -= 1
            self._start_claim(task, session)
        if session.credits > 0:
            for task_type in session.demand.types:
                if session not in self._idle[task_type]:
                    self._idle[task_type].append(session)

    def _waiting_for(self, session: Session) -> Iterable[Task]:
        """What there is for the session while it has credits, its types taking turns: none is starved by another."""
        in_vain = 0
        while session.credits > 0 and in_vain < len(session.turns):
            backlog = self._backlogs[session.turns[0]]
            session.turns.rotate(-1)
            task = backlog.take(session.demand.workspace)
            if task is not None:
                in_vain = 0
                yield task
                continue
            in_vain += 1
            if backlog.overflowed:
                backlog.overflowed = False
                self.look()

    def _start_claim(self, task: Task, session: Session) -> None:
        self._claiming.add(task.key)
        claim = asyncio.create_task(self._claim(task, session))
        self._background.add(claim)
        claim.add_done_callback(self._background.discard)

    async def _claim(self, task: Task, session: Session) -> None:
        try:
            leased = self._leased(task, session)
            won = await self._ledger.try_change(task, leased)
        except errors.Error as error:
            # The task is safe in the database; the sweep finds it when the database answers again.
            log.warning("claim not written", extra={"task_id": task.id, "code": error.code})
            won = False
        except Exception:
            log.exception("unforeseen", extra={"task_id": task.id})
            won = False  # the worker must not wait for this one for ever
        finally:
            self._claiming.discard(task.key)
        if won:
            self.deliver(session, leased)
        else:
            self._credit(session)

    def _offer_later(self, task: Task) -> None:
        self._later -= 1
        self._later_bytes -= len(task.payload)
        self.offer(task)
