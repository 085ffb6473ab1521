"""Heartbeats: what they write and what not, who notices a silent worker and when, and what else they carry."""

import asyncio
import random
from datetime import timedelta

import pytest
from support.engine import LEASE, DistantStore, Engine, Worker, ref, tenant

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Progress, Status, Task, Terms
from openmcp_chain.domain.transitions import NOTES
from openmcp_chain.store.base import Signal

STORED = 1.5 * LEASE
"""How long a lease is stored for."""


class Deaf(DistantStore):
    """Every signal is lost."""

    async def publish(self, signal: Signal) -> None:
        """Nobody hears it."""


async def leased(engine: Engine) -> tuple[Worker, Task]:
    worker = engine.worker()
    await engine.submit()
    return worker, await worker.next()


def sweeping(store: DistantStore) -> list[Engine]:
    """Three processes of which each looks for what has run out of time."""
    engines = [Engine(store) for _ in range(3)]
    for engine in engines:
        engine.start("sweep")
    return engines


async def test_heartbeats_are_answered_from_memory() -> None:
    """At a third of the time that the worker may be silent, every second one is written, and none is read."""
    store = DistantStore()
    engine = Engine(store)
    worker, task = await leased(engine)
    store.calls.clear()
    for _ in range(30):
        await asyncio.sleep(LEASE / 3)
        await worker.heartbeat(task)
    assert (store.calls["update_tasks"], store.calls["get_tasks"]) == (15, 0)
    assert len(engine.task(task.key).events) == 2


async def test_heartbeats_that_come_together_are_written_once() -> None:
    """A worker that hammers costs one write, for as long as that one lasts."""
    engine = Engine()
    worker, task = await leased(engine)
    await asyncio.sleep(LEASE - 1)
    await asyncio.gather(*(worker.heartbeat(task) for _ in range(100)))
    assert engine.task(task.key).version == task.version + 1


async def test_the_process_that_heard_of_it_last_notices_a_silent_worker() -> None:
    """Once it has been silent for longer than it may, and not before; sooner than its stored lease ends."""
    engine = Engine()
    worker, task = await leased(engine)
    for _ in range(4):
        await asyncio.sleep(LEASE / 2)
        await worker.heartbeat(task)
    await asyncio.sleep(LEASE)
    assert (await engine.app.sweep.run_once()).overdue == 0
    await asyncio.sleep(0.001)
    assert engine.task(task.key).due_at > engine.app.leases.moment().now
    assert (await engine.app.sweep.run_once()).overdue == 1
    assert engine.task(task.key).events[-1].context["code"] == "LEASE_EXPIRED"
    with pytest.raises(errors.LeaseLost):
        await worker.heartbeat(task)


async def test_any_process_notices_a_silent_worker_by_what_is_stored() -> None:
    """If the one that granted its lease is gone: when the stored lease ends, and not before."""
    store = DistantStore()
    engine, alive = Engine(store), Engine(store)
    _, task = await leased(engine)
    await asyncio.sleep(STORED - 0.001)
    assert (await alive.app.sweep.run_once()).overdue == 0
    await asyncio.sleep(0.001)
    assert (await alive.app.sweep.run_once()).overdue == 1
    assert engine.task(task.key).status is Status.PENDING


async def test_a_worker_heard_of_by_one_process_is_not_silent_to_another(seed: int) -> None:
    """However its heartbeats are spread over processes that don't hear each other, a live worker keeps its lease.

    So far as it is never silent for as long as it may be, even if it is late.
    """
    chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
    store = Deaf(chance)
    engines = sweeping(store)
    worker, task = await leased(engines[0])
    worker.leave()
    for _ in range(30):
        await asyncio.sleep(chance.uniform(0.01, 0.95) * LEASE)
        engine = chance.choice(engines)
        await engine.app.leases.heartbeat(worker.principal, ref(task))
    await chance.choice(engines).app.leases.complete(worker.principal, ref(task), b"")
    assert engines[0].task(task.key).attempt == 1


async def test_a_worker_that_comes_back_elsewhere_is_not_silent_where_it_was(seed: int) -> None:
    """Nor if the process that it was cut off from has not noticed the cut, and would write off its lease."""
    chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
    store = Deaf(chance)
    engines = sweeping(store)
    worker, task = await leased(engines[0])
    for _ in range(20):
        there = chance.choice(engines)
        worker = there.worker(room=0)
        there.app.leases.claimed(worker.principal, ref(task), worker.session)
        for _ in range(chance.randrange(1, 4)):
            await asyncio.sleep(chance.uniform(0.01, 0.95) * LEASE)
            await worker.heartbeat(task)
    await worker.complete(task)
    assert engines[0].task(task.key).attempt == 1


@pytest.mark.parametrize("share", [1.1, 1.4, 5.0])
@pytest.mark.parametrize("hears", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_half_open_stream_takes_no_lease_from_a_worker_that_lives_elsewhere(
    share: float, hears: bool, stream: bool
) -> None:
    """Whether the lease can be extended or is at its attempt's end, and whether the processes hear of each other.

    The worker is silent where it was, since nobody noticed that the connection broke, and heard of elsewhere.
    """
    store = DistantStore() if hears else Deaf()
    here, there = Engine(store).start(), Engine(store).start()
    await asyncio.sleep(3)  # they have heard of each other
    worker = here.worker()
    await here.submit(terms=Terms(start_to_close=timedelta(seconds=share * LEASE)))
    task = await worker.next()
    again = there.worker(room=1)
    if stream:
        there.app.leases.claimed(again.principal, ref(task), again.session)
    else:
        again.leave()
    for _ in range(int(share * 3)):
        await asyncio.sleep(0.32 * LEASE)
        await again.heartbeat(task)
    await again.complete(task)
    assert here.task(task.key).attempt == 1


async def test_a_silence_is_noticed_where_the_worker_was_heard_of_last() -> None:
    """Though another process held the lease before; sooner than the stored lease ends."""
    store = DistantStore()
    here, there = Engine(store).start(), Engine(store).start()
    await asyncio.sleep(3)
    worker, task = await leased(here)
    again = there.worker(room=1)
    there.app.leases.claimed(again.principal, ref(task), again.session)
    await again.heartbeat(task)
    await asyncio.sleep(LEASE + 1)
    assert here.task(task.key).events[2].context["code"] == "LEASE_EXPIRED"
    with pytest.raises(errors.LeaseLost):
        await worker.heartbeat(task)


async def test_a_worker_that_came_back_to_where_it_was_before_is_not_silent_in_between() -> None:
    """The process that it came back to does not rely on what it knew when the worker left."""
    store = Deaf()
    here, there, _ = sweeping(store)
    worker, task = await leased(here)
    for engine, pause in ((there, 0.1), (here, 0.3), (there, 0.85)):
        worker = engine.worker(room=0)
        engine.app.leases.claimed(worker.principal, ref(task), worker.session)
        await worker.heartbeat(task)
        await asyncio.sleep(pause * LEASE)
    await worker.complete(task)
    assert here.task(task.key).attempt == 1


async def test_heartbeat_on_an_ended_task_is_refused() -> None:
    """Even by the worker that ended it, and while its lease would last."""
    worker, task = await leased(Engine())
    await worker.complete(task)
    with pytest.raises(errors.LeaseLost):
        await worker.heartbeat(task)


async def test_heartbeat_that_can_extend_nothing_tells_what_others_did() -> None:
    """A lease at its attempt's deadline: a process that did not hear of the task's end still refuses a heartbeat."""
    store = Deaf()
    here, there = Engine(store), Engine(store)
    worker = here.worker()
    await here.submit(terms=Terms(start_to_close=timedelta(seconds=LEASE)))
    task = await worker.next()
    await asyncio.sleep(LEASE / 3)
    await worker.heartbeat(task)
    await there.app.tasks.cancel(tenant(), task.id, "enough")
    assert (await worker.heartbeat(task)).cancel == "enough"
    await asyncio.sleep(LEASE * 2 / 3)
    assert (await there.app.sweep.run_once()).overdue == 1
    with pytest.raises(errors.LeaseLost):
        await worker.heartbeat(task)


async def test_progress_is_the_tasks_state_and_an_event() -> None:
    """What was said last is the task's; each step that is new is an event of the attempt."""
    engine = Engine()
    worker, task = await leased(engine)
    for fraction in (0.25, 0.25, 0.5):
        await worker.heartbeat(task, Progress(fraction, "reading"))
    stored = engine.task(task.key)
    assert stored.progress == Progress(0.5, "reading")
    assert [event.context for event in stored.events[2:]] == [
        {"attempt": 1, "progress": 0.25, "message": "reading"},
        {"attempt": 1, "progress": 0.5, "message": "reading"},
    ]
    assert {event.status for event in stored.events[1:]} == {Status.RUNNING}


async def test_the_next_attempts_progress_begins_anew() -> None:
    """What a lost attempt said does not stand for the next one."""
    engine = Engine()
    engine.app.leases._chance = lambda: 0.0
    worker, task = await leased(engine)
    await worker.heartbeat(task, Progress(0.9, "nearly"))
    await worker.fail(task)
    again = await worker.next()
    assert again.progress is None


async def test_notes_are_bounded_but_progress_goes_on() -> None:
    """Past the bound a line is refused and the lease kept all the same; progress is kept, and is no event."""
    engine = Engine()
    worker, task = await leased(engine)
    for number in range(NOTES - 1):
        await worker.heartbeat(task, line=f"line {number}")
    await worker.heartbeat(task, Progress(0.1, "last event"))
    await asyncio.sleep(LEASE - 1)
    with pytest.raises(errors.EventsFull):
        await worker.heartbeat(task, line="one too many")
    await worker.heartbeat(task, Progress(0.2, "no event"))
    stored = engine.task(task.key)
    with pytest.raises(errors.EventsFull):
        await worker.heartbeat(task, Progress(0.3, "beside a line"), line="two too many")
    assert engine.task(task.key).progress == Progress(0.3, "beside a line")
    assert len(stored.events) == 2 + NOTES
    assert stored.events[-1].context == {"attempt": 1, "progress": 0.1, "message": "last event"}
    assert stored.events[2].context == {"attempt": 1, "log": "line 0"}
    assert stored.progress == Progress(0.2, "no event")
    await asyncio.sleep(LEASE - 1)
    await worker.complete(task)
