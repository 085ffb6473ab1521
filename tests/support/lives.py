"""Programs for whole lives in virtual time: server processes and workers that die, and a database that judges."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from support import virtual
from support.engine import LEASE, DistantStore, Engine, Worker, ref, tenant

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Change, Failure, Key, Status, Task
from openmcp_chain.engine import answers
from openmcp_chain.engine.leasing import Ask
from openmcp_chain.engine.sessions import Demand
from openmcp_chain.store.memory import MemoryStore


class Judge(MemoryStore):
    """The database, which looks at each task that is written: no two that have not ended have one dedupe_key."""

    def __init__(self) -> None:
        super().__init__()
        self.twice: list[Task] = []

    def _insert(self, task: Task) -> Task:
        stored = super()._insert(task)
        self._look(stored)
        return stored

    def _update(self, change: Change) -> bool:
        self._look(change.after)
        return super()._update(change)

    def _look(self, task: Task) -> None:
        same = (
            one for one in self._tasks.values() if (one.workspace, one.dedupe_key) == (task.workspace, task.dedupe_key)
        )
        if task.dedupe_key and sum(not one.status.terminal for one in same) > 1:
            self.twice.append(task)


class Site:
    """Some server processes on one database, of which each may die at any moment, and another takes its place."""

    def __init__(self, chance: random.Random, processes: int) -> None:
        self.chance = chance
        self.store = Judge()
        self.engines = [self._engine() for _ in range(processes)]
        self.calm = False
        """Nothing goes wrong any more."""

    def _engine(self) -> Engine:
        wire = DistantStore(self.chance, self.store)
        wire.delay, wire.lost = 0.1, 0.02
        ahead = timedelta(milliseconds=self.chance.randrange(-2000, 2000))
        engine = Engine(wire, lambda: virtual.clock() + ahead)
        engine.app.leases._chance = self.chance.random
        return engine.start()

    @property
    def engine(self) -> Engine:
        """One of those that are alive."""
        return self.chance.choice(self.engines)

    async def kill(self) -> None:
        """A process dies in the middle of whatever it does; nothing of it reaches the database from now on."""
        dying = self.engines.pop(self.chance.randrange(len(self.engines)))
        wire_of(dying).away = True
        await dying.die()
        await asyncio.sleep(self.chance.random() * 5)
        self.engines.append(self._engine())

    def leased(self, task: Task) -> bool:
        """Whether its holder holds it yet, by what is stored."""
        stored = self.store._tasks[task.key]
        return stored.status is Status.RUNNING and stored.lease is not None and stored.lease.token == ref(task).token

    def settle(self) -> None:
        """From now on everything works."""
        self.calm = True
        for engine in self.engines:
            wire_of(engine).lost = 0.0

    async def surely(self, call: Callable[[], Awaitable[object]]) -> None:
        """Makes the call until it is answered, as a client does."""
        while True:
            try:
                await call()
            except (errors.Unavailable, errors.Aborted):
                await asyncio.sleep(0.2)
            else:
                return


def wire_of(engine: Engine) -> DistantStore:
    assert isinstance(engine.store, DistantStore)
    return engine.store


class Actor:
    """A worker program: it keeps a stream to some process, and goes to another when that one dies."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.chance = site.chance
        self.held: dict[str, Task] = {}
        """By lease."""
        self.completed = Counter[Key]()
        self.stopped = Counter[Key]()
        self.given: list[tuple[Key, bool]] = []
        """Each task that it got, and whether its type was paused then."""
        self.paused = False

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                engine = self.site.engine
                worker = engine.worker(room=3 - len(self.held))
                worker.session.deliver = self._deliver(worker)
                for task in self.held.values():
                    engine.app.leases.claimed(worker.principal, ref(task), worker.session)
                cut = self.chance.random() * 60
                while engine in self.site.engines and (cut > 0 or self.site.calm):
                    while not worker.inbox.empty():
                        task = worker.inbox.get_nowait()
                        self.held[ref(task).token] = task
                        assert sum(map(self.site.leased, self.held.values())) <= 3, "more than it has room for"
                        group.create_task(self._attempt(task))
                    await asyncio.sleep(0.1)
                    cut -= 0.1
                if engine in self.site.engines and self.chance.random() < 0.3:
                    # Half-open: the server learns later that nobody is there, and what it sent meanwhile is lost.
                    worker.session.deliver = lambda _: None
                    asyncio.get_running_loop().call_later(self.chance.random() * 2 * LEASE, worker.leave)
                else:
                    worker.leave()
                while not worker.inbox.empty():
                    await engine.app.leases.give_back(worker.inbox.get_nowait())

    def _deliver(self, worker: Worker) -> Callable[[Task], None]:
        def deliver(task: Task) -> None:
            self.given.append((task.key, self.paused))
            worker.inbox.put_nowait(task)

        return deliver

    async def _attempt(self, task: Task) -> None:
        try:
            await self._work(task)
        except errors.LeaseLost:
            pass
        finally:
            del self.held[ref(task).token]

    async def _work(self, task: Task) -> None:
        fate = self.chance.random() if not self.site.calm else 1.0
        if fate < 0.1:
            await asyncio.sleep(self.chance.uniform(0.9, 2) * LEASE)  # is silent, and reports all the same
        stopping = False
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(self.chance.random() * LEASE / 3)
            stopping = await self._heartbeat(task) or stopping
        if 0.1 < fate < 0.2:
            return  # dies without a word
        await self._report(task, stopping, fate)

    async def _heartbeat(self, task: Task) -> bool:
        known: Task | None = None

        async def heartbeat() -> None:
            nonlocal known
            line = "note" if self.chance.random() < 0.3 else ""
            known = await self.site.engine.app.leases.heartbeat(tenant(task.workspace), ref(task), line=line)

        await self.site.surely(heartbeat)
        return known is not None and known.cancel is not None

    async def _report(self, task: Task, stopping: bool, fate: float) -> None:
        principal, lease = tenant(task.workspace), ref(task)
        if stopping and self.chance.random() < 0.8:
            await self.site.surely(lambda: self.site.engine.app.leases.stop(principal, lease))
            self.stopped[task.key] += 1
        elif 0.2 < fate < 0.45:
            failure, retryable = Failure("BROKEN", "it broke"), fate < 0.4
            await self.site.surely(
                lambda: self.site.engine.app.leases.fail(principal, lease, failure, retryable=retryable)
            )
        else:
            result = lease.token.encode()
            await self.site.surely(lambda: self.site.engine.app.leases.complete(principal, lease, result))
            self.completed[task.key] += 1


PAUSED = "a"
"""The workspace whose tasks are paused now and then: an answer is repeated without them."""


class Caller(Actor):
    """A worker that calls for its tasks, under one request_id until it is answered, and again if it lost the answer."""

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for task in await self._lease():
                    self.held[ref(task).token] = task
                    group.create_task(self._attempt(task))
                await asyncio.sleep(self.chance.random() * 5)

    async def _lease(self) -> Sequence[Task]:
        ask = Ask(
            worker="caller",
            version="",
            demand=Demand(frozenset({"echo"}), None),
            most=self.chance.randrange(1, 4),
            wait=self.chance.random() * 5,
            request_id=str(uuid.UUID(int=self.chance.getrandbits(128))),
            most_bytes=answers.BYTES,
        )
        got: Sequence[Task] = ()

        async def call() -> None:
            nonlocal got
            async with self.site.engine.app.leasing.lease("operator-1", 10, ask) as leased:
                got = leased.tasks

        await self.site.surely(call)
        self._count(got)
        if self.chance.random() < 0.3:
            lost = got
            await self.site.surely(call)
            self._count(got)
            again = {ref(task).token for task in got}
            live = {ref(task).token for task in lost if self.site.leased(task) and task.workspace != PAUSED}
            assert not live or again <= {ref(task).token for task in lost}, "other tasks than the first time"
            assert live <= again, "the first answer hides a task"
        return got

    def _count(self, got: Sequence[Task]) -> None:
        self.given += ((task.key, self.paused) for task in got)
