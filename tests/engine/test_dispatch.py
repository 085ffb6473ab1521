"""Dispatch: who gets which task, never more than asked for, never twice, and nothing forgotten."""

import asyncio
import random
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engine import Engine, SlowStore, Worker, operator, ref, tenant
from support.service import PATIENCE, ManualClock, until

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Change, Key, Priority, Status, Task
from openmcp_chain.engine import backlog, sweep
from openmcp_chain.store.memory import MemoryStore


async def test_waiting_worker_gets_a_task_in_the_write_that_stores_it() -> None:
    """A task submitted while a worker waits is inserted already leased: one write, two events."""
    engine = Engine()
    worker = engine.worker()
    submitted = await engine.submit()
    task = await worker.next()
    assert task.key == submitted.key
    assert (task.status, task.attempt, task.version) == (Status.RUNNING, 1, 2)
    assert engine.task(task.key) == task


async def test_worker_that_comes_later_gets_what_waits() -> None:
    """Tasks that no worker waited for are given to the first that comes, the oldest first."""
    engine = Engine()
    engine.worker("other")
    keys = [(await engine.submit()).key for _ in range(3)]
    sweeping = asyncio.create_task(engine.app.sweep.run())
    worker = engine.worker(room=3)
    assert {(await worker.next()).key for _ in range(3)} == set(keys)
    sweeping.cancel()


async def test_never_more_than_there_is_room_for() -> None:
    """A worker holds at most `room` tasks: the next comes when one has ended, in success or failure, or was lost."""
    engine = Engine()
    worker = engine.worker(room=2)
    for _ in range(10):
        await engine.submit()
    await engine.app.dispatcher.settle()
    first, second = await worker.next(), await worker.next()
    assert worker.inbox.empty()
    await worker.complete(first)
    third = await worker.next()
    await engine.app.dispatcher.settle()
    assert worker.inbox.empty()
    await worker.fail(second, retryable=False)
    await worker.next()
    del engine.store._tasks[third.key]
    with pytest.raises(errors.LeaseLost):
        await worker.heartbeat(third)
    await worker.next()
    await engine.app.dispatcher.settle()
    assert worker.inbox.empty()


async def test_repeated_report_makes_room_once() -> None:
    """A report that is repeated is answered again, but frees one place only."""
    engine = Engine()
    worker = engine.worker(room=1)
    for _ in range(4):
        await engine.submit()
    task = await worker.next()
    await asyncio.gather(worker.complete(task), worker.complete(task))
    await worker.complete(task)
    await worker.next()
    await engine.app.dispatcher.settle()
    assert worker.inbox.empty()
    assert len(engine.task(task.key).events) == 3


async def test_idle_workers_take_turns() -> None:
    """Tasks go round the idle workers rather than to the first alone."""
    engine = Engine()
    workers = [engine.worker(room=10) for _ in range(3)]
    for _ in range(6):
        await engine.submit()
    assert [worker.inbox.qsize() for worker in workers] == [2, 2, 2]


async def test_tenants_single_task_is_not_held_up_by_anothers_flood() -> None:
    """With one worker, the task of a second tenant is at most the second to be given out."""
    engine = Engine()
    worker = engine.worker(room=1)
    for _ in range(50):
        await engine.submit(tenant("flood"))
    single = await engine.submit(tenant("b"))
    order = []
    for _ in range(3):
        task = await worker.next()
        order.append(task.key)
        await worker.complete(task)
    assert single.key in order


async def test_tenants_worker_gets_its_own_workspaces_tasks_only() -> None:
    """A worker signed in as a workspace never sees another's task."""
    engine = Engine()
    worker = engine.worker(room=10, workspace="a")
    await engine.submit(tenant("b"))
    own = await engine.submit(tenant("a"))
    await engine.app.sweep.run_once()
    await engine.app.dispatcher.settle()
    assert (await worker.next()).key == own.key
    assert worker.inbox.empty()


async def test_types_of_one_worker_take_turns() -> None:
    """A flood of one type does not starve another that the same worker takes."""
    engine = Engine()
    worker = engine.worker("echo", "other", room=1)
    for _ in range(50):
        await engine.submit()
    for _ in range(50):
        await engine.submit(task_type="other")
    seen = Counter[str]()
    for _ in range(10):
        task = await worker.next()
        seen[task.type] += 1
        await worker.complete(task)
    assert min(seen["echo"], seen["other"]) >= 4


async def test_priority_goes_first() -> None:
    """In one workspace a HIGH task is given out before NORMAL and LOW ones that came earlier."""
    engine = Engine()
    worker = engine.worker(room=1)
    blocker = await engine.submit()
    keys = {p: (await engine.submit(priority=p)).key for p in (Priority.LOW, Priority.NORMAL, Priority.HIGH)}
    order = []
    for _ in range(4):
        task = await worker.next()
        order.append(task.key)
        await worker.complete(task)
    assert order == [blocker.key, keys[Priority.HIGH], keys[Priority.NORMAL], keys[Priority.LOW]]


async def test_what_a_full_backlog_turned_away_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks past the bound of the backlog wait in the database, and are looked for when it has run empty."""
    monkeypatch.setattr(backlog, "TASKS", 5)
    monkeypatch.setattr(sweep, "BATCH", 4)
    engine = Engine()
    worker = engine.worker(room=1)
    keys = {(await engine.submit()).key for _ in range(30)}
    sweeping = asyncio.create_task(engine.app.sweep.run())
    seen = []
    for _ in range(30):
        task = await worker.next()
        seen.append(task.key)
        await worker.complete(task)
    sweeping.cancel()
    assert len(seen) == 30
    assert set(seen) == keys


async def test_lost_claim_costs_the_worker_nothing() -> None:
    """When another process was first, the worker has its place back and gets the next task."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    worker = here.worker(room=1)
    await here.submit()
    contested = await here.submit()
    other = there.worker(room=1)
    await there.app.sweep.run_once()
    taken = await other.next()
    assert taken.key == contested.key
    await worker.complete(await worker.next())
    await here.app.dispatcher.settle()
    assert worker.inbox.empty()
    last = await here.submit()
    assert (await worker.next()).key == last.key


async def test_claim_that_fails_unforeseen_costs_the_worker_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a claim raises, the worker's place is free again, and the fault is in the log."""
    engine = Engine()
    engine.worker("other")
    worker = engine.worker(room=1)
    blocker = await engine.submit()
    await engine.submit()

    async def broken(_: list[Change]) -> list[bool]:
        raise ValueError("S3CRET")

    update = engine.app.ledger._updates._flush
    task = await worker.next()
    await worker.complete(task)
    assert task.key == blocker.key
    second = await worker.next()
    await engine.submit()
    monkeypatch.setattr(engine.app.ledger._updates, "_flush", broken)
    engine.app.dispatcher.release(worker.session, ref(second).token)
    await engine.app.dispatcher.settle()
    monkeypatch.setattr(engine.app.ledger._updates, "_flush", update)
    assert worker.session.credits == 1
    await engine.submit()
    await worker.next()
    assert "unforeseen" in [record.message for record in caplog.records]


async def test_database_away_for_a_claim_leaves_the_task_to_the_sweep() -> None:
    """A claim that could not be written is made again once the database answers."""
    store = SlowStore(random.Random(1))  # noqa: S311 - interleavings, not secrets
    engine = Engine(store)
    worker = engine.worker(room=1)
    await engine.submit()
    waiting = await engine.submit()
    first = await worker.next()
    await worker.complete(first)
    store.away = True
    await engine.app.dispatcher.settle()
    store.away = False
    await engine.app.sweep.run_once()
    assert (await worker.next()).key == waiting.key


async def test_task_for_later_is_given_out_when_its_time_has_come() -> None:
    """A failed attempt's task is not given out before its backoff is over, and then without a sweep."""
    engine = Engine()
    engine.app.leases._chance = lambda: 0.1
    worker = engine.worker(room=1)
    await engine.submit()
    task = await worker.next()
    await worker.fail(task)
    again = await worker.next()
    assert (again.key, again.attempt) == (task.key, 2)
    pending, running = again.events[2], again.events[3]
    assert running.at - pending.at >= timedelta(milliseconds=int(pending.context["retry_in_ms"]))


async def test_leaving_is_final_and_may_be_said_twice() -> None:
    """A worker that left gets nothing new; what waits stays for others."""
    engine = Engine()
    worker = engine.worker(room=5)
    worker.leave()
    worker.leave()
    task = await engine.submit()
    assert worker.inbox.empty()
    assert engine.task(task.key).status is Status.PENDING
    assert not engine.app.dispatcher._backlogs
    assert not engine.app.dispatcher._idle


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_two_processes_never_run_a_task_twice(seed: int) -> None:
    """However accesses to the store interleave: with two processes and no lost lease, each task runs exactly once."""

    async def run() -> None:
        chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
        store = SlowStore(chance)
        engines = [Engine(store), Engine(store)]
        sweeps = [asyncio.create_task(engine.app.sweep.run()) for engine in engines]
        runs = Counter[Key]()

        async def work(worker: Worker) -> None:
            while True:
                task = await worker.inbox.get()
                runs[task.key] += 1
                assert worker.inbox.qsize() < 3, "more than it has room for"
                for _ in range(chance.randrange(5)):
                    await asyncio.sleep(0)
                await worker.complete(task)

        async def submit(engine: Engine) -> Task:
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
            task = await engine.submit(tenant(chance.choice("abc")))
            for other in engines:
                other.app.sweep.wake()
            return task

        workers = [engine.worker(room=3) for engine in engines for _ in range(2)]
        working = [asyncio.create_task(work(worker)) for worker in workers]
        tasks = await asyncio.gather(*(submit(chance.choice(engines)) for _ in range(40)))
        await until(lambda: all(store._tasks[task.key].status.terminal for task in tasks))
        for running in (*working, *sweeps):
            running.cancel()
        assert runs == Counter(task.key for task in tasks)
        for task in store._tasks.values():
            assert [event.seq for event in task.events] == [1, 2, 3]

    asyncio.run(run())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_task_ends_once_whoever_dies(seed: int) -> None:
    """Workers that vanish, leases that run out, reports that come late: each task has one terminal event, no gap."""

    async def run() -> None:
        chance, clock = random.Random(seed), ManualClock()  # noqa: S311 - interleavings, not secrets
        store = SlowStore(chance)
        engines = [Engine(store, clock), Engine(store, clock)]
        accepted = Counter[Key]()
        over = asyncio.Event()

        async def work(engine: Engine) -> None:
            worker = engine.worker(room=2)
            late: list[Task] = []
            while not over.is_set():
                if worker.inbox.empty():
                    await asyncio.sleep(0)
                    if late and chance.random() < 0.1:
                        await report(worker, late.pop(0))
                    continue
                task = worker.inbox.get_nowait()
                fate = chance.random()
                if fate < 0.2:
                    late.append(task)  # says nothing until much later
                elif fate < 0.3:
                    worker.leave()  # dies, and another comes
                    worker = engine.worker(room=2)
                else:
                    await report(worker, task)
                if late and chance.random() < 0.3:
                    await report(worker, late.pop())
            for task in late:
                await report(worker, task)

        async def report(worker: Worker, task: Task) -> None:
            try:
                if chance.random() < 0.3:
                    await worker.fail(task)
                else:
                    await worker.complete(task)
                    accepted[task.key] += 1
            except errors.LeaseLost:
                pass

        async def sweep_often() -> None:
            while not over.is_set():
                clock.advance(chance.random() * 5)
                for engine in engines:
                    await engine.app.sweep.run_once()
                await asyncio.sleep(0)

        working = [asyncio.create_task(work(engine)) for engine in engines for _ in range(2)]
        sweeping = asyncio.create_task(sweep_often())
        tasks = [await chance.choice(engines).submit(tenant(chance.choice("ab"))) for _ in range(20)]
        await until(lambda: all(store._tasks[task.key].status.terminal for task in tasks))
        over.set()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*working, sweeping)
        for task in store._tasks.values():
            assert [event.seq for event in task.events] == list(range(1, len(task.events) + 1))
            assert [event.status.terminal for event in task.events].count(True) == 1
            assert task.attempt <= task.max_attempts
            assert accepted[task.key] == (1 if task.status is Status.SUCCEEDED else 0)

    asyncio.run(run())


def test_helpers_agree_on_who_is_an_operator() -> None:
    """The principals that these tests use are what sign-in makes: an operator owns no tasks."""
    assert operator("echo").worker_types == {"echo"}
    assert not tenant().worker_types
