"""Leases: fencing, repeated reports, leases that run out, tasks that come back, what a worker holds after a cut."""

import asyncio

import pytest
from support.engine import LEASE, Engine, operator, ref, tenant

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Failure, Key, Status, Task, View, seen
from openmcp_chain.domain.transitions import Decision
from openmcp_chain.engine.sweep import Swept
from openmcp_chain.store.memory import MemoryStore

STORED = 1.5 * LEASE
"""How long a lease is stored for."""


def at_once(engine: Engine) -> Engine:
    """Failed attempts are tried again without delay."""
    engine.app.leases._chance = lambda: 0.0
    return engine


async def test_expired_lease_is_swept_and_its_holder_fenced_off() -> None:
    """After the lease ran out the task is tried again; whatever the old holder reports is LEASE_LOST."""
    engine = at_once(Engine())
    slow, fresh = engine.worker(), engine.worker()
    await engine.submit()
    task = await slow.next()
    await asyncio.sleep(STORED)
    assert (await engine.app.sweep.run_once()).overdue == 1
    again = await fresh.next()
    assert (again.key, again.attempt) == (task.key, 2)
    for report in (slow.heartbeat(task), slow.complete(task), slow.fail(task), slow.stop(task)):
        with pytest.raises(errors.LeaseLost):
            await report
    await fresh.complete(again, b"second")
    assert engine.task(task.key).result == b"second"
    assert [event.seq for event in engine.task(task.key).events] == [1, 2, 3, 4, 5]


async def test_attempts_are_bounded() -> None:
    """A task that kills each of its workers has FAILED after its last attempt, with a history without gaps."""
    engine = at_once(Engine())
    worker = engine.worker(room=10)
    await engine.submit()
    for attempt in range(1, 6):
        task = await worker.next()
        assert task.attempt == attempt
        await asyncio.sleep(STORED)
        await engine.app.sweep.run_once()
    ended = engine.task(task.key)
    assert ended.status is Status.FAILED
    assert ended.failure
    assert ended.failure.code == "LEASE_EXPIRED"
    assert [event.seq for event in ended.events] == list(range(1, 12))
    assert await engine.app.sweep.run_once() == Swept(0, 0)


async def test_repeated_completion_is_answered_as_the_first() -> None:
    """The same result again is accepted and changes nothing; another result, or a failure, is LEASE_LOST."""
    engine = Engine()
    worker, elsewhere = engine.worker(), engine.worker()
    await engine.submit()
    task = await worker.next()
    await worker.complete(task, b"1")
    ended = engine.task(task.key)
    await worker.complete(task, b"1")
    await elsewhere.complete(task, b"1")
    assert engine.task(task.key) == ended
    for report in (worker.complete(task, b"2"), worker.fail(task), worker.heartbeat(task)):
        with pytest.raises(errors.LeaseLost):
            await report


async def test_repeated_failure_is_answered_as_the_first() -> None:
    """The failure that ended a task is accepted again and changes nothing."""
    engine = Engine()
    worker = engine.worker()
    await engine.submit()
    task = await worker.next()
    await worker.fail(task, retryable=False)
    ended = engine.task(task.key)
    await worker.fail(task, retryable=False)
    assert engine.task(task.key) == ended
    with pytest.raises(errors.LeaseLost):
        await worker.fail(task, "OTHER", retryable=False)


async def test_nobody_reports_on_what_is_not_theirs() -> None:
    """A tenant on another's task, an operator on another type: LEASE_LOST, even with the right token."""
    engine = Engine()
    worker = engine.worker()
    await engine.submit(tenant("a"))
    task = await worker.next()
    for stranger in (tenant("b"), operator("other")):
        worker.principal = stranger
        for report in (worker.heartbeat(task), worker.complete(task), worker.fail(task), worker.stop(task)):
            with pytest.raises(errors.LeaseLost):
                await report
    worker.principal = tenant("a")
    await worker.complete(task)


async def test_a_stream_that_says_nothing_is_given_nothing_for_what_it_lost() -> None:
    """Its worker may be stuck, with what it lost in its hands; once it says something it gets as many as it lost."""
    engine = at_once(Engine()).start("sweep")
    worker = engine.worker(room=2)
    engine.app.dispatcher.heard(worker.session)
    for _ in range(4):
        await engine.submit()
    lost = [await worker.next(), await worker.next()]
    await asyncio.sleep(5 * LEASE)
    assert worker.inbox.empty()
    assert {engine.task(task.key).attempt for task in lost} == {1}
    engine.app.dispatcher.heard(worker.session)
    kept, other = await worker.next(), await worker.next()
    await engine.app.dispatcher.settle()
    assert worker.inbox.empty()
    for _ in range(4):
        await asyncio.sleep(LEASE / 2)
        await worker.heartbeat(kept)
        engine.app.dispatcher.heard(worker.session)
    assert engine.task(other.key).status is Status.PENDING
    assert (await worker.next()).key != kept.key


async def test_a_worker_that_had_nothing_to_say_is_given_another_task_for_one_that_did_not_reach_it() -> None:
    """Idle for long, it was silent for a good reason."""
    engine = at_once(Engine())
    worker = engine.worker()
    engine.app.dispatcher.heard(worker.session)
    await asyncio.sleep(5 * LEASE)
    await engine.submit()
    await engine.app.leases.give_back(await worker.next())
    await worker.next()


@pytest.mark.parametrize("why", ["paused", "over"])
async def test_what_a_silent_stream_was_not_sent_costs_it_no_place(why: str) -> None:
    """Its type was paused just before, or the server was stopped until its lease was over: another comes instead."""
    engine = Engine()
    worker = engine.worker()
    engine.app.dispatcher.heard(worker.session)
    await asyncio.sleep(5 * LEASE)
    leases = engine.app.leases
    await engine.submit()
    task = await worker.next()
    leases.waits(task)
    if why == "over":
        await asyncio.sleep(STORED)
    assert not leases.goes_out(task, worker.session, allowed=why != "paused")
    other = await engine.submit()
    assert (await worker.next()).key == other.key
    assert leases.lives(task) is (why == "paused")
    await leases.give_back(task)
    await engine.app.dispatcher.settle()
    assert worker.inbox.empty()
    assert (worker.session.credits, worker.session.owed) == (0, 0)


async def test_task_that_did_not_reach_its_worker_returns_at_once_and_has_lost_no_attempt() -> None:
    """What a stream did not deliver goes to the next worker without waiting for the lease to end."""
    engine = Engine()
    gone = engine.worker()
    await engine.submit()
    task = await gone.next()
    gone.leave()
    worker = engine.worker()
    await engine.app.leases.give_back(task)
    again = await worker.next()
    assert (again.key, again.attempt) == (task.key, 1)
    assert engine.task(task.key).events[2].context["code"] == "WORKER_GONE"
    with pytest.raises(errors.LeaseLost):
        await gone.complete(task)
    await worker.complete(again)


async def test_undelivered_tasks_keep_all_their_attempts() -> None:
    """However often a task missed its worker, it is then tried as often as its policy says."""
    engine = at_once(Engine())
    worker = engine.worker()
    await engine.submit()
    for _ in range(20):
        await engine.app.leases.give_back(await worker.next())
    for attempt in range(1, 6):
        task = await worker.next()
        assert task.attempt == attempt
        await worker.fail(task)
    assert engine.task(task.key).status is Status.FAILED


async def test_giving_back_what_somebody_else_has_changes_nothing() -> None:
    """A task that was given back late, when its lease had ended, stays with its new holder."""
    engine = at_once(Engine())
    worker = engine.worker(room=2)
    await engine.submit()
    task = await worker.next()
    await worker.fail(task)
    again = await worker.next()
    await engine.app.leases.give_back(task)
    assert seen(engine.task(task.key), View.FULL) == again


async def test_a_worker_that_comes_back_reports_on_what_it_holds() -> None:
    """Over another process too: the lease takes a place of the new session until it ends."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    cut = here.worker(room=1)
    await here.submit()
    task = await cut.next()
    cut.leave()
    worker = there.worker(room=0)
    there.app.leases.claimed(worker.principal, ref(task), worker.session)
    await there.submit()
    assert worker.inbox.empty()
    await worker.heartbeat(task)
    await worker.complete(task)
    await worker.next()
    assert worker.session.credits == 0


async def test_a_lease_that_was_lost_over_the_cut_makes_room() -> None:
    """The worker that claims to hold it hears LEASE_LOST, and then gets another task."""
    store = MemoryStore()
    here, there = at_once(Engine(store)), Engine(store)
    cut = here.worker(room=1)
    await here.submit()
    task = await cut.next()
    await here.app.leases.fail(cut.principal, ref(task), Failure("E", "m"), retryable=False)
    worker = there.worker(room=0)
    there.app.leases.claimed(worker.principal, ref(task), worker.session)
    await there.submit()
    with pytest.raises(errors.LeaseLost):
        await worker.heartbeat(task)
    await worker.next()


async def test_late_news_of_a_task_takes_no_lease_that_came_after_them() -> None:
    """A look whose answer was overtaken by a new lease leaves that lease, and its worker's place, as they are."""
    engine = at_once(Engine())
    worker = engine.worker(room=1)
    await engine.submit()
    old = await worker.next()
    await worker.fail(old)
    task = await worker.next()
    engine.app.leases._announced(None, old)
    assert worker.session.credits == 0
    assert engine.app.leases.holds(task.key)
    await worker.complete(task)
    assert worker.session.credits == 1


async def test_sweep_finds_what_a_dead_process_left() -> None:
    """Ready tasks in no process's memory, and leases that nobody keeps, are found by whichever process sweeps."""
    store = MemoryStore()
    dead, alive = Engine(store), at_once(Engine(store))
    doomed = dead.worker()
    leased, ready = await dead.submit(), await dead.submit()
    assert (await doomed.next()).key == leased.key
    await alive.app.queues.refresh()
    worker = alive.worker(room=2)
    await asyncio.sleep(STORED)
    swept = await alive.app.sweep.run_once()
    assert swept.overdue == 1
    assert {(await worker.next()).key, (await worker.next()).key} == {leased.key, ready.key}


async def test_sweep_survives_whatever_one_of_its_turns_meets(caplog: pytest.LogCaptureFixture) -> None:
    """An unforeseen exception costs one turn: the log has it, and the next turn is made."""
    turns = asyncio.Event()

    class Broken(MemoryStore):
        broken = True

        async def expired_leases(self, *_: object) -> list[object]:  # type: ignore[override]
            if self.broken:
                self.broken = False
                raise ValueError("S3CRET")
            turns.set()
            return []

    Engine(Broken()).start()
    async with asyncio.timeout(LEASE):
        await turns.wait()
    assert "unforeseen" in [record.message for record in caplog.records]


async def test_poison_task_does_not_stop_the_others_from_being_swept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that can't be ended for whatever reason is logged; the others are."""
    engine = Engine()
    worker = engine.worker(room=2)
    await engine.submit()
    await engine.submit()
    poison, good = await worker.next(), await worker.next()
    change = engine.app.ledger.change

    async def stumbling(key: Key, decide: Decision) -> Task:
        if key == poison.key:
            raise ValueError("S3CRET")
        return await change(key, decide)

    monkeypatch.setattr(engine.app.ledger, "change", stumbling)
    await asyncio.sleep(STORED)
    await engine.app.sweep.run_once()
    assert engine.task(good.key).status is Status.PENDING
    assert "unforeseen" in [record.message for record in caplog.records]
