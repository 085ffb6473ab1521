"""Whole lives in virtual time: processes and workers that die, clocks that differ, answers that are lost.

Each seed is another history. A test that fails says which seed it was; hypothesis tries it first the next time.
"""

import asyncio
import random
from collections import Counter
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from model import laws
from support import virtual
from support.engine import LEASE, DistantStore, Engine, Worker, tenant
from support.lives import PAUSED, Actor, Caller, Site

from openmcp_chain.domain import errors
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Key, Queue, Status, Task, Terms

SEEDS = st.integers(0, 2**32)


@settings(max_examples=15, deadline=None)
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


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_every_task_ends_once_whoever_dies(seed: int) -> None:
    """Processes and workers die, answers are lost, leases run out, tasks are cancelled and retried, types paused.

    No accepted task is lost, each history is whole, what was answered is so, and nobody gets a task of a paused type.
    What was refused for its dedupe_key never is, and nothing is that has not ended beside another with the key.
    """

    async def main() -> None:
        chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
        site = Site(chance, 3)
        actors = [Actor(site), Actor(site), Actor(site), Caller(site)]
        working = [asyncio.create_task(actor.run()) for actor in actors]
        accepted: dict[Key, Task] = {}
        cancelled: set[Key] = set()

        async def submit(number: int) -> None:
            principal = tenant(chance.choice("ab"))
            task: Task | None = None
            request_id = f"00000000-0000-4000-8000-{number:012}"
            dedupe_key = chance.choice(("", "", "hourly", "nightly"))

            async def call() -> None:
                nonlocal task
                policy = RetryPolicy(timedelta(seconds=1), 2.0, timedelta(seconds=5), 4)
                task = await site.engine.submit(
                    principal,
                    request_id=request_id,
                    dedupe_key=dedupe_key,
                    terms=Terms(retry=policy, start_to_close=timedelta(seconds=40) if number % 3 else None),
                )

            await asyncio.sleep(chance.random() * 60)
            try:
                await site.surely(call)
            except errors.DedupeKeyTaken:
                return
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
                await site.surely(lambda: site.engine.app.queues.pause(Queue(PAUSED, "echo"), ""))
                for actor in actors:
                    actor.paused = True
                await asyncio.sleep(chance.random() * 10)
                for actor in actors:
                    actor.paused = False
                await site.surely(lambda: site.engine.app.queues.resume(Queue(PAUSED, "echo")))

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
        assert set(site.store._tasks) == set(accepted), "what was refused is there, or what was accepted is not"
        assert not site.store.twice
        given = [entry for actor in actors for entry in actor.given]
        assert not [key for key, paused in given if paused and key.workspace == PAUSED]
        for one in working:
            assert not one.done() or one.result()

    virtual.run(main())
