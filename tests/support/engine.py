"""The engine without a wire: an `App`'s parts over a store, with workers that are sessions in this process."""

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from support.service import PATIENCE, SETTINGS

from openmcp_chain.app import App
from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Change, Failure, Key, Priority, Task
from openmcp_chain.domain.workspace import Principal, Scope
from openmcp_chain.engine import clock
from openmcp_chain.engine.dispatch import Demand, Session
from openmcp_chain.engine.leases import LeaseRef
from openmcp_chain.engine.submission import Submit
from openmcp_chain.store.memory import MemoryStore


def tenant(workspace: str = "ws-1") -> Principal:
    return Principal(
        workspace=workspace,
        plan="unlimited",
        scopes=frozenset(Scope),
        worker_types=frozenset(),
        secret_id="",
        expires_at=clock.system() + timedelta(hours=1),
    )


def operator(*task_types: str) -> Principal:
    return Principal(
        workspace="operator-1",
        plan="unlimited",
        scopes=frozenset({Scope.WORKER}),
        worker_types=frozenset(task_types or ("echo",)),
        secret_id="",
        expires_at=clock.system() + timedelta(hours=1),
    )


class SlowStore(MemoryStore):
    """Lets others go first, before and after each access, as a network does: how often is decided by `chance`."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self.away = False
        """While true, no access works."""

    async def _wait(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)
        if self.away:
            raise errors.Unavailable

    async def insert_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        await self._wait()
        stored = await super().insert_tasks(tasks)
        await self._wait()
        return stored

    async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
        await self._wait()
        made = await super().update_tasks(changes)
        await self._wait()
        return made

    async def get_tasks(self, keys: Collection[Key]) -> Mapping[Key, Task]:
        await self._wait()
        found = await super().get_tasks(keys)
        await self._wait()
        return found

    async def ready_tasks(
        self, types: Collection[str], workspace: str | None, now: datetime, limit: int
    ) -> Sequence[Task]:
        await self._wait()
        found = await super().ready_tasks(types, workspace, now, limit)
        await self._wait()
        return found


class Engine:
    """One server process's engine."""

    def __init__(self, store: MemoryStore | None = None, now: clock.Clock = clock.system) -> None:
        self.store = store if store is not None else MemoryStore()
        self.app = App(SETTINGS, self.store, now)

    async def submit(
        self,
        principal: Principal | None = None,
        task_type: str = "echo",
        *,
        payload: bytes = b"",
        priority: Priority = Priority.NORMAL,
        request_id: str = "",
    ) -> Task:
        request = Submit(type=task_type, payload=payload, metadata={}, priority=priority, request_id=request_id)
        return await self.app.submission.submit(principal or tenant(), request)

    def worker(self, *task_types: str, room: int = 1, workspace: str | None = None) -> "Worker":
        """A worker that has just come."""
        return Worker(self, frozenset(task_types or ("echo",)), room, workspace)

    def task(self, key: Key) -> Task:
        """The task as stored now."""
        return self.store._tasks[key]


class Worker:
    """A session, and the tasks that it was given."""

    def __init__(self, engine: Engine, types: frozenset[str], room: int, workspace: str | None) -> None:
        self._leases = engine.app.leases
        self._dispatcher = engine.app.dispatcher
        self.principal = operator(*types) if workspace is None else tenant(workspace)
        self.inbox: asyncio.Queue[Task] = asyncio.Queue()
        self.session = Session(
            worker="worker-1", demand=Demand(types, workspace), room=room, deliver=self.inbox.put_nowait
        )
        self._dispatcher.join(self.session)

    async def next(self) -> Task:
        """The next task, for which it waits."""
        async with asyncio.timeout(PATIENCE):
            return await self.inbox.get()

    def leave(self) -> None:
        self._dispatcher.leave(self.session)

    async def complete(self, task: Task, result: bytes = b"") -> None:
        await self._leases.complete(self.principal, self.session, ref(task), result)

    async def fail(self, task: Task, code: str = "BROKEN", *, retryable: bool = True) -> None:
        await self._leases.fail(self.principal, self.session, ref(task), Failure(code, "it broke"), retryable=retryable)

    async def heartbeat(self, task: Task) -> None:
        await self._leases.heartbeat(self.principal, self.session, ref(task))


def ref(task: Task) -> LeaseRef:
    assert task.lease is not None
    return LeaseRef(task.key, task.lease.token)
