"""Whole lives in virtual time: processes and workers that die, clocks that differ, answers that are lost.

Each seed is another history. A test that fails says which seed it was; hypothesis tries it first the next time.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from model import laws
from support import virtual
from support.engine import LEASE, DistantStore, Engine, Worker, ref, tenant

from openmcp_chain.domain import errors
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Failure, Key, Queue, Status, Task, Terms
from openmcp_chain.store.memory import MemoryStore

SEEDS = st.integers(0, 2**32)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_two_processes_never_run_a_task_twice(seed: int) -> None:
    """However accesses to the store interleave: with two processes and no lost lease, each task runs exactly once."""

    async def main() -> None:
        chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
        store = DistantStore(chance)
        store.delay = chance.choice((0.0, 0.01, 0.2))
        engines = [Engine(store).start(), Engine(store).start()]
        runs = Counter[Key]()

        async def work(worker: Worker) -> None:
            while True:
                task = await worker.inbox.get()
                runs[task.key] += 1
                assert worker.inbox.qsize() < 3, "more than it has room for"
                await asyncio.sleep(chance.random() * chance.choice((0, 1)))
                await worker.complete(task)

        async def submit() -> Task:
            await asyncio.sleep(chance.random() * chance.choice((0, 1, 5)))
            return await chance.choice(engines).submit(tenant(chance.choice("abc")))

        workers = [engine.worker(room=3) for engine in engines for _ in range(2)]
        working = [asyncio.create_task(work(worker)) for worker in workers]
        tasks = await asyncio.gather(*(submit() for _ in range(40)))
        for task in await engines[0].see_out(tasks):
            assert [event.seq for event in task.events] == [1, 2, 3]
        assert runs == Counter(task.key for task in tasks)
        for one in working:
            assert not one.done() or one.result()

    virtual.run(main())


class Site:
    """Some server processes on one database, of which each may die at any moment, and another takes its place."""

    def __init__(self, chance: random.Random, processes: int) -> None:
        self.chance = chance
        self.store = MemoryStore()
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
                    engine.app.leases.claimed(ref(task), worker.session)
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


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS)
def test_every_task_ends_once_whoever_dies(seed: int) -> None:
    """Processes and workers die, answers are lost, leases run out, tasks are cancelled and retried, types paused.

    No accepted task is lost, each history is whole, what was answered is so, and nobody gets a task of a paused type.
    """

    async def main() -> None:
        chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
        site = Site(chance, 3)
        actors = [Actor(site) for _ in range(4)]
        working = [asyncio.create_task(actor.run()) for actor in actors]
        accepted: dict[Key, Task] = {}
        cancelled: set[Key] = set()

        async def submit(number: int) -> None:
            principal = tenant(chance.choice("ab"))
            task: Task | None = None

            async def call() -> None:
                nonlocal task
                policy = RetryPolicy(timedelta(seconds=1), 2.0, timedelta(seconds=5), 4)
                task = await site.engine.submit(
                    principal,
                    request_id=f"00000000-0000-4000-8000-{number:012}",
                    terms=Terms(retry=policy, start_to_close=timedelta(seconds=40) if number % 3 else None),
                )

            await asyncio.sleep(chance.random() * 60)
            await site.surely(call)
            assert task is not None
            accepted[task.key] = task
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 20)
                await meddle(task)

        async def meddle(task: Task) -> None:
            owner = tenant(task.workspace)
            try:
                await site.surely(lambda: site.engine.app.tasks.cancel(owner, task.id, "enough"))
                cancelled.add(task.key)
                await asyncio.sleep(chance.random() * 30)
                if chance.random() < 0.5:
                    cancelled.discard(task.key)
                    await site.surely(lambda: site.engine.app.tasks.retry(owner, task.id))
            except (errors.TaskEnded, errors.TaskNotRetryable):
                pass

        async def pause() -> None:
            for _ in range(3):
                await asyncio.sleep(chance.random() * 15)
                await site.surely(lambda: site.engine.app.queues.pause(Queue("a", "echo"), ""))
                for actor in actors:
                    actor.paused = True
                await asyncio.sleep(chance.random() * 10)
                for actor in actors:
                    actor.paused = False
                await site.surely(lambda: site.engine.app.queues.resume(Queue("a", "echo")))

        async def kill() -> None:
            for _ in range(5):
                await asyncio.sleep(chance.random() * 20)
                await site.kill()

        await asyncio.gather(*(submit(number) for number in range(25)), pause(), kill())
        site.settle()
        ended = await site.engine.see_out(accepted.values())
        await asyncio.sleep(3 * LEASE)  # late reports come in
        for task in ended:
            laws.history(task)
            laws.whole(task)
            assert task == site.store._tasks[task.key], "it changed after its end"
            assert task.result in (None, task.lease and task.lease.token.encode()), "not the last holder's result"
            ends = Counter(event.status for event in task.events)
            assert sum(actor.completed[task.key] for actor in actors) == ends[Status.SUCCEEDED]
            assert sum(actor.stopped[task.key] for actor in actors) <= ends[Status.CANCELLED]
            assert task.key not in cancelled or task.status is not Status.FAILED
        given = [entry for actor in actors for entry in actor.given]
        assert not [key for key, paused in given if paused and key.workspace == "a"]
        for one in working:
            assert not one.done() or one.result()

    virtual.run(main())
