"""Leases by call: what a call gets and when, what it may be repeated for, and what becomes of what it does not take."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest
from support import virtual
from support.engine import LEASE, DistantStore, Engine, ref, tenant

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Key, Queue, Status, Task
from openmcp_chain.engine.leases import ANSWER_KEPT
from openmcp_chain.engine.leasing import LOOK_SECONDS, Ask
from openmcp_chain.engine.sessions import Demand
from openmcp_chain.store.memory import MemoryStore


async def lease(
    engine: Engine,
    most: int = 1,
    *,
    wait: float = 0.0,
    request_id: str = "",
    most_bytes: int = 1_000_000,
    workspace: str | None = "ws-1",
    limit: int = 100,
) -> Sequence[Task]:
    """Makes the call."""
    demand = Demand(frozenset({"echo"}), workspace)
    ask = Ask(
        worker="curl", version="", demand=demand, most=most, wait=wait, request_id=request_id, most_bytes=most_bytes
    )
    async with engine.app.leasing.lease("ws-1", limit, ask) as leased:
        return leased.tasks


def keys(tasks: Sequence[Task]) -> set[Key]:
    return {task.key for task in tasks}


def statuses(engine: Engine) -> list[Status]:
    return sorted(task.status for task in engine.store._tasks.values())


async def test_a_call_gets_what_waits_up_to_what_it_takes() -> None:
    """All at once, under leases of its own; the rest stays for others."""
    engine = Engine().start()
    submitted = [await engine.submit() for _ in range(5)]
    tasks = await lease(engine, 3)
    assert len(tasks) == len(keys(tasks)) == 3
    assert keys(tasks) <= keys(submitted)
    assert {task.lease.worker for task in tasks if task.lease} == {"curl"}
    assert statuses(engine) == [Status.PENDING] * 2 + [Status.RUNNING] * 3
    assert not engine.app.dispatcher.demands()
    for task in tasks:
        await engine.app.leases.complete(tenant(), ref(task), b"")


async def test_a_call_is_answered_when_all_has_come_that_is_claimed_for_it() -> None:
    """Though that takes several writes; nothing is claimed in vain."""
    store = DistantStore()
    engine = Engine(store).start()
    for _ in range(250):
        await engine.submit()
    store.delay = 0.1
    tasks = await lease(engine, 250, wait=10)
    assert len(keys(tasks)) == 250
    assert {len(task.events) for task in store._tasks.values()} == {2}


async def test_a_call_gets_its_own_workspaces_tasks_only() -> None:
    """Another's are no answer."""
    engine = Engine().start()
    await engine.submit(tenant("ws-2"))
    assert not await lease(engine)
    own = await engine.submit()
    assert keys(await lease(engine)) == {own.key}


async def test_a_call_that_finds_nothing_waits_for_as_long_as_it_wants() -> None:
    """It is answered with the first task that comes, at once; or with none when its time is over."""
    engine = Engine().start()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    waiting = asyncio.create_task(lease(engine, 5, wait=20))
    await asyncio.sleep(10)
    task = await engine.submit()
    (given,) = await waiting
    assert given.key == task.key
    assert loop.time() - begin == pytest.approx(10)
    await engine.app.leases.complete(tenant(), ref(given), b"")
    assert not await lease(engine, wait=20)
    assert loop.time() - begin == pytest.approx(30)
    assert not await lease(engine)
    assert loop.time() - begin == pytest.approx(30 + LOOK_SECONDS)


async def test_what_comes_while_a_call_is_being_answered_goes_to_another() -> None:
    """It is told of no task that it does not get."""
    engine = Engine()
    waiting = asyncio.create_task(lease(engine, 5, wait=20))
    await asyncio.sleep(1)
    submitted = [await engine.submit() for _ in range(3)]
    tasks = await waiting
    worker = engine.worker(room=5)
    await engine.app.sweep.run_once()
    await engine.app.dispatcher.settle()
    others = [worker.inbox.get_nowait() for _ in range(worker.inbox.qsize())]
    assert keys(tasks) | keys(others) == keys(submitted)
    assert len(tasks) + len(others) == 3


async def test_a_worker_that_calls_again_and_again_costs_no_look_each_time() -> None:
    """What is known of a backlog is kept between its calls; a slow database delays the first answer only."""
    store = DistantStore()
    engine = Engine(store).start()
    submitted = [await engine.submit() for _ in range(20)]
    store.delay = 0.2
    assert not await lease(engine)
    await asyncio.sleep(5)
    store.calls.clear()
    tasks = [task for _ in range(20) for task in await lease(engine)]
    assert keys(tasks) == keys(submitted)
    assert store.calls["ready_tasks"] < 20


async def test_an_answer_is_bounded_but_for_its_first_task() -> None:
    """What is over goes on waiting; one that is too large by itself comes alone."""
    small, large = {f"{number}": "x" * 500 for number in range(2)}, {"": "x" * 5000}
    engine = Engine().start()
    for labels in (small, small, small, large):
        await asyncio.sleep(0.001)
        await engine.submit(payload=b"x" * 400, labels=labels)
    for expected in ([small, small], [small], [large]):
        assert [task.labels for task in await lease(engine, 10, most_bytes=5000)] == expected
        await asyncio.sleep(1)
    assert {task.attempt for task in engine.store._tasks.values()} == {1}


@pytest.mark.parametrize("known", [True, False], ids=["its size is known", "only the database knows"])
@pytest.mark.parametrize("size", [400, 9000])
async def test_no_more_is_claimed_than_fits_into_the_answer(known: bool, size: int) -> None:
    """What does not fit goes on waiting: nothing was written, and its history tells of no worker."""
    store = DistantStore()
    engine = Engine(store).start()
    if known:
        engine.worker("other", "echo", workspace="ws-2")
    for _ in range(40):
        await engine.submit(payload=b"x" * size)
    answered = list[Task]()
    while tasks := await lease(engine, 100, most_bytes=3 * (size + 600)):
        assert len(tasks) == 3 or len(answered) == 39
        answered += tasks
        for task in tasks:
            await engine.app.leases.complete(tenant(), ref(task), b"")
    assert len(keys(answered)) == 40
    assert {len(task.events) for task in store._tasks.values()} == {3}


async def test_a_call_that_could_not_claim_the_first_gets_the_next() -> None:
    """What was kept from it for that one's sake is its own all the same."""
    store = DistantStore()
    here, there = Engine(store).start(), Engine(store).start()
    for size in (9000, 8000):
        await here.submit(payload=b"x" * size)
        await asyncio.sleep(0.001)
    other = there.worker()
    first = await other.next()
    assert len(first.payload) == 9000
    await here.app.queues.refresh()
    (task,) = await lease(here, 10, most_bytes=10_000)
    assert len(task.payload) == 8000


async def test_a_caller_that_gives_up_keeps_nothing() -> None:
    """What was claimed for it, or is about to be, waits again at once."""
    store = DistantStore()
    engine = Engine(store).start()
    for _ in range(4):
        await engine.submit()
    for gate in (store.gates, store.late):
        gate["update_tasks"] = asyncio.Event()
        waiting = asyncio.create_task(lease(engine, 2, wait=20))
        await asyncio.sleep(2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.pop("update_tasks").set()
        await asyncio.sleep(1)
        assert statuses(engine) == [Status.PENDING] * 4
        assert not engine.app.dispatcher.demands()
    assert {task.attempt for task in store._tasks.values()} == {0}


async def test_a_repeated_call_is_answered_as_the_first() -> None:
    """By any process, with the same tasks under the same leases; a call with another id gets others."""
    store = MemoryStore()
    here, there = Engine(store).start(), Engine(store).start()
    for _ in range(6):
        await here.submit()
    request_id = str(uuid4())
    first = await lease(here, 2, request_id=request_id)
    assert len(first) == 2
    assert await lease(here, 2, request_id=request_id) == first
    assert await lease(there, 2, request_id=request_id) == first
    other = await lease(there, 2, request_id=str(uuid4()))
    assert not keys(first) & keys(other)
    assert statuses(here) == [Status.PENDING] * 2 + [Status.RUNNING] * 4


async def test_another_call_under_the_same_request_id_is_refused() -> None:
    """By any process, while the first is under way or after it; it gets nothing, and takes nothing from others."""
    store = MemoryStore()
    here, there = Engine(store).start(), Engine(store).start()
    for _ in range(3):
        await here.submit()
    await there.app.queues.refresh()
    request_id = str(uuid4())
    (first,) = await lease(here, request_id=request_id)
    for engine in (here, there):
        for most, wait, workspace in ((2, 0.0, "ws-1"), (1, 5.0, "ws-1"), (1, 0.0, None)):
            with pytest.raises(errors.RequestIdReused):
                await lease(engine, most, wait=wait, request_id=request_id, workspace=workspace)
    assert await lease(there, request_id=request_id) == [first]
    other = str(uuid4())
    answers = await asyncio.gather(
        *(lease(engine, most, request_id=other) for engine, most in ((here, 1), (there, 2))), return_exceptions=True
    )
    (refused,) = [answer for answer in answers if isinstance(answer, BaseException)]
    assert isinstance(refused, errors.RequestIdReused)
    await there.app.leasing.settle()
    assert statuses(here).count(Status.RUNNING) == 1 + sum(len(a) for a in answers if not isinstance(a, BaseException))


async def test_a_repeated_call_joins_the_one_under_way() -> None:
    """One whose caller has given up goes on, and the next caller gets what it gets."""
    engine = Engine().start()
    request_id = str(uuid4())
    first = asyncio.create_task(lease(engine, 5, wait=20, request_id=request_id))
    await asyncio.sleep(1)
    second, third = (asyncio.create_task(lease(engine, 5, wait=20, request_id=request_id)) for _ in range(2))
    await asyncio.sleep(1)
    assert len(engine.app.dispatcher.demands()) == 1
    first.cancel()
    await asyncio.sleep(1)
    task = await engine.submit()
    assert keys(await second) == keys(await third) == {task.key}
    assert engine.task(task.key).attempt == 1


async def test_the_answer_that_nobody_took_is_still_there() -> None:
    """The caller gave up while the task was being claimed; it repeats the call then, or after that."""
    store = DistantStore()
    engine = Engine(store).start()
    request_id = str(uuid4())
    call = asyncio.create_task(lease(engine, wait=20, request_id=request_id))
    await asyncio.sleep(1)
    claim = store.gates["insert_tasks"] = asyncio.Event()
    submitting = asyncio.create_task(engine.submit())
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.sleep(1)
    again = asyncio.create_task(lease(engine, wait=20, request_id=request_id))
    await asyncio.sleep(1)
    claim.set()
    task = await submitting
    assert keys(await again) == {task.key}
    assert keys(await lease(engine, wait=20, request_id=request_id)) == {task.key}
    assert engine.task(task.key).attempt == 1


@pytest.mark.parametrize("request_id", ["", "5f0c8f0e-6f0a-4f0e-9f61-2f6f3f1f7a10"], ids=["without", "with"])
async def test_nothing_comes_to_a_call_that_its_callers_have_left(request_id: str) -> None:
    """The last of them ends its wait: a task that is submitted then waits for others."""
    engine = Engine().start()
    calls = [asyncio.create_task(lease(engine, wait=20, request_id=request_id)) for _ in range(2)]
    await asyncio.sleep(1)
    for call in calls:
        assert engine.app.dispatcher.demands()
        call.cancel()
        await asyncio.wait([call])
    await engine.app.leasing.settle()
    assert not engine.app.dispatcher.demands()
    await engine.submit()
    await asyncio.sleep(1)
    assert statuses(engine) == [Status.PENDING]
    assert await lease(engine, wait=20, request_id=request_id)


async def test_a_call_that_is_left_before_it_began_to_wait_claims_nothing() -> None:
    """Though there are tasks for it: nobody might ever come for them."""
    store = DistantStore()
    engine = Engine(store).start()
    await engine.submit()
    look = store.gates["recorded_calls"] = asyncio.Event()
    call = asyncio.create_task(lease(engine, wait=20, request_id=str(uuid4())))
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.wait([call])
    look.set()
    await engine.app.leasing.settle()
    assert statuses(engine) == [Status.PENDING]


async def test_a_call_that_is_left_keeps_its_place_until_it_is_over() -> None:
    """However fast its caller calls and gives up, a workspace has no more under way than its quota says."""
    store = DistantStore()
    engine = Engine(store).start()
    look = store.gates["recorded_calls"] = asyncio.Event()
    for _ in range(3):
        call = asyncio.create_task(lease(engine, wait=20, request_id=str(uuid4()), limit=3))
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.wait([call])
    for request_id in ("", str(uuid4())):
        with pytest.raises(errors.TooManyStreams):
            await lease(engine, request_id=request_id, limit=3)
    look.set()
    await engine.app.leasing.settle()
    waiting = [asyncio.create_task(lease(engine, wait=20, request_id=str(uuid4()), limit=3)) for _ in range(3)]
    await asyncio.sleep(1)
    with pytest.raises(errors.TooManyStreams):
        await lease(engine, limit=3)
    assert await asyncio.gather(*waiting) == [[], [], []]
    assert not engine.app.streams._open


async def test_the_same_call_to_two_processes_at_once_has_one_answer() -> None:
    """Both say the same; what the other one had claimed waits again, and has lost no attempt."""
    store = DistantStore()
    store.delay = 0.1
    engines = [Engine(store).start(), Engine(store).start()]
    for _ in range(4):
        await engines[0].submit()
    await engines[1].app.queues.refresh()
    request_id = str(uuid4())
    answers = await asyncio.gather(*(lease(engine, 2, wait=5, request_id=request_id) for engine in engines))
    assert keys(answers[0]) == keys(answers[1])
    assert 1 <= len(answers[0]) <= 2
    await engines[0].app.leasing.settle()
    await engines[1].app.leasing.settle()
    held = [task for task in store._tasks.values() if task.status is Status.RUNNING]
    assert keys(held) == keys(answers[0])
    assert {task.attempt for task in store._tasks.values() if task.status is Status.PENDING} == {0}


async def test_a_repeated_call_gets_what_it_still_holds() -> None:
    """A task that has ended, or whose lease was lost, is not in the answer; when all are over, there is none."""
    engine = Engine().start()
    engine.app.leases._chance = lambda: 0.0
    for _ in range(3):
        await engine.submit()
    request_id = str(uuid4())
    done, lost, kept = await lease(engine, 3, request_id=request_id)
    await engine.app.leases.complete(tenant(), ref(done), b"")
    await engine.app.leases.give_back(lost)
    assert (await engine.worker().next()).key == lost.key
    assert keys(await lease(engine, 3, request_id=request_id)) == {kept.key}
    await engine.app.leases.complete(tenant(), ref(kept), b"")
    assert not await lease(engine, 3, request_id=request_id)


async def test_a_repeated_call_is_answered_alike_for_as_long_as_the_leases_are_extended() -> None:
    """By whichever process it is extended; the answer is kept on now and then, and not with each heartbeat."""
    store = DistantStore()
    here, there = Engine(store).start("sweep", "signals"), Engine(store).start("sweep", "signals")
    begin = virtual.clock()
    for _ in range(2):
        await here.submit()
    request_id = str(uuid4())
    (first,) = await lease(here, request_id=request_id)
    while virtual.clock() - begin < 3 * ANSWER_KEPT:
        await asyncio.sleep(LEASE * 0.9)
        for engine in (here, there):
            await engine.app.leases.heartbeat(tenant(), ref(first))
            assert keys(await lease(engine, request_id=request_id)) == {first.key}
    assert 2 <= store.calls["keep_call"] <= 4
    await there.app.leases.complete(tenant(), ref(first), b"")
    await asyncio.sleep(2 * ANSWER_KEPT.total_seconds() + LEASE)
    assert keys(await lease(here, request_id=request_id)) not in (set(), {first.key})


async def test_a_call_that_found_nothing_is_no_answer_to_keep() -> None:
    """The same call later gets what there is then."""
    engine = Engine().start()
    request_id = str(uuid4())
    assert not await lease(engine, request_id=request_id)
    task = await engine.submit()
    assert keys(await lease(engine, request_id=request_id)) == {task.key}


async def test_a_call_that_fails_is_no_answer_either() -> None:
    """Its callers hear why; the next one is made anew."""
    store = DistantStore()
    engine = Engine(store).start()
    task = await engine.submit()
    request_id = str(uuid4())
    store.cut = "recorded_calls"
    with pytest.raises(errors.Unavailable):
        await lease(engine, request_id=request_id)
    store.cut = ""
    assert keys(await lease(engine, request_id=request_id)) == {task.key}


async def test_an_answer_that_could_not_be_kept_hides_no_task() -> None:
    """If what a call was granted can't be recorded, it is given back rather than left to the leases' end."""
    store = DistantStore()
    engine = Engine(store).start()
    task = await engine.submit()
    request_id = str(uuid4())
    store.cut = "record_call"
    with pytest.raises(errors.Unavailable):
        await lease(engine, request_id=request_id)
    store.cut = ""
    await engine.app.leasing.settle()
    assert keys(await lease(engine, request_id=request_id)) == {task.key}


async def test_a_call_is_not_answered_with_what_it_has_lost_meanwhile() -> None:
    """A lease that ended before the answer went out, since the database took its time, is in nobody's."""
    store = DistantStore()
    engine = Engine(store).start()
    task = await engine.submit()
    store.gates["record_call"] = asyncio.Event()
    call = asyncio.create_task(lease(engine, request_id=str(uuid4())))
    await asyncio.sleep(LEASE + 1)
    assert engine.task(task.key).status is Status.PENDING
    store.gates.pop("record_call").set()
    assert await call == []


async def test_draining_ends_the_waits() -> None:
    """Those under way are answered with nothing; a new one is not kept waiting."""
    engine = Engine().start()
    waiting = [asyncio.create_task(lease(engine, wait=20, request_id=request_id)) for request_id in ("", str(uuid4()))]
    await asyncio.sleep(1)
    engine.app.leasing.drain()
    async with asyncio.timeout(0.1):
        assert await asyncio.gather(*waiting) == [[], []]
        assert not await lease(engine, wait=20)


async def test_a_repeated_call_gets_nothing_that_is_paused_by_then() -> None:
    """The first answer may have gone nowhere: from the pause's own answer on, no worker gets a task."""
    store = DistantStore()
    here, there = Engine(store).start(), Engine(store).start()
    request_id = str(uuid4())
    submitted = await here.submit()
    answered = store.late["record_call"] = asyncio.Event()
    first = asyncio.create_task(lease(here, wait=1, request_id=request_id))
    await asyncio.sleep(1)
    queue = submitted.queue
    await there.app.queues.pause(queue, "")
    assert not await lease(there, wait=1, request_id=request_id)
    await there.app.queues.resume(queue)
    assert keys(await lease(there, wait=1, request_id=request_id)) == {submitted.key}
    answered.set()
    await first


async def test_a_call_gets_nothing_of_a_paused_type() -> None:
    """It waits as if there were nothing."""
    engine = Engine().start()
    await engine.app.queues.pause(Queue("ws-1", "echo"), "")
    await engine.submit()
    assert not await lease(engine, wait=10)
    assert statuses(engine) == [Status.PENDING]
