"""Accepting tasks, for a workspace."""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime

import uuid_utils

from openmcp_chain.domain import errors, ids, transitions
from openmcp_chain.domain.task import STANDARD, Task, Terms
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import shared, tracing
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import Dispatcher, Session
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.engine.queues import Queues
from openmcp_chain.engine.quotas import Pending
from openmcp_chain.store.base import Store

AGAIN = 10
"""How often a dedupe_key is tried for when others come first."""


def new_task_id() -> str:
    """A UUIDv7: ids of later tasks sort later (RFC 9562, 5.7)."""
    return str(uuid_utils.uuid7())


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """A task to accept, already checked."""

    type: str
    payload: bytes
    """The serialized Struct; serialized deterministically if there is a request_id."""
    metadata: Mapping[str, str]
    labels: Mapping[str, str]
    priority: int
    request_id: str
    """A UUID, or empty."""
    dedupe_key: str = ""
    use_existing: bool = False
    """Whether a task that has the dedupe_key is the answer; else it is a refusal."""
    schedule_time: datetime | None = None
    terms: Terms = STANDARD

    def fingerprint(self) -> bytes:
        """What tells one request from another under the same request_id; empty without one."""
        if not self.request_id:
            return b""
        rest = {
            "request_id": self.request_id.lower(),
            "type": self.type,
            "metadata": dict(self.metadata),
            "labels": dict(self.labels),
            "priority": self.priority,
            "dedupe_key": self.dedupe_key,
            "schedule_time": self.schedule_time and self.schedule_time.isoformat(),
            "terms": asdict(self.terms),
        }
        words = json.dumps(rest, sort_keys=True, default=_plain).encode()
        return hashlib.sha256(len(words).to_bytes(4, "big") + words + self.payload).digest()


class Submission:
    """Takes tasks in."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        queues: Queues,
        dispatcher: Dispatcher,
        pending: Pending,
        clock: Clock,
        new_id: Callable[[], str] = new_task_id,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._queues = queues
        self._dispatcher = dispatcher
        self._pending = pending
        self._clock = clock
        self._new_id = new_id
        self._storing: set[asyncio.Task[tuple[Task, bool]]] = set()
        ledger.follow(self._announced)

    async def submit(self, principal: Principal, request: Submit) -> Task:
        """Stores the task durably and offers it to workers. A request_id seen before gets the task that it made.

        Raises RequestIdReused if the request differs from the one first made with its request_id, DedupeKeyTaken,
        TooManyTypes, TooManyPending.
        """
        task, limit = self._task(principal.workspace, request), self._pending.limit(principal)
        await self._queues.ensure(task.queue)
        if request.dedupe_key:
            return await self._submit_deduplicated(task, limit, use_existing=request.use_existing)
        stored, _ = await self._store_task(task, limit)
        if stored.fingerprint != task.fingerprint:
            raise errors.RequestIdReused
        return stored

    async def settle(self) -> None:
        """Returns when no submit is under way that a worker was reserved for."""
        while self._storing:
            await asyncio.wait(self._storing)

    def _task(self, workspace: str, request: Submit) -> Task:
        if request.dedupe_key:
            task_id = ""  # it follows from the key
        elif request.request_id:
            task_id = ids.from_request_id(workspace, request.request_id)
        else:
            task_id = self._new_id()
        return transitions.submit(
            workspace=workspace,
            task_id=task_id,
            task_type=request.type,
            payload=request.payload,
            metadata=request.metadata,
            labels=request.labels,
            priority=request.priority,
            terms=request.terms,
            dedupe_key=request.dedupe_key,
            fingerprint=request.fingerprint(),
            traceparent=tracing.current(),
            schedule_time=request.schedule_time,
            now=self._clock(),
        )

    async def _submit_deduplicated(self, task: Task, limit: int, *, use_existing: bool) -> Task:
        """The id follows from the key, and from how many tasks with it have ended and been superseded.

        So the primary key itself makes the second of two submits lose, with no further index. An ended task is marked
        before its place is taken, by a guarded write, so that it can't be tried again beside its successor.
        """
        workspace, key = task.workspace, task.dedupe_key
        if not task.fingerprint:
            # Else the same submit of somebody else in the same millisecond could be taken for this one.
            task = replace(task, fingerprint=secrets.token_bytes(16))
        for _ in range(AGAIN):
            generation = await self._store.get_generation(workspace, key)
            task = replace(task, id=ids.from_dedupe_key(workspace, key, generation))
            stored, new = await self._store_task(task, limit)
            if new or stored.fingerprint == task.fingerprint:
                return stored
            if not stored.status.terminal:
                if use_existing:
                    return stored
                raise errors.DedupeKeyTaken(stored.id)
            try:
                await self._ledger.change(stored, transitions.supersede)
            except (errors.DedupeKeyTaken, errors.LeaseLost):
                continue  # it is being tried again, or retention took it
            await self._store.raise_generation(workspace, key, generation + 1)
        raise errors.Aborted

    async def _store_task(self, task: Task, limit: int) -> tuple[Task, bool]:
        """Stores the task, unless its workspace has so many waiting; already leased if a worker waits for it.

        Returns what is stored under its id, and whether that is the task itself. What has been accepted before is found
        again, however many wait by now.
        """
        try:
            with self._pending.place(task.key, limit):
                return await self._insert(task)
        except errors.TooManyPending:
            there = await self._ledger.get(task.key) if task.fingerprint else None
            if there is None:
                raise
            return there, False

    async def _insert(self, task: Task) -> tuple[Task, bool]:
        reserved = self._dispatcher.reserve(task)
        if reserved is None:
            stored = await self._ledger.insert(task)
            return stored, stored is task
        # A caller who gives up must not part the write from the delivery that follows it.
        storing = shared.begin(self._store_and_deliver(*reserved))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        return await asyncio.shield(storing)

    async def _store_and_deliver(self, session: Session, task: Task) -> tuple[Task, bool]:
        try:
            stored = await self._ledger.insert(task)
        except BaseException:
            self._dispatcher.give_back(session)
            raise
        if stored is task:
            await self._dispatcher.deliver(session, task)
        else:
            self._dispatcher.give_back(session)
        return stored, stored is task

    def _announced(self, before: Task | None, task: Task) -> None:
        if before is None:
            tracing.submitted.add(1, {"type": task.type})
        self._dispatcher.offer(task)


def _plain(value: object) -> object:
    """What JSON has no word for, in the fingerprint."""
    return sorted(value) if isinstance(value, frozenset) else str(value)
