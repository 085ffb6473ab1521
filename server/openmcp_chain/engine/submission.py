"""Accepting tasks and reading them, for a workspace."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import uuid_utils

from openmcp_chain.domain import errors, ids, retry, transitions
from openmcp_chain.domain.task import Key, Priority, Task
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import tracing
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.dispatch import Dispatcher
from openmcp_chain.engine.ledger import Ledger


def new_task_id() -> str:
    """A UUIDv7: ids of later tasks sort later (RFC 9562, 5.7)."""
    return str(uuid_utils.uuid7())


@dataclass(frozen=True, slots=True)
class Submit:
    """A task to accept, already checked."""

    type: str
    payload: bytes
    """The serialized Struct; serialized deterministically if there is a request_id."""
    metadata: Mapping[str, str]
    priority: Priority
    request_id: str
    """A UUID, or empty."""

    def fingerprint(self) -> bytes:
        """What tells one request from another under the same request_id; empty without one."""
        if not self.request_id:
            return b""
        digest = hashlib.sha256()
        for part in (self.type, *(text for item in sorted(self.metadata.items()) for text in item)):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        digest.update(self.payload)
        return digest.digest()


class Submission:
    """Takes tasks in and gives them out again."""

    def __init__(
        self, ledger: Ledger, dispatcher: Dispatcher, clock: Clock, new_id: Callable[[], str] = new_task_id
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._clock = clock
        self._new_id = new_id
        self._storing: set[asyncio.Task[Task]] = set()

    async def submit(self, principal: Principal, request: Submit) -> Task:
        """Stores the task durably and offers it to workers. A request_id seen before gets the task that it made.

        Raises RequestIdReused if the request differs from the one first made with its request_id.
        """
        workspace = principal.workspace
        task = transitions.submit(
            workspace=workspace,
            task_id=ids.from_request_id(workspace, request.request_id) if request.request_id else self._new_id(),
            task_type=request.type,
            payload=request.payload,
            metadata=request.metadata,
            priority=request.priority,
            fingerprint=request.fingerprint(),
            traceparent=tracing.current(),
            max_attempts=retry.MAXIMUM_ATTEMPTS,
            now=self._clock(),
        )
        # A caller who gives up must not part the write from the offer that follows it.
        storing = asyncio.create_task(self._store_and_offer(task))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        stored = await asyncio.shield(storing)
        if stored.fingerprint != task.fingerprint:
            raise errors.RequestIdReused
        return stored

    async def settle(self) -> None:
        """Returns when no submit is under way."""
        while self._storing:
            await asyncio.wait(self._storing)

    async def _store_and_offer(self, task: Task) -> Task:
        reserved = self._dispatcher.reserve(task)
        if reserved is None:
            stored = await self._ledger.insert(task)
            if stored is task:
                self._dispatcher.offer(task)
        else:
            session, task = reserved
            try:
                stored = await self._ledger.insert(task)
            except BaseException:
                self._dispatcher.give_back(session)
                raise
            if stored is task:
                self._dispatcher.deliver(session, task)
            else:
                self._dispatcher.give_back(session)
        if stored is task:
            tracing.submitted.add(1, {"type": task.type})
        return stored

    async def get(self, principal: Principal, task_id: str) -> Task:
        """The task as it is now. Raises TaskNotFound."""
        # UUIDs are the same in either case (RFC 9562, 4).
        key = Key(principal.workspace, task_id.lower())
        task = await self._ledger.get(key) if ids.is_uuid(task_id) else None
        if task is None:
            raise errors.TaskNotFound(task_id)
        return task
