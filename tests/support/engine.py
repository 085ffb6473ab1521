"""The engine without a wire: an `App`'s parts over a store in memory, with workers that are sessions in the process."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from functools import wraps
from typing import Any

from support import virtual
from support.service import PATIENCE, SETTINGS

from openmcp_chain.app import App
from openmcp_chain.domain import errors
from openmcp_chain.domain.task import NORMAL, Failure, Key, Progress, Task
from openmcp_chain.domain.workspace import Principal, Scope
from openmcp_chain.engine import clock
from openmcp_chain.engine.leases import LeaseRef
from openmcp_chain.engine.sessions import Demand, Session
from openmcp_chain.engine.submission import Submit
from openmcp_chain.store.base import Signal
from openmcp_chain.store.memory import MemoryStore

LEASE = SETTINGS.lease_duration.total_seconds()
"""How long a worker may be silent."""


def tenant(workspace: str = "ws-1") -> Principal:
    return Principal(
        workspace=workspace,
        plan="unlimited",
        scopes=frozenset(Scope),
        worker_types=frozenset(),
        secret_id="",
        key_id="",
        expires_at=clock.system() + timedelta(hours=1),
    )


def operator(*task_types: str) -> Principal:
    return Principal(
        workspace="operator-1",
        plan="unlimited",
        scopes=frozenset({Scope.WORKER}),
        worker_types=frozenset(task_types or ("echo",)),
        secret_id="",
        key_id="",
        expires_at=clock.system() + timedelta(hours=1),
    )


class DistantStore(MemoryStore):
    """A store at the other end of a wire, which may be slow or cut, and which a test may listen to."""

    def __init__(self, chance: random.Random | None = None, data: MemoryStore | None = None) -> None:
        """`data` is where others have their wires too; else it is this store's own."""
        super().__init__()
        self._data = data or self
        self._tasks = self._data._tasks
        self._chance = chance or random.Random(0)  # noqa: S311 - interleavings, not secrets
        self.delay = 0.0
        """Seconds that a call takes at most, each way."""
        self.lost = 0.0
        """The share of the calls that fail, whether before they have done their work or after."""
        self.away = False
        """While true, no call works."""
        self.cut = ""
        """While it names a method, no call of that one works."""
        self.calls = Counter[str]()
        self.gates: dict[str, asyncio.Event] = {}
        """A call of a method with a gate waits there before it does its work; `late` ones after it."""
        self.late: dict[str, asyncio.Event] = {}

    def watch(self) -> AsyncIterator[Signal]:
        return MemoryStore.watch(self) if self._data is self else self._data.watch()

    async def travel(self, name: str, gates: Mapping[str, asyncio.Event]) -> None:
        """One way."""
        await asyncio.sleep(self._chance.random() * self.delay)
        if name in gates:
            await gates[name].wait()
        if self.away or self.cut == name or self._chance.random() < self.lost / 2:
            raise errors.Unavailable


def _distant(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    async def call(self: DistantStore, *args: Any, **options: Any) -> Any:
        self.calls[name] += 1
        await self.travel(name, self.gates)
        answer = await method(self._data, *args, **options)
        await self.travel(name, self.late)
        return answer

    return call


for _name, _method in list(vars(MemoryStore).items()):
    if not _name.startswith("_") and _name not in ("watch", "close"):
        setattr(DistantStore, _name, _distant(_name, _method))


class Engine:
    """One server process's engine."""

    def __init__(self, store: MemoryStore | None = None, now: clock.Clock = virtual.clock) -> None:
        self.store = store if store is not None else MemoryStore()
        self.app = App(SETTINGS, self.store, now)
        self.app.leases._chance = random.Random(0).random  # noqa: S311 - backoffs, the same in each run
        self.app.sweep._chance = random.Random(0)  # noqa: S311 - an order, the same in each run
        self._loops: list[asyncio.Task[None]] = []

    def start(self, *parts: str) -> "Engine":
        """Runs what a server runs besides serving, or only these parts of it, until `die`, or the end of the test."""
        loops = {
            "bearers": self.app.bearers.run,
            "queues": self.app.queues.run,
            "sweep": self.app.sweep.run,
            "signals": self.app.signals.run,
            "pending": self.app.pending.run,
            "eviction": self.app.eviction.run,
            "retention": self.app.retention.run,
        }
        self._loops = [asyncio.create_task(loops[part]()) for part in parts or loops]
        return self

    async def die(self) -> None:
        """Ends what was started, and settles nothing."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def submit(
        self,
        principal: Principal | None = None,
        task_type: str = "echo",
        *,
        payload: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = NORMAL,
        request_id: str = "",
        **fields: Any,
    ) -> Task:
        request = Submit(
            type=task_type,
            payload=payload,
            metadata=metadata or {},
            labels=labels or {},
            priority=priority,
            request_id=request_id,
            **fields,
        )
        return await self.app.submission.submit(principal or tenant(), request)

    def worker(self, *task_types: str, room: int = 1, workspace: str | None = None) -> "Worker":
        """A worker that has just come."""
        return Worker(self, frozenset(task_types or ("echo",)), room, workspace)

    async def see_out(self, tasks: Iterable[Task]) -> list[Task]:
        """The tasks, once all of them have ended."""
        keys = [task.key for task in tasks]
        async with asyncio.timeout(600):
            while not all(self.task(key).status.terminal for key in keys):  # noqa: ASYNC110 - several engines' work
                await asyncio.sleep(1)
        return [self.task(key) for key in keys]

    def task(self, key: Key) -> Task:
        """The task as stored now."""
        return self.store._tasks[key]


class Worker:
    """A session, and what it was given."""

    def __init__(self, engine: Engine, types: frozenset[str], room: int, workspace: str | None) -> None:
        self._leases = engine.app.leases
        self._dispatcher = engine.app.dispatcher
        self.principal = operator(*types) if workspace is None else tenant(workspace)
        self.inbox: asyncio.Queue[Task] = asyncio.Queue()
        self.stops: asyncio.Queue[Task] = asyncio.Queue()
        self.session = Session(
            worker="worker-1",
            demand=Demand(types, workspace),
            room=room,
            deliver=self.inbox.put_nowait,
            cancel=self.stops.put_nowait,
        )
        self._dispatcher.join(self.session)

    async def next(self) -> Task:
        """The next task, for which it waits."""
        async with asyncio.timeout(PATIENCE):
            return await self.inbox.get()

    async def told_to_stop(self) -> Task:
        """The next task that it is told to stop."""
        async with asyncio.timeout(PATIENCE):
            return await self.stops.get()

    def leave(self) -> None:
        """Hangs up: its leases go on."""
        self._dispatcher.leave(self.session)
        self._leases.left(self.session)

    async def complete(self, task: Task, result: bytes = b"") -> None:
        await self._leases.complete(self.principal, ref(task), result)

    async def fail(self, task: Task, code: str = "BROKEN", *, retryable: bool = True) -> Task:
        return await self._leases.fail(self.principal, ref(task), Failure(code, "it broke"), retryable=retryable)

    async def stop(self, task: Task) -> None:
        await self._leases.stop(self.principal, ref(task))

    async def heartbeat(self, task: Task, progress: Progress | None = None, line: str = "") -> Task:
        return await self._leases.heartbeat(self.principal, ref(task), progress, line)


def ref(task: Task) -> LeaseRef:
    assert task.lease is not None
    return LeaseRef(task.key, task.lease.token)


async def crowd(engines: list[Engine], submit: Callable[[Engine, int], Awaitable[Task]]) -> list[Task | BaseException]:
    """A hundred at once, over all processes."""
    calls = (submit(engines[number % len(engines)], number) for number in range(100))
    return await asyncio.gather(*calls, return_exceptions=True)


def distant(seed: int) -> DistantStore:
    """A store that takes its time, each access another."""
    store = DistantStore(random.Random(seed))  # noqa: S311 - interleavings, not secrets
    store.delay = 0.2
    return store
