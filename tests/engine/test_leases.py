"""Leases and the ledger: fencing, repeated reports, leases that run out, what comes back, request ids, the sweep."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

import pytest
from support.engine import Engine, operator, tenant
from support.service import ManualClock, until

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.task import Change, Status, Task
from openmcp_chain.engine.ledger import DECISIONS
from openmcp_chain.engine.sweep import Swept
from openmcp_chain.store.memory import MemoryStore

LEASE = 15.0


async def test_expired_lease_is_swept_and_its_holder_fenced_off() -> None:
    """After the lease ran out the task is tried again; whatever the old holder reports is LEASE_LOST."""
    clock = ManualClock()
    engine = Engine(now=clock)
    engine.app.leases._chance = lambda: 0.0
    slow, fresh = engine.worker(), engine.worker()
    await engine.submit()
    task = await slow.next()
    clock.advance(LEASE + 0.1)
    assert (await engine.app.sweep.run_once()).expired == 1
    again = await fresh.next()
    assert (again.key, again.attempt) == (task.key, 2)
    for report in (slow.heartbeat(task), slow.complete(task), slow.fail(task)):
        with pytest.raises(errors.LeaseLost):
            await report
    await fresh.complete(again, b"second")
    assert engine.task(task.key).result == b"second"
    assert [event.seq for event in engine.task(task.key).events] == [1, 2, 3, 4, 5]


async def test_attempts_are_bounded() -> None:
    """A task that kills each of its workers has FAILED after its last attempt, with a history without gaps."""
    clock = ManualClock()
    engine = Engine(now=clock)
    engine.app.leases._chance = lambda: 0.0
    worker = engine.worker(room=10)
    await engine.submit()
    for attempt in range(1, 6):
        task = await worker.next()
        assert task.attempt == attempt
        clock.advance(LEASE + 0.1)
        await engine.app.sweep.run_once()
    ended = engine.task(task.key)
    assert ended.status is Status.FAILED
    assert ended.failure
    assert ended.failure.code == "LEASE_EXPIRED"
    assert [event.seq for event in ended.events] == list(range(1, 12))
    assert await engine.app.sweep.run_once() == Swept(0, 0)


async def test_heartbeat_keeps_the_lease() -> None:
    """A heartbeat extends the lease to a full duration from then; it is no event."""
    clock = ManualClock()
    engine = Engine(now=clock)
    worker = engine.worker()
    await engine.submit()
    task = await worker.next()
    for _ in range(5):
        clock.advance(LEASE - 1)
        await worker.heartbeat(task)
        assert (await engine.app.sweep.run_once()).expired == 0
    await worker.complete(task)
    assert [event.status for event in engine.task(task.key).events][-1] is Status.SUCCEEDED


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
    worker.session.leases.clear()
    for stranger in (tenant("b"), operator("other")):
        worker.principal = stranger
        with pytest.raises(errors.LeaseLost):
            await worker.complete(task)
    worker.principal = tenant("a")
    await worker.complete(task)


async def test_task_that_did_not_reach_its_worker_returns_at_once() -> None:
    """What a stream did not deliver goes to the next worker without waiting for the lease to end."""
    engine = Engine()
    engine.app.leases._chance = lambda: 0.0
    gone = engine.worker()
    await engine.submit()
    task = await gone.next()
    gone.leave()
    worker = engine.worker()
    await engine.app.leases.undelivered(task)
    again = await worker.next()
    assert (again.key, again.attempt) == (task.key, 2)
    assert again.events[2].context["code"] == "WORKER_GONE"


async def test_change_decides_again_on_what_came_first() -> None:
    """A change that lost to another is decided anew on the newest state, not forced on top of it."""
    engine = Engine()
    worker = engine.worker()
    await engine.submit()
    stale = await worker.next()
    await worker.heartbeat(stale)
    newest = engine.task(stale.key)
    seen: list[int] = []

    def decide(task: Task) -> Task:
        seen.append(task.version)
        return transitions.extend(task, task.lease.token if task.lease else "", task.updated_at)

    changed = await engine.app.ledger.change(stale, decide)
    assert seen == [stale.version, newest.version]
    assert changed.version == newest.version + 1


async def test_change_gives_up_after_some_decisions() -> None:
    """Where others always come first, the answer is Aborted rather than a call without end."""

    class Contested(MemoryStore):
        async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
            return [False for _ in changes]

    engine = Engine(Contested())
    engine.worker()
    task = await engine.submit()
    decided = []

    def decide(task: Task) -> Task:
        decided.append(task)
        return replace(task, version=task.version + 1)

    with pytest.raises(errors.Aborted):
        await engine.app.ledger.change(task, decide)
    assert len(decided) == DECISIONS


async def test_change_of_a_task_that_is_gone_is_lease_lost() -> None:
    """A task that retention took away in between is nobody's any more."""
    engine = Engine()
    worker = engine.worker()
    await engine.submit()
    task = await worker.next()
    del engine.store._tasks[task.key]
    with pytest.raises(errors.LeaseLost):
        await worker.complete(task)


async def test_two_changes_to_one_task_in_a_batch_both_count() -> None:
    """Two heartbeats in one group commit: both are carried out, one after the other."""
    engine = Engine()
    worker = engine.worker()
    await engine.submit()
    task = await worker.next()
    await asyncio.gather(*(worker.heartbeat(task) for _ in range(5)))
    assert engine.task(task.key).version == task.version + 5


async def test_hundred_submits_with_one_request_id_make_one_task() -> None:
    """All get the same task, stored once and run once, whichever process they reach."""
    store = MemoryStore()
    engines = [Engine(store), Engine(store)]
    worker = engines[0].worker(room=100)
    request_id = str(uuid4())
    tasks = await asyncio.gather(
        *(
            engines[number % 2].submit(request_id=(request_id, request_id.upper())[number % 3 == 0])
            for number in range(100)
        )
    )
    assert len({task.key for task in tasks}) == 1
    assert len(store._tasks) == 1
    if worker.inbox.empty():
        await engines[0].app.sweep.run_once()
    await worker.complete(await worker.next())
    assert worker.inbox.empty()
    assert worker.session.credits == 100


async def test_request_id_with_another_request_is_refused() -> None:
    """The same request_id with another type or payload is REQUEST_ID_REUSED; in another workspace it is independent."""
    engine = Engine()
    request_id = str(uuid4())
    first = await engine.submit(tenant("a"), payload=b"1", request_id=request_id)
    for task_type, payload in (("other", b"1"), ("echo", b"2")):
        with pytest.raises(errors.RequestIdReused):
            await engine.submit(tenant("a"), task_type, payload=payload, request_id=request_id)
    other = await engine.submit(tenant("b"), payload=b"2", request_id=request_id)
    assert other.id != first.id
    assert len(engine.store._tasks) == 2


async def test_caller_that_gives_up_does_not_lose_the_task() -> None:
    """A submit that is cancelled in mid-write is stored and offered all the same."""
    engine = Engine()
    worker = engine.worker()
    call = asyncio.create_task(engine.submit())
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    task = await worker.next()
    await worker.complete(task)
    await engine.app.submission.settle()
    assert not engine.app.submission._storing


async def test_sweep_finds_what_a_dead_process_left() -> None:
    """Ready tasks in no process's memory, and leases that nobody keeps, are found by whichever process sweeps."""
    clock, store = ManualClock(), MemoryStore()
    dead = Engine(store, clock)
    doomed = dead.worker()
    leased, ready = await dead.submit(), await dead.submit()
    assert (await doomed.next()).key == leased.key
    alive = Engine(store, clock)
    alive.app.leases._chance = lambda: 0.0
    worker = alive.worker(room=2)
    clock.advance(LEASE + 0.1)
    swept = await alive.app.sweep.run_once()
    assert swept.expired == 1
    assert {(await worker.next()).key, (await worker.next()).key} == {leased.key, ready.key}


async def test_sweep_survives_whatever_one_of_its_turns_meets(caplog: pytest.LogCaptureFixture) -> None:
    """An unforeseen exception costs one turn: the log has it without its text, and the next turn is made."""
    turns = asyncio.Event()

    class Broken(MemoryStore):
        broken = True

        async def expired_tasks(self, *_: object) -> Sequence[Task]:
            if self.broken:
                self.broken = False
                raise ValueError("S3CRET")
            turns.set()
            return []

    engine = Engine(Broken())
    sweeping = asyncio.create_task(engine.app.sweep.run())
    await until(lambda: "unforeseen" in [record.message for record in caplog.records])
    engine.app.sweep.wake()
    async with asyncio.timeout(20):
        await turns.wait()
    sweeping.cancel()


async def test_poison_task_does_not_stop_the_others_from_being_swept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that can't be expired for whatever reason is logged; the others are."""
    clock = ManualClock()
    engine = Engine(now=clock)
    worker = engine.worker(room=2)
    await engine.submit()
    await engine.submit()
    poison, good = await worker.next(), await worker.next()
    expire = engine.app.leases.expire

    async def stumbling(task: Task) -> None:
        if task.key == poison.key:
            raise ValueError("S3CRET")
        await expire(task)

    monkeypatch.setattr(engine.app.leases, "expire", stumbling)
    clock.advance(LEASE + 0.1)
    await engine.app.sweep.run_once()
    assert engine.task(good.key).status is Status.PENDING
    assert "unforeseen" in [record.message for record in caplog.records]
