"""Pauses: after the answer no worker gets a task, whatever processes believed before; what waits goes on afterwards."""

import asyncio
import random

import pytest
from support.engine import DistantStore, Engine, tenant
from support.service import PATIENCE

from openmcp_chain.domain import errors, queue
from openmcp_chain.domain.task import Queue, Status, Task
from openmcp_chain.engine import queues
from openmcp_chain.store.memory import MemoryStore

ECHO = Queue("ws-1", "echo")


async def stays(engine: Engine, task: Task, seconds: float = 20.0) -> None:
    """The task is PENDING now, and after a while in which nobody hinders its start."""
    await asyncio.sleep(seconds)
    assert engine.task(task.key).status is Status.PENDING


async def test_a_paused_types_tasks_wait_and_go_on_after_the_resume() -> None:
    """What was accepted during the pause, or given back by a worker, is given out after it, without a sweep's wait."""
    engine = Engine().start()
    worker = engine.worker(room=3)
    running = await engine.submit()
    task = await worker.next()
    paused = await engine.app.queues.pause(ECHO, "upkeep")
    assert (paused.paused_at is not None, paused.reason) == (True, "upkeep")
    waiting = [await engine.submit() for _ in range(2)]
    await worker.fail(task)
    await stays(engine, waiting[0])
    await stays(engine, running)
    assert worker.inbox.empty()
    await engine.app.queues.resume(ECHO)
    async with asyncio.timeout(0.1):
        assert {(await worker.next()).key for _ in range(3)} == {running.key, *(task.key for task in waiting)}


async def test_what_runs_goes_on_through_a_pause() -> None:
    """Its worker keeps its lease, and may complete it."""
    engine = Engine().start()
    worker = engine.worker()
    await engine.submit()
    task = await worker.next()
    await engine.app.queues.pause(ECHO, "")
    await worker.heartbeat(task)
    await worker.complete(task)
    assert engine.task(task.key).status is Status.SUCCEEDED


async def test_a_pause_concerns_one_type_of_one_workspace() -> None:
    """The workspace's other types, and another workspace's tasks of the type, go on."""
    engine = Engine().start()
    worker = engine.worker("echo", "other", room=9)
    await engine.app.queues.pause(ECHO, "")
    await engine.submit()
    others = [await engine.submit(task_type="other"), await engine.submit(tenant("ws-2"))]
    given = [await worker.next() for _ in others]
    assert {task.key for task in given} == {task.key for task in others}
    for task in given:
        await worker.complete(task)
    await asyncio.sleep(20)
    assert worker.inbox.empty()


async def test_what_waits_in_memory_is_let_go_of_and_found_again() -> None:
    """A backlog of before the pause is given out after the resume, in its order."""
    engine = Engine().start()
    worker = engine.worker()
    tasks = [await engine.submit() for _ in range(10)]
    first = await worker.next()
    await engine.app.queues.pause(ECHO, "")
    await worker.complete(first)
    await stays(engine, tasks[1])
    await engine.app.queues.resume(ECHO)
    for task in tasks[1:]:
        given = await worker.next()
        assert given.key == task.key
        assert len(engine.task(task.key).events) == 2  # it was not claimed in vain
        await worker.complete(given)


async def test_a_process_that_cannot_ask_gives_nothing_out() -> None:
    """After the answer, a process that has not heard of the pause gives its workers no task, not even a claimed one."""
    store = MemoryStore()
    wire = DistantStore(data=store)
    here, there = Engine(store).start(), Engine(wire).start()
    worker = there.worker(room=5)
    await there.submit()
    await worker.next()
    wire.gates["list_queues"] = asyncio.Event()  # nobody reads of the pause from now on
    await here.app.queues.pause(ECHO, "")
    submitting = asyncio.create_task(there.submit())  # to a process that has an idle worker
    await asyncio.sleep(queues.VALID_SECONDS * 3)
    assert worker.inbox.empty()
    wire.gates["list_queues"].set()
    async with asyncio.timeout(PATIENCE):
        task = await submitting
    await stays(there, task)
    assert worker.inbox.empty()
    assert there.task(task.key).attempt == 0
    await here.app.queues.resume(ECHO)
    assert (await worker.next()).key == task.key


async def test_a_process_whose_question_fails_gives_nothing_out() -> None:
    """Nor does it rely on what it knew when the database gives no answer but takes writes."""
    store = MemoryStore()
    wire = DistantStore(data=store)
    here, there = Engine(store).start(), Engine(wire).start()
    worker = there.worker()
    await there.app.queues.ensure(ECHO)
    wire.cut = "list_queues"
    await here.app.queues.pause(ECHO, "")
    task = await here.submit()
    await asyncio.sleep(10)
    await here.app.queues.resume(ECHO)
    await asyncio.sleep(10)
    assert worker.inbox.empty()
    wire.cut = ""
    given = await worker.next()
    assert given.key == task.key
    assert len(here.task(task.key).events) < 20  # and it did not try all the time


async def test_a_claim_on_its_way_when_the_pause_is_answered_is_given_back() -> None:
    """A write that takes longer than the pause's answer: the worker gets nothing, and no attempt is used up."""
    store = MemoryStore()
    wire = DistantStore(data=store)
    here, there = Engine(store).start(), Engine(wire).start()
    worker = there.worker("other")
    waiting = await there.submit()
    wire.late["update_tasks"] = asyncio.Event()
    worker = there.worker()  # for which it is claimed
    await here.app.queues.pause(ECHO, "")
    assert there.task(waiting.key).status is Status.RUNNING
    wire.late.pop("update_tasks").set()
    await stays(there, waiting)
    assert worker.inbox.empty()
    assert there.task(waiting.key).events[-1].context["code"] == "TYPE_PAUSED"
    assert there.task(waiting.key).attempt == 0


async def test_no_task_slips_through(seed: int) -> None:
    """Pauses against claims and submits over three processes, with slow answers.

    Between the answer to a pause and the resume, no worker gets a task; and each is run once in the end.
    """
    chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
    store = DistantStore(chance)
    store.delay = (0.0, 0.05, 0.5, 1.5)[seed % 4]
    engines = [Engine(store).start() for _ in range(3)]
    given: list[bool] = []
    paused = False

    async def work(engine: Engine) -> None:
        worker = engine.worker(room=2)
        deliver = worker.session.deliver

        def note(task: Task) -> None:
            given.append(paused)
            deliver(task)

        worker.session.deliver = note
        while True:
            task = await worker.inbox.get()
            await asyncio.sleep(chance.random())
            await worker.complete(task)

    async def submit() -> Task:
        await asyncio.sleep(chance.random() * 30)
        return await chance.choice(engines).submit()

    working = [asyncio.create_task(work(engine)) for engine in engines]
    submitting = asyncio.gather(*(submit() for _ in range(60)))
    for _ in range(4):
        await asyncio.sleep(chance.random() * 4)
        await chance.choice(engines).app.queues.pause(ECHO, "")
        paused = True
        await asyncio.sleep(chance.random() * 4)
        paused = False
        await chance.choice(engines).app.queues.resume(ECHO)
    tasks = await submitting
    ended = await engines[0].see_out(tasks)
    for one in working:
        one.cancel()
    assert given == [False] * 60
    assert {task.attempt for task in ended} == {1}


async def test_pauses_and_resumes_that_meet_each_other_all_count() -> None:
    """Each is answered with a state that was stored, and the last one stands; none goes by what was true before."""
    store = MemoryStore()
    engines = [Engine(store) for _ in range(3)]
    for number in range(9):
        engine = engines[number % 3]
        state = await (engine.app.queues.pause(ECHO, "") if number % 2 else engine.app.queues.resume(ECHO))
        assert state == store._queues[ECHO]
        assert (state.paused_at is not None) == bool(number % 2)
    await asyncio.gather(*(engine.app.queues.pause(ECHO, str(n)) for n, engine in enumerate(engines)))
    assert store._queues[ECHO].paused_at is not None


async def test_a_workspaces_types_are_limited_however_fast_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit a new type is refused, in a crowd too; the known ones, and other workspaces, are not concerned."""
    monkeypatch.setattr(queue, "TYPES", 5)
    store = DistantStore()
    store.delay = 0.1
    engine = Engine(store)
    results = await asyncio.gather(
        *(engine.submit(task_type=f"type-{number % 20}") for number in range(100)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, errors.TooManyTypes)]
    assert (len(refused), len(store._tasks), len(store._queues)) == (75, 25, 5)
    assert store.calls["put_queue"] == 5
    await engine.submit(task_type="type-0")
    await engine.submit(tenant("ws-2"), "type-9")
    with pytest.raises(errors.TooManyTypes):
        await engine.app.queues.pause(Queue("ws-1", "type-9"), "")
