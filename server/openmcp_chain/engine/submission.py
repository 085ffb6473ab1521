"""Accepting tasks, for a workspace."""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

import uuid_utils

from openmcp_chain.domain import errors, ids, transitions
from openmcp_chain.domain.task import STANDARD, Call, DedupeKey, Key, Task, Terms, View
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import shared, tracing
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import Dispatcher
from openmcp_chain.engine.few import Few
from openmcp_chain.engine.holders import Holders
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.engine.moments import Moments
from openmcp_chain.engine.queues import Queues
from openmcp_chain.engine.quotas import Pending
from openmcp_chain.engine.sessions import Session
from openmcp_chain.store.base import Answer, Granted, Store

_T = TypeVar("_T")

AGAIN = 10
"""How often a dedupe_key is tried for when others come first."""

SUPERSEDED = 10
"""Ended tasks of a workspace that give their dedupe_keys away at a time: each is in memory meanwhile."""

ANSWER_KEPT = timedelta(days=7)
"""How long it is known that a request was answered with a task that was there: from then on, or from its due time."""


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
            "terms": _words(self.terms),
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
        moments: Moments,
        clock: Clock,
        new_id: Callable[[], str] = new_task_id,
    ) -> None:
        self._holders = Holders(store)
        self._ledger = ledger
        self._queues = queues
        self._dispatcher = dispatcher
        self._pending = pending
        self._clock = clock
        self._new_id = new_id
        self._moments = moments
        self._superseding = Few(SUPERSEDED)
        self._storing: set[asyncio.Task[Any]] = set()
        ledger.follow(self._announced)

    async def submit(self, principal: Principal, request: Submit) -> Task:
        """Stores the task durably and offers it to workers. A request_id seen before gets the outline of what it made.

        Raises RequestIdReused if the request differs from the one first made with its request_id, DedupeKeyTaken,
        TooManyTypes, TooManyPending.
        """
        task, limit = self._task(principal.workspace, request), self._pending.limit(principal)
        await self._queues.ensure(task.queue)
        if request.dedupe_key:
            return await self._submit_deduplicated(task, request.request_id, limit, use_existing=request.use_existing)
        return _same(await self._store_task(task, limit), task)

    async def settle(self) -> None:
        """Returns when no submit is under way that has to come to its end, though its caller may have gone."""
        while self._storing:
            await asyncio.wait(self._storing)

    def _task(self, workspace: str, request: Submit) -> Task:
        task_id = ids.from_request_id(workspace, request.request_id) if request.request_id else self._new_id()
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

    async def _submit_deduplicated(self, task: Task, request_id: str, limit: int, *, use_existing: bool) -> Task:
        """Who has the key is written first, with all of its submit; then the task.

        So whoever finds a key taken and no task stores it on the other's behalf, and no two tasks that have not ended
        ever have one key. An ended task is marked before its key is given away, by a guarded write, so that it can't be
        tried again beside its successor.
        """
        if not request_id:
            # Else the same submit of somebody else in the same millisecond could be taken for this one.
            task = replace(task, fingerprint=secrets.token_bytes(16))
        elif first := await self._first_answer(task, request_id):
            return first
        for _ in range(AGAIN):
            holder = await self._holders.find(task.held_key)
            there = await self._there(task.held_key, holder) if holder else None
            if holder == task.id and there is not None:
                return _same(there, task)
            if there is not None and not there.status.terminal:
                return await self._conflict(task, request_id, there, use_existing=use_existing)
            with self._pending.place(task.key, limit):
                if there is not None and not await self._supersede(there.key):
                    continue
                # A caller who gives up must not leave a key with a task that never comes.
                if stored := await asyncio.shield(self._track(self._take_key(task, holder))):
                    return _same(stored, task)
        raise errors.Aborted

    async def _first_answer(self, task: Task, request_id: str) -> Task | None:
        """What the request was answered before, whatever has become of the key; None if it is new."""
        there, answer = await asyncio.gather(
            self._ledger.get(task.key, View.OUTLINE), self._holders.answer(_call(task, request_id))
        )
        if there is not None:
            return _same(there, task)
        if answer is None:
            return None
        if answer.fingerprint != task.fingerprint:
            raise errors.RequestIdReused
        return await self._ledger.get(answer.granted[0].key, View.OUTLINE)

    async def _there(self, key: DedupeKey, holder: str) -> Task | None:
        """The outline of the task that has the key, stored now if it was not; None if the key is free after all."""
        there = await self._ledger.get(Key(key.workspace, holder), View.OUTLINE)
        if there is None:
            held = await self._holders.submit(key)
            if held is None or held.id != holder:
                return None  # too late: the key went to another meanwhile
            there, _ = await self._insert(held)
        return there if there.held_key == key else None

    async def _supersede(self, key: Key) -> bool:
        """Marks an ended task; returns whether that is done: not if it is tried again, or retention took it."""
        async with self._superseding.turn(key.workspace):
            try:
                await self._ledger.change(key, lambda there: transitions.supersede(there, self._clock()))
            except (errors.DedupeKeyTaken, errors.LeaseLost):
                return False
            return True

    async def _take_key(self, task: Task, holder: str) -> Task | None:
        """Takes the key from the task with the id `holder`; returns what is stored, None if others came first."""
        if not await self._holders.take(task, holder):
            return None
        stored, _ = await self._insert(task)
        if stored.fingerprint != task.fingerprint:
            # The same request_id, in the same moment, without a key or with another one.
            await self._holders.free(task)
        return stored

    async def _conflict(self, task: Task, request_id: str, there: Task, *, use_existing: bool) -> Task:
        if not use_existing:
            raise errors.DedupeKeyTaken(there.id)
        if request_id:
            answer = Answer(task.fingerprint, (Granted(there.key, ""),))
            expire_at = max(self._clock(), there.due_at) + ANSWER_KEPT
            kept = await self._holders.record(_call(task, request_id), answer, expire_at)
            if kept.fingerprint != task.fingerprint:
                raise errors.RequestIdReused
            return await self._ledger.get(kept.granted[0].key, View.OUTLINE) or there
        return there

    async def _store_task(self, task: Task, limit: int) -> Task:
        """Stores the task, unless its workspace has so many waiting; returns what is stored under its id.

        What has been accepted before is found again, however many wait by now.
        """
        try:
            with self._pending.place(task.key, limit):
                stored, _ = await self._insert(task)
                return stored
        except errors.TooManyPending:
            there = await self._ledger.get(task.key, View.OUTLINE) if task.fingerprint else None
            if there is None:
                raise
            return there

    async def _insert(self, task: Task) -> tuple[Task, bool]:
        """Stores it, already leased if a worker waits for it: what is stored, and whether that is the task itself."""
        task = self._moments.place(task)
        reserved = self._dispatcher.reserve(task)
        if reserved is None:
            stored = await self._ledger.insert(task)
            return stored, stored is task
        # A caller who gives up must not part the write from the delivery that follows it.
        return await asyncio.shield(self._track(self._store_and_deliver(*reserved)))

    def _track(self, storing: Coroutine[None, None, _T]) -> asyncio.Task[_T]:
        task = shared.begin(storing)
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)
        return task

    async def _store_and_deliver(self, session: Session, task: Task) -> tuple[Task, bool]:
        try:
            stored = await self._ledger.insert(task)
        except BaseException:
            self._dispatcher.give_back(session, task)
            raise
        if stored is task:
            await self._dispatcher.deliver(session, task)
        else:
            self._dispatcher.give_back(session, task)
        return stored, stored is task

    def _announced(self, before: Task | None, task: Task) -> None:
        if before is None:
            tracing.submitted.add(1)
        self._dispatcher.offer(task)


def _same(stored: Task, task: Task) -> Task:
    """What is stored under the task's id. Raises RequestIdReused if another request made it."""
    if stored.fingerprint != task.fingerprint:
        raise errors.RequestIdReused
    return stored


def _call(task: Task, request_id: str) -> Call:
    return Call(task.workspace, f"submit/{request_id.lower()}")


@lru_cache(maxsize=100)
def _words(terms: Terms) -> Mapping[str, Any]:
    """The terms by name, for the fingerprint. Most submits have the same; to spell them out is most of its cost."""
    return asdict(terms)


def _plain(value: object) -> object:
    """What JSON has no word for, in the fingerprint."""
    return sorted(value) if isinstance(value, frozenset) else str(value)
