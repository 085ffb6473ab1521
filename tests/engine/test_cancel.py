"""Cancelling: a waiting task at once, a running one by way of its worker, wherever that one is and whatever it does."""

import asyncio
import random

import pytest
from support.engine import LEASE, DistantStore, Engine, Worker, ref, tenant
from support.service import until

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Failure, Status, Task
from openmcp_chain.engine import signals
from openmcp_chain.store.memory import MemoryStore

STORED = 1.5 * LEASE


async def leased(engine: Engine) -> tuple[Worker, Task]:
    worker = engine.worker()
    await engine.submit()
    return worker, await worker.next()


async def cancel(engine: Engine, task: Task, reason: str = "enough") -> Task:
    return await engine.app.tasks.cancel(tenant(), task.id, reason)


async def test_a_waiting_task_is_cancelled_at_once_and_not_run() -> None:
    """Though it is in the backlog of a worker; the next one is given out instead of it."""
    engine = Engine()
    worker = engine.worker()
    blocker, waiting, last = [await engine.submit() for _ in range(3)]
    cancelled = await cancel(engine, waiting)
    assert cancelled.status is Status.CANCELLED
    assert cancelled.failure == Failure("CANCELLED", "enough")
    task = await worker.next()
    assert task.key == blocker.key
    await worker.complete(task)
    assert (await worker.next()).key == last.key


async def test_a_running_tasks_worker_is_told_and_stops() -> None:
    """Once, with the reason; the task stays RUNNING until the worker says that it has stopped."""
    engine = Engine()
    worker, task = await leased(engine)
    asked = await cancel(engine, task)
    assert asked.status is Status.RUNNING
    told = await worker.told_to_stop()
    assert (told.key, told.cancel) == (task.key, "enough")
    assert await cancel(engine, task, "again") == asked
    assert worker.stops.empty()
    await worker.stop(task)
    await worker.stop(task)
    ended = engine.task(task.key)
    assert (ended.status, ended.failure) == (Status.CANCELLED, Failure("CANCELLED", "enough"))
    assert worker.session.credits == 1


async def test_a_worker_may_complete_what_it_was_told_to_stop() -> None:
    """If it is done already: the task has succeeded, and a second cancel says so."""
    engine = Engine()
    worker, task = await leased(engine)
    await cancel(engine, task)
    await worker.complete(task, b"done")
    assert engine.task(task.key).result == b"done"
    with pytest.raises(errors.TaskEnded):
        await cancel(engine, task)


async def test_a_failed_attempt_of_a_task_that_is_to_stop_is_its_end() -> None:
    """It is not tried again, and is CANCELLED, not FAILED."""
    engine = Engine()
    worker, task = await leased(engine)
    await cancel(engine, task)
    assert (await worker.fail(task)).status is Status.CANCELLED


async def test_a_silent_worker_does_not_keep_a_task_from_being_cancelled() -> None:
    """Whether its silence is noticed by the process that it left, or by what is stored."""
    store = MemoryStore()
    for process in (0, 1):
        engines = [Engine(store), Engine(store)]
        _, task = await leased(engines[0])
        await cancel(engines[0], task)
        await asyncio.sleep(STORED)
        await engines[process].app.sweep.run_once()
        assert engines[0].task(task.key).status is Status.CANCELLED


async def test_what_is_to_stop_and_missed_its_worker_is_cancelled() -> None:
    """Rather than given to the next."""
    engine = Engine()
    worker, task = await leased(engine)
    await cancel(engine, task)
    await engine.app.leases.give_back(task)
    assert engine.task(task.key).status is Status.CANCELLED
    assert worker.inbox.empty()


async def test_nobody_stops_what_was_not_cancelled() -> None:
    """The report is refused, and the lease goes on."""
    worker, task = await leased(Engine())
    with pytest.raises(errors.CancelNotRequested):
        await worker.stop(task)
    await worker.complete(task)


async def test_a_cancel_in_another_process_reaches_the_worker_by_signal() -> None:
    """Within a moment, though its next heartbeat may be far away."""
    store = MemoryStore()
    here, there = Engine(store).start(), Engine(store).start()
    worker, task = await leased(here)
    await asyncio.sleep(2)  # they know of each other, and that somebody is there
    await cancel(there, task)
    async with asyncio.timeout(0.1):
        assert (await worker.told_to_stop()).key == task.key


async def test_a_cancel_in_another_process_that_has_not_heard_of_the_worker_is_seen_soon() -> None:
    """Nobody was here until a moment ago, so that nothing was told."""
    store = MemoryStore()
    here, there = Engine(store).start(), Engine(store).start()
    await asyncio.sleep(2)
    worker, task = await leased(here)
    await cancel(there, task)
    async with asyncio.timeout(signals.UNSURE_BEATS * signals.BEAT_SECONDS):
        assert (await worker.told_to_stop()).key == task.key


@pytest.mark.parametrize("end", [True, False])
async def test_what_is_done_to_a_task_that_is_being_handed_over_is_heard_of(end: bool) -> None:
    """While it is asked whether its queue is paused: its worker is told after it got the task, or gets the next one."""
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker()
    await engine.app.queues.refresh()
    await asyncio.sleep(LEASE)  # by then what is known of queues is too old
    store.gates["list_queues"] = asyncio.Event()
    submit = asyncio.create_task(engine.submit())
    await until(lambda: store.calls["list_queues"] == 2)
    (key,) = store._tasks
    task = await cancel(engine, engine.task(key))
    if end:
        await worker.stop(task)
    store.gates.pop("list_queues").set()
    await submit
    if end:
        other = await engine.submit()
        assert (await worker.next()).key == other.key
    else:
        got = await worker.next()
        assert (got.key, got.cancel) == (key, None)
        assert (await worker.told_to_stop()).cancel == "enough"
        await worker.stop(got)
        assert worker.session.credits == 1
    assert worker.stops.empty()


async def test_a_cancel_whose_signal_is_lost_is_told_by_the_heartbeats() -> None:
    """At the second one at the latest: to a stream as a push, to who calls in the answer."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    worker, task = await leased(here)
    await cancel(there, task)
    answers = []
    for _ in range(2):
        await asyncio.sleep(LEASE / 3)
        answers.append((await worker.heartbeat(task)).cancel)
    assert "enough" in answers
    assert (await worker.told_to_stop()).cancel == "enough"


async def test_a_stop_is_accepted_by_a_process_that_knew_of_no_cancel() -> None:
    """The worker heard of it elsewhere; what this process remembers of the task is no reason to refuse it."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    worker, task = await leased(here)
    await cancel(there, task)
    assert (await there.app.leases.heartbeat(worker.principal, ref(task))).cancel == "enough"
    await worker.stop(task)
    assert here.task(task.key).status is Status.CANCELLED


async def test_another_workspaces_task_can_not_be_cancelled() -> None:
    """It does not exist; nor does one with an id that is none."""
    engine = Engine()
    task = await engine.submit()
    for principal, task_id in ((tenant("ws-2"), task.id), (tenant(), "task-1f7f")):
        with pytest.raises(errors.TaskNotFound):
            await engine.app.tasks.cancel(principal, task_id, "")
    assert engine.task(task.key) == task


async def test_cancels_that_meet_claims_and_completions_leave_one_end(seed: int) -> None:
    """Over two processes with slow answers: each task ends once, and as its canceller and its worker were told."""
    chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
    store = DistantStore(chance)
    store.delay = 0.3
    engines = [Engine(store).start(), Engine(store).start()]
    said: dict[str, Status] = {}

    async def work(worker: Worker) -> None:
        while True:
            task = await worker.inbox.get()
            await asyncio.sleep(chance.random())
            if not worker.stops.empty() and worker.stops.get_nowait().key == task.key:
                await worker.stop(task)
                said[task.id] = Status.CANCELLED
            else:
                await worker.complete(task)
                said[task.id] = Status.SUCCEEDED

    async def submit_and_cancel() -> Task:
        task = await chance.choice(engines).submit()
        await asyncio.sleep(chance.random() * 2)
        try:
            answer = await cancel(chance.choice(engines), task)
        except errors.TaskEnded:
            answer = engines[0].task(task.key)
        return answer

    working = [asyncio.create_task(work(engine.worker())) for engine in engines for _ in range(2)]
    answers = await asyncio.gather(*(submit_and_cancel() for _ in range(30)))
    ended = await engines[0].see_out(answers)
    await asyncio.sleep(1)  # their workers have heard it too
    for one in working:
        one.cancel()
    for task, answer in zip(ended, answers, strict=True):
        assert answer.status in (Status.RUNNING, task.status)
        assert said.get(task.id, Status.CANCELLED) is task.status
        assert [event.seq for event in task.events if event.status.terminal] == [len(task.events)]
