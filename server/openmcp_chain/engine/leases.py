"""What a worker may report under its lease, and what happens when a lease runs out."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.task import Failure, Key, Status, Task
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import tracing
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import Dispatcher, Session
from openmcp_chain.engine.ledger import Ledger

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

    async def heartbeat(self, principal: Principal, session: Session, ref: LeaseRef) -> None:
        """Keeps the lease for a full duration from now."""
        until = self._clock() + self._dispatcher.lease_duration
        task = await self._report(principal, session, ref, lambda task: transitions.extend(task, ref.token, until))
        if ref.token in session.leases:
            session.leases[ref.token] = task

    async def complete(self, principal: Principal, session: Session, ref: LeaseRef, result: bytes) -> None:
        """Ends the task with its result, the serialized Struct."""
        await self._end(
            principal,
            session,
            ref,
            lambda task: transitions.complete(task, ref.token, result, self._clock(), self._retention),
        )

    async def fail(
        self, principal: Principal, session: Session, ref: LeaseRef, failure: Failure, *, retryable: bool
    ) -> None:
        """Ends the attempt: the task is tried again, or has FAILED."""
        await self._end(
            principal,
            session,
            ref,
            lambda task: transitions.fail(
                task,
                ref.token,
                failure,
                retryable=retryable,
                now=self._clock(),
                retention=self._retention,
                jitter=self._chance(),
            ),
        )

    async def undelivered(self, task: Task) -> None:
        """Ends an attempt whose worker went before the task reached it, rather than wait for the lease to end."""
        token = task.lease.token if task.lease else ""
        ended = await self._ledger.change(
            task,
            lambda task: transitions.fail(
                task,
                token,
                WORKER_GONE,
                retryable=True,
                now=self._clock(),
                retention=self._retention,
                jitter=self._chance(),
            ),
        )
        self._after(ended)

    async def expire(self, task: Task) -> None:
        """Ends an attempt whose lease has run out."""
        ended = await self._ledger.change(
            task,
            lambda task: transitions.expire(task, now=self._clock(), retention=self._retention, jitter=self._chance()),
        )
        self._after(ended)

    async def _end(self, principal: Principal, session: Session, ref: LeaseRef, decide: Callable[[Task], Task]) -> None:
        self._after(await self._report(principal, session, ref, decide))
        self._dispatcher.release(session, ref.token)

    async def _report(
        self, principal: Principal, session: Session, ref: LeaseRef, decide: Callable[[Task], Task]
    ) -> Task:
        known = session.leases.get(ref.token) or await self._ledger.get(ref.key)
        try:
            return await self._ledger.change(_allowed(principal, known, ref.key), decide)
        except errors.LeaseLost:
            # The worker stops on hearing so, and has room again.
            self._dispatcher.release(session, ref.token)
            raise

    def _after(self, task: Task) -> None:
        if task.status is Status.PENDING:
            self._dispatcher.offer(task)
        elif task.status.terminal:
            tracing.record_end(task)


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
