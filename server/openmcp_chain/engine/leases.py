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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.task import Failure, Key, Lease, Progress, Status, Task, View
from openmcp_chain.domain.transitions import LEASE_EXPIRED, Moment
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import tracing
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import STORED, Dispatcher
from openmcp_chain.engine.held import Claim, Held, HeldLeases, kept
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.engine.pace import SHORTEST, Pace
from openmcp_chain.engine.sessions import Session
from openmcp_chain.store.base import Store

log = logging.getLogger(__name__)

PAST = timedelta(minutes=5)
"""After its stored end, with the difference between clocks, nothing of a lease is of use."""
ANSWER_KEPT = timedelta(minutes=10)
"""The answer to a call that may be repeated outlives its leases by so much at most, and is kept on so often at most."""
BEATS = 3
"""How often a worker is told to say something, in the time for which it may be silent."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WORKER_GONE = Failure("WORKER_GONE", "the worker's connection ended before it got the task")


@dataclass(frozen=True, slots=True)
class LeaseRef:
    """Names a task and the lease under which a worker claims to hold it."""

    key: Key
    token: str


class Leases:
    """Reports on leased tasks, fenced by the lease's token. LeaseLost: the lease is not theirs (any more)."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        dispatcher: Dispatcher,
        pace: Pace,
        *,
        clock: Clock,
        retention: timedelta,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`retention`: how long an ended task is kept. `chance` gives numbers in [0, 1), for the jitter of retries."""
        self._store = store
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._pace = pace
        self._clock = clock
        self._retention = retention
        self._chance = chance
        self._held = HeldLeases(self._make_room)
        dispatcher.holder = self
        ledger.follow(self._announced)

    def moment(self) -> Moment:
        """Now, for a transition."""
        return Moment(self._clock(), self._retention, self._chance())

    # --- what workers say

    def held_by(self, session: Session, ref: LeaseRef) -> Held | None:
        """The lease, if it is known to be the session's."""
        held = self._held.find(ref.key, ref.token)
        return held if held is not None and held.session is session else None

    async def admit(self, principal: Principal, session: Session, ref: LeaseRef | None = None) -> None:
        """Returns when what the session's stream says next, under none of its leases, has its turn: see `pace`."""
        claimed = ref is not None and self._held.claimant(_claim(principal, ref)) is session
        await self._pace.admit(principal, session, claimed=claimed)

    async def hear(self, principal: Principal) -> None:
        """Returns when the next report under a lease may be read: see `pace`."""
        await self._pace.hear(principal)

    def takes(self, principal: Principal, held: Held, *, ends: bool = False, writes: bool = False) -> bool:
        """Whether what is said under the lease may be carried out, or is to be left out: see `pace`."""
        duration = self._dispatcher.lease_duration(held.task).total_seconds()
        return self._pace.takes(principal, held, duration, ends=ends, writes=writes)

    def kept_lately(self, held: Held) -> bool:
        """Whether the heartbeats that are carried out in any case are enough for this lease: see `pace`."""
        return self._dispatcher.lease_duration(held.task).total_seconds() >= SHORTEST

    async def heartbeat(
        self, principal: Principal, ref: LeaseRef, progress: Progress | None = None, line: str = ""
    ) -> Task:
        """Keeps the lease for another while, and what the worker has to say; returns the task as it is then.

        Raises EventsFull for a line that there is no room for; the lease is kept all the same, and so is the progress.
        """
        now, found = self._clock(), self._held.find(ref.key, ref.token)
        if found is not None and progress is None and not line and self._keeps(principal, ref, found, now):
            # For what writes nothing the state is enough, which is all that is kept of a task with much to it.
            found.heard_at = asyncio.get_running_loop().time()
            return found.task
        held, task = await self._look_up(principal, ref)
        held.heard_at = asyncio.get_running_loop().time()
        if not self._lasts(held, task, now):
            duration, lease = self._dispatcher.lease_duration(task), _running_lease(task)
            if held.session is not None and held.alone and _at_its_end(task):
                # No write would tell what others have done to the task.
                task = await self.look(ref.key) or task
            if lease is not None:
                await self._keep_answer(lease, now + STORED * duration)
            trace = held.session is None or not held.alone
            task = await self._report(
                ref, task, lambda task: transitions.extend(task, ref.token, now + STORED * duration, trace=trace)
            )
            held.alone = True
        if progress is not None or line:
            try:
                task = await self._report(
                    ref, task, lambda task: transitions.note(task, ref.token, now, progress=progress, line=line)
                )
            except errors.EventsFull:
                await self._report(ref, task, lambda task: transitions.note(task, ref.token, now, progress=progress))
                raise
        return task

    def unheard(self, session: Session) -> list[LeaseRef]:
        """The session's leases of which its worker was to say something by now; and all that are but claimed."""

        def overdue(held: Held) -> bool:
            return now - held.heard_at >= self._dispatcher.lease_duration(held.task).total_seconds() / BEATS

        now = asyncio.get_running_loop().time()
        mine = [(held.key, held.token) for held in self._held.of_session(session) if overdue(held)]
        return [LeaseRef(key, token) for key, token in (*mine, *self._held.claims_of(session))]

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

    async def lives_for(self, principal: Principal, ref: LeaseRef) -> bool:
        """Whether the lease is theirs and lives. False: it has ended as its holder said, who may say so again.

        Raises LeaseLost for any other.
        """
        _, task = await self._look_up(principal, ref)
        lease = _running_lease(task)
        if lease is not None and lease.token == ref.token:
            return True
        self._forget(ref)
        if transitions.reported_by(task, ref.token):
            return False
        raise errors.LeaseLost

    # --- what a session holds

    def granted(self, task: Task) -> None:
        """The task was claimed, and is to be delivered unless it is given back."""
        if task.lease is not None:
            now = asyncio.get_running_loop().time()
            self._held.add(Held(task.key, task.lease.token, None, now, task, alone=True))

    def deliver(self, task: Task, session: Session) -> bool:
        """Gives the session a task that was granted, and tells it if that was cancelled meanwhile.

        Returns whether it did: not if the lease has ended by then.
        """
        held = self._of(task)
        if held is None:
            return False
        self._held.give(held, session)
        session.deliver(task)
        if held.task.cancel is not None:
            session.cancel(held.task)
        return True

    def waits(self, task: Task) -> None:
        """A task that was granted is not sent yet. Until it is, its lease's end makes no room for others.

        So a worker that does not read is given no more than it takes, however many leases end meanwhile.
        """
        if (held := self._of(task)) is not None:
            held.unsent = True

    def goes_out(self, task: Task, session: Session, *, allowed: bool) -> bool:
        """Whether it is sent now: if that is allowed, and its lease has not ended. If not, there is room for another.

        The worker, however long it has been silent, has nothing of what was not sent. So its lease, which the caller
        gives back if it lives, makes no other room when it ends.
        """
        held = self._of(task)
        if held is not None and allowed and self.lives(task):
            held.unsent = False
            return True
        if held is not None and not self.lives(task):
            self._forget(LeaseRef(task.key, held.token))
        self._dispatcher.credit(session)
        return False

    def lives(self, task: Task) -> bool:
        """Whether the lease with which a task was granted has not ended, as far as is known here."""
        held = self._of(task)
        lease = held.task.lease if held is not None else None
        return lease is not None and lease.expires_at > self._clock()

    def claimed(self, principal: Principal, ref: LeaseRef, session: Session) -> None:
        """The session says that it holds this lease, from a stream that was cut. It takes a credit until it ends.

        It is the session's at once if it is known here, and the principal may report on it. Else it stays whose it is,
        if it is anybody's: what it is is looked at when the principal reports on it, and not before.
        """
        held = self._held.find(ref.key, ref.token)
        if held is not None and _may(principal, held.task, ref.key):
            self._hand_over(held, session)
        else:
            self._held.claim(_claim(principal, ref), ref.key, session)

    def left(self, session: Session) -> None:
        """The session has ended. Its leases go on: the worker may come back with them."""
        self._held.leave(session)

    async def give_back(self, task: Task, failure: Failure = WORKER_GONE) -> None:
        """A worker did not get the task that was claimed for it: it waits again, rather than for the lease to end.

        Of the task, its key and its lease are enough.
        """
        token, held = (task.lease.token if task.lease else ""), self._of(task)
        known = held.task if held is not None else task.key
        try:
            await self._ledger.change(known, lambda task: transitions.release(task, token, failure, self.moment()))
        except errors.Error as error:
            # The lease will run out instead.
            log.info("lease not given back", extra={"task_id": task.id, "code": error.code})

    @property
    def any(self) -> bool:
        """Whether any lease is known here."""
        return bool(self._held)

    def holds(self, key: Key) -> bool:
        """Whether a lease on the task is known here."""
        return key in self._held

    def few(self, most: int) -> Sequence[Key]:
        """The tasks on which leases are known here; none if there are more."""
        return list({held.key for held in self._held}) if len(self._held) <= most else []

    async def look(self, key: Key) -> Task | None:
        """Another process may have changed a task that is held here: it may be to stop, or its lease may have ended.

        Returns what is kept of it; None if it is gone.
        """
        task = await self._read(key)
        if task is not None:
            self._announced(None, task)
        return task

    # --- time

    async def expire(self, key: Key) -> None:
        """Ends what has run out of time by what is stored: a lease, or a wait. Raises LeaseLost if nothing has."""
        await self._ledger.change(key, self._out_of_time)

    def silent(self) -> Sequence[Held]:
        """The leases whose workers have been silent for too long."""
        return list(filter(self._silent, self._held))

    async def lose(self, held: Held) -> None:
        """Ends the attempt of a worker that has been silent for too long, if it still is."""
        # Only as it was known here: if its worker was heard of elsewhere, that was written, and this write loses.
        known, task = held.task, held.task if held.bytes else await self._ledger.get(held.key, View.HISTORY)
        if not self._silent(held):
            return
        if task is not None and task.version == known.version:
            after = transitions.fail(task, held.token, LEASE_EXPIRED, self.moment(), retryable=True)
            if await self._ledger.try_change(task, after):
                return
        self._forget(LeaseRef(held.key, held.token))

    def let_go(self) -> None:
        """Forgets leases whose stored end is long past, and that no session holds.

        Whoever ended them has told of it; but it may not have been heard, or the task be gone with its workspace.
        """
        past = self._clock() - PAST

        def over(held: Held) -> bool:
            lease = held.task.lease
            return held.session is None and lease is not None and lease.expires_at < past

        for key in {held.key for held in self._held if over(held)}:
            self._held.keep(key, lambda held: not over(held))

    # --- inside

    def _silent(self, held: Held) -> bool:
        """Whether its worker has been silent for too long, and it is for this process to say so."""
        if not held.alone:
            return False
        silence = asyncio.get_running_loop().time() - held.heard_at
        return silence > self._dispatcher.lease_duration(held.task).total_seconds()

    def _keeps(self, principal: Principal, ref: LeaseRef, held: Held, now: datetime) -> bool:
        """Whether a heartbeat of the principal's keeps the lease, and nothing is to be read or written for that."""
        settled = self._held.claimant(_claim(principal, ref)) is None
        return settled and self._lasts(held, held.task, now) and _may(principal, held.task, ref.key)

    def _lasts(self, held: Held, task: Task, now: datetime) -> bool:
        """Whether the lease is stored for as long as its worker may be silent, and it is for this process to notice."""
        if held.session is None or not held.alone or (lease := _running_lease(task)) is None:
            return False
        return lease.expires_at - now >= self._dispatcher.lease_duration(task)

    def _out_of_time(self, task: Task) -> Task:
        if task.status is Status.PENDING:
            return transitions.time_out(task, self.moment())
        return transitions.expire(task, self.moment())

    async def _keep_answer(self, lease: Lease, expires_at: datetime) -> None:
        """The lease is about to be extended: what its call was answered is to outlive it.

        What was kept lasts until ANSWER_KEPT after the end that the lease has, or had when it last came into another
        ANSWER_KEPT of the calendar. So it is kept on when it comes into the next.
        """
        if lease.call is not None and (expires_at - _EPOCH) // ANSWER_KEPT > (lease.expires_at - _EPOCH) // ANSWER_KEPT:
            await self._store.keep_call(*lease.call, expires_at + ANSWER_KEPT)

    async def _read(self, key: Key) -> Task | None:
        """What is to be kept of the task as it is now."""
        task = await self._ledger.get(key, View.HISTORY)
        return kept(task) if task is not None else None

    async def _look_up(self, principal: Principal, ref: LeaseRef) -> tuple[Held, Task]:
        """The lease, which is known here from now on if it lives, and what is kept of its task.

        Raises LeaseLost if it is not theirs. That nobody else's lease suffers from: whoever has seen a lease's token
        may say what he likes.
        """
        held = self._held.find(ref.key, ref.token)
        task = held.task if held is not None else await self._read(ref.key)
        if task is None or not _may(principal, task, ref.key):
            self._settle(principal, ref, None)
            raise errors.LeaseLost
        held, lease = self._held.find(ref.key, ref.token), _running_lease(task)
        lives = lease is not None and lease.token == ref.token
        if held is None:
            held = Held(ref.key, ref.token, None, asyncio.get_running_loop().time(), task)
            if lives:
                self._held.add(held)
        # If it has ended, what is reported was reported before, and is answered alike; or it is refused.
        self._settle(principal, ref, held if lives else None)
        return held, task

    def _settle(self, principal: Principal, ref: LeaseRef, held: Held | None) -> None:
        """What the principal claimed to hold is known to be this; or (None) it has ended, or never was theirs."""
        session = self._held.settle(_claim(principal, ref))
        if session is not None:
            if held is not None:
                self._pace.proved(principal)
                self._hand_over(held, session)
            else:
                self._dispatcher.credit(session)

    def _hand_over(self, held: Held, session: Session) -> None:
        """The lease is the session's from now on. Its worker may not know yet that its task is to stop."""
        self._held.give(held, session)
        held.alone = False
        if held.task.cancel is not None:
            session.cancel(held.task)

    def _make_room(self, session: Session, held: Held) -> None:
        """A lease of the session's has ended. If nothing was heard of it for so long, it may be stuck, and not know.

        Then it is given nothing in its place, which it would run beside what it has, until it says something. Before
        it was given the lease there may have been nothing to say.
        """
        self._pace.ended(session)
        now = asyncio.get_running_loop().time()
        duration = self._dispatcher.lease_duration(held.task)
        if session.heard_at is not None and now - max(session.heard_at, held.heard_at) > duration.total_seconds():
            session.owed += 1
        else:
            self._dispatcher.credit(session)

    async def _report(self, ref: LeaseRef, task: Task, decide: Callable[[Task], Task]) -> Task:
        """Returns what is kept of the task as it is then."""
        try:
            return kept(await self._ledger.change(task, decide))
        except errors.LeaseLost:
            # The worker stops on hearing so, and has room again.
            self._forget(ref)
            raise

    def _of(self, task: Task) -> Held | None:
        return self._held.find(task.key, task.lease.token) if task.lease is not None else None

    def _forget(self, ref: LeaseRef) -> None:
        self._held.keep(ref.key, lambda held: held.token != ref.token)

    def _announced(self, before: Task | None, task: Task) -> None:
        """A task has changed: its lease may have ended, or it is to stop. Elsewhere, if `before` is None."""
        if before is not None and task.status.terminal and not before.status.terminal:
            tracing.record_end(task, self._dispatcher.types)
        if task.key not in self._held:
            return
        token = task.lease.token if task.status is Status.RUNNING and task.lease else None
        for held in self._held.of(task.key):
            if held.token == token:
                asked = task.cancel is not None and held.task.cancel is None
                if held.task.version <= task.version:
                    if before is None and held.task.lease != task.lease:
                        held.alone = False
                    self._held.learn(held, task)
                if asked and held.session is not None:
                    held.session.cancel(task)
        # What was read may be older than a lease that has been granted since.
        self._held.keep(task.key, lambda held: held.token == token or held.task.version > task.version)


def _running_lease(task: Task) -> Lease | None:
    return task.lease if task.status is Status.RUNNING else None


def _at_its_end(task: Task) -> bool:
    """Whether its lease can't be extended any more: its heartbeats can't be written."""
    return task.lease is not None and task.lease.expires_at == task.lease.deadline


def _claim(principal: Principal, ref: LeaseRef) -> Claim:
    return Claim(principal.workspace, ref.token)


def _may(principal: Principal, task: Task, key: Key) -> bool:
    """Whether the principal may report on the key's task, this one: an operator on its types, a workspace on its own.

    Who may not is told what is told of a task that is not there, so that nobody learns what others have.
    """
    if task.key != key:
        return False
    return task.type in principal.worker_types if principal.worker_types else task.workspace == principal.workspace
