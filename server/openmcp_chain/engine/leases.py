"""What a worker may report under its lease, and what happens when it falls silent.

A lease is stored for one and a half times as long as its worker may be silent. So a heartbeat of a stream is answered
from memory unless less than that time is left; every second one, at a third of the time each. A worker that is silent
for longer is noticed by the process that heard of it last; if that dies as well, by the sweep, when the stored lease
runs out.

A worker without a stream here may be heard of by another process next time, and one that came back to another process
is. So its heartbeats, and the first of a stream, are always written, even if the lease can't be extended any more: a
process that takes a worker for silent writes so on the task as it knew it, and loses to what it did not know. One that
learns that its worker was heard of elsewhere leaves it to others to notice a silence, until it hears of it again.
"""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.task import Failure, Key, Progress, Status, Task
from openmcp_chain.domain.transitions import LEASE_EXPIRED, Moment
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import tracing
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import STORED, Dispatcher
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.engine.sessions import Session

log = logging.getLogger(__name__)

PAST = timedelta(minutes=5)
"""After its stored end, with the difference between clocks, nothing of a lease is of use."""
WORKER_GONE = Failure("WORKER_GONE", "the worker's connection ended before it got the task")


@dataclass(frozen=True, slots=True)
class LeaseRef:
    """Names a task and the lease under which a worker claims to hold it."""

    key: Key
    token: str


@dataclass(slots=True, eq=False)
class _Held:
    """A lease that was granted, or is reported on, here."""

    token: str
    session: Session | None
    """Whose credit it takes; None if it came by a call."""
    task: Task | None
    """The newest state known; None if the worker says that it holds it, and nobody has looked yet."""
    heard_at: float
    """When its worker was last heard of, by the loop's clock."""
    alone: bool = False
    """Whether its worker was heard of here, and by no other process since, as far as is known. (If it has a stream
    here, it can't have been: it says so when it comes back.)"""


class Leases:
    """Reports on leased tasks, fenced by the lease's token. LeaseLost: the lease is not theirs (any more)."""

    def __init__(
        self,
        ledger: Ledger,
        dispatcher: Dispatcher,
        *,
        clock: Clock,
        retention: timedelta,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`retention`: how long an ended task is kept. `chance` gives numbers in [0, 1), for the jitter of retries."""
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._clock = clock
        self._retention = retention
        self._chance = chance
        self._held: defaultdict[Key, list[_Held]] = defaultdict(list)
        self._of_session: defaultdict[Session, dict[_Held, Key]] = defaultdict(dict)
        dispatcher.holder = self
        ledger.follow(self._announced)

    def moment(self) -> Moment:
        """Now, for a transition."""
        return Moment(self._clock(), self._retention, self._chance())

    # --- what workers say

    async def heartbeat(
        self, principal: Principal, ref: LeaseRef, progress: Progress | None = None, line: str = ""
    ) -> Task:
        """Keeps the lease for another while, and what the worker has to say; returns the task as it is then.

        Raises EventsFull for a line that there is no room for; the lease is kept all the same.
        """
        held, task = await self._look_up(principal, ref)
        now, duration = self._clock(), self._dispatcher.lease_duration(task)
        held.heard_at = asyncio.get_running_loop().time()
        lease = task.lease if task.status is Status.RUNNING else None
        known = held.session is not None and held.alone
        if lease is None or not known or lease.expires_at - now < duration:
            if known and _at_its_end(task):
                # No write would tell what others have done to the task.
                task = await self.look(ref.key) or task
            trace = held.session is None or not held.alone
            task = await self._report(
                ref, task, lambda task: transitions.extend(task, ref.token, now + STORED * duration, trace=trace)
            )
            held.alone = True
        if progress is not None or line:
            task = await self._report(
                ref, task, lambda task: transitions.note(task, ref.token, now, progress=progress, line=line)
            )
        return task

    async def complete(self, principal: Principal, ref: LeaseRef, result: bytes) -> None:
        """Ends the task with its result, the serialized Struct."""
        _, task = await self._look_up(principal, ref)
        await self._report(ref, task, lambda task: transitions.complete(task, ref.token, result, self.moment()))

    async def fail(
        self,
        principal: Principal,
        ref: LeaseRef,
        failure: Failure,
        *,
        retryable: bool,
        delay: timedelta | None = None,
    ) -> Task:
        """Ends the attempt; returns the task, which is tried again or has ended."""
        _, task = await self._look_up(principal, ref)
        return await self._report(
            ref,
            task,
            lambda task: transitions.fail(task, ref.token, failure, self.moment(), retryable=retryable, delay=delay),
        )

    async def stop(self, principal: Principal, ref: LeaseRef) -> None:
        """Ends a task that was to stop. Raises CancelNotRequested."""
        _, task = await self._look_up(principal, ref)
        await self._report(ref, task, lambda task: transitions.stop(task, ref.token, self.moment()))

    # --- what a session holds

    def granted(self, task: Task, session: Session) -> None:
        """The session got the task."""
        if task.lease is not None:
            now = asyncio.get_running_loop().time()
            held = _Held(task.lease.token, session, task, now, alone=True)
            self._held[task.key].append(held)
            self._of_session[session][held] = task.key

    def claimed(self, ref: LeaseRef, session: Session) -> None:
        """The session says that it holds this lease, from a stream that was cut. It takes a credit until it ends."""
        held = self._find(ref)
        if held is None:
            held = _Held(ref.token, None, None, asyncio.get_running_loop().time())
            self._held[ref.key].append(held)
        self._part(held)
        held.session, held.alone = session, False
        self._of_session[session][held] = ref.key
        self._tell(held)

    def left(self, session: Session) -> None:
        """The session has ended. Its leases go on: the worker may come back with them."""
        for held, key in self._of_session.pop(session, {}).items():
            held.session = None
            if held.task is None:  # nobody knows whether it is one
                self._forget(LeaseRef(key, held.token))

    async def give_back(self, task: Task, failure: Failure = WORKER_GONE) -> None:
        """A worker did not get the task that was claimed for it: it waits again, rather than for the lease to end."""
        token = task.lease.token if task.lease else ""
        try:
            await self._ledger.change(task, lambda task: transitions.release(task, token, failure, self.moment()))
        except errors.Error as error:
            # The lease will run out instead.
            log.info("lease not given back", extra={"task_id": task.id, "code": error.code})

    def holds(self, key: Key) -> bool:
        """Whether a lease on the task is known here."""
        return key in self._held

    async def look(self, key: Key) -> Task | None:
        """Another process may have changed a task that is held here: it may be to stop, or its lease may have ended."""
        task = await self._ledger.get(key)
        if task is not None:
            self._announced(None, task)
        return task

    # --- time

    async def expire(self, key: Key) -> None:
        """Ends what has run out of time by what is stored: a lease, or a wait. Raises LeaseLost if nothing has."""
        task = await self._ledger.get(key)
        if task is None:
            raise errors.LeaseLost
        await self._ledger.change(task, self._out_of_time)

    async def reap(self) -> int:
        """Ends the attempts of workers that have been silent for too long; returns how many."""
        now = asyncio.get_running_loop().time()
        silent = [
            (held.token, held.task)
            for all_held in self._held.values()
            for held in all_held
            if held.task is not None
            and now - held.heard_at > self._dispatcher.lease_duration(held.task).total_seconds()
            and held.alone
        ]
        self._let_go()
        results = await asyncio.gather(*(self._lose(token, task) for token, task in silent), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, errors.Error):
                log.error("unforeseen", exc_info=result)
        return len(silent)

    # --- inside

    def _let_go(self) -> None:
        """Forgets leases whose stored end is long past, and that no session holds.

        Whoever ended them has told of it; but it may not have been heard, or the task be gone with its workspace.
        """
        past = self._clock() - PAST

        def over(held: _Held) -> bool:
            lease = held.task.lease if held.task is not None else None
            return held.session is None and lease is not None and lease.expires_at < past

        for key in [key for key, all_held in self._held.items() if any(map(over, all_held))]:
            self._keep(key, lambda held: not over(held))

    async def _lose(self, token: str, task: Task) -> None:
        after = transitions.fail(task, token, LEASE_EXPIRED, self.moment(), retryable=True)
        # Only as it was known here: if its worker was heard of elsewhere, that was written, and this write loses.
        if not await self._ledger.try_change(task, after):
            self._keep(task.key, lambda held: held.token != token)

    def _out_of_time(self, task: Task) -> Task:
        if task.status is Status.PENDING:
            return transitions.time_out(task, self.moment())
        return transitions.expire(task, self.moment())

    async def _look_up(self, principal: Principal, ref: LeaseRef) -> tuple[_Held, Task]:
        held = self._find(ref)
        task = held.task if held is not None else None
        if task is None:
            task = await self._ledger.get(ref.key)
        try:
            task = _allowed(principal, task, ref.key)
        except errors.LeaseLost:
            self._forget(ref)
            raise
        if held is None:
            held = _Held(ref.token, None, None, asyncio.get_running_loop().time())
        if held.task is None and task.lease is not None and task.lease.token == ref.token:
            if task.status is Status.RUNNING:
                held.task = task
                if held not in self._held[ref.key]:
                    self._held[ref.key].append(held)
                self._tell(held)
            else:
                self._forget(ref)  # what it reports was reported before, and is answered alike
        return held, task

    def _tell(self, held: _Held) -> None:
        """A worker that came back may not know yet that its task is to stop."""
        if held.session is not None and held.task is not None and held.task.cancel is not None:
            held.session.cancel(held.task)

    async def _report(self, ref: LeaseRef, task: Task, decide: Callable[[Task], Task]) -> Task:
        try:
            return await self._ledger.change(task, decide)
        except errors.LeaseLost:
            # The worker stops on hearing so, and has room again.
            self._forget(ref)
            raise

    def _find(self, ref: LeaseRef) -> _Held | None:
        return next((held for held in self._held.get(ref.key, ()) if held.token == ref.token), None)

    def _forget(self, ref: LeaseRef) -> None:
        self._keep(ref.key, lambda held: held.token != ref.token)

    def _announced(self, before: Task | None, task: Task) -> None:
        """A task has changed: its lease may have ended, or it is to stop. Elsewhere, if `before` is None."""
        if before is not None and task.status.terminal and not before.status.terminal:
            tracing.record_end(task)
        if task.key not in self._held:
            return
        token = task.lease.token if task.status is Status.RUNNING and task.lease else None
        for held in self._held[task.key]:
            if held.token == token:
                asked = task.cancel is not None and (held.task is None or held.task.cancel is None)
                if held.task is None or held.task.version <= task.version:
                    if before is None and held.task is not None and held.task.lease != task.lease:
                        held.alone = False
                    held.task = task
                if asked and held.session is not None:
                    held.session.cancel(task)
        # What was read may be older than a lease that has been granted since.
        self._keep(task.key, lambda held: held.token == token or held.task is None or held.task.version > task.version)

    def _keep(self, key: Key, wanted: Callable[[_Held], bool]) -> None:
        """Lets go of the others; each gives its credit back."""
        all_held = self._held.get(key, [])
        gone = [held for held in all_held if not wanted(held)]
        kept = [held for held in all_held if wanted(held)]
        if kept:
            self._held[key] = kept
        else:
            self._held.pop(key, None)
        for held in gone:
            session = held.session
            if session is not None:
                self._part(held)
                self._dispatcher.credit(session)

    def _part(self, held: _Held) -> None:
        """The lease does not take its session's credit any more."""
        if held.session is not None:
            mine = self._of_session[held.session]
            mine.pop(held, None)
            if not mine:
                del self._of_session[held.session]


def _at_its_end(task: Task) -> bool:
    """Whether its lease can't be extended any more: its heartbeats can't be written."""
    return task.lease is not None and task.lease.expires_at == task.lease.deadline


def _allowed(principal: Principal, task: Task | None, key: Key) -> Task:
    """The task, if it is there and the principal may report on it: an operator on its types, a workspace on its own.

    Raises LeaseLost otherwise, so that nobody learns what others have.
    """
    if task is None or task.key != key:
        raise errors.LeaseLost
    if principal.worker_types:
        if task.type not in principal.worker_types:
            raise errors.LeaseLost
    elif task.workspace != principal.workspace:
        raise errors.LeaseLost
    return task
