"""Submits: one task for a request_id, one at a time for a dedupe_key, and none lost with its caller."""

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from support.engine import DistantStore, Engine, tenant
from support.samples import NOW

from openmcp_chain.domain import errors
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Status, Task, Terms
from openmcp_chain.engine.submission import Submit
from openmcp_chain.store.memory import MemoryStore


async def crowd(engines: list[Engine], submit: Callable[[Engine, int], Awaitable[Task]]) -> list[Task | BaseException]:
    """A hundred at once, over all processes."""
    calls = (submit(engines[number % len(engines)], number) for number in range(100))
    return await asyncio.gather(*calls, return_exceptions=True)


def distant(seed: int) -> DistantStore:
    store = DistantStore(random.Random(seed))  # noqa: S311 - interleavings, not secrets
    store.delay = 0.2
    return store


async def test_hundred_submits_with_one_request_id_make_one_task() -> None:
    """All get the same task, stored once and run once, whichever process they reach."""
    store = distant(1)
    engines = [Engine(store), Engine(store)]
    worker = engines[0].worker(room=100)
    request_id = str(uuid4())
    made = await crowd(
        engines, lambda engine, number: engine.submit(request_id=(request_id, request_id.upper())[number % 3 == 0])
    )
    assert len({task.key for task in made if isinstance(task, Task)}) == len(store._tasks) == 1
    assert not [error for error in made if isinstance(error, BaseException)]
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


_PLAIN: dict[str, Any] = {
    "type": "echo",
    "payload": b"1",
    "metadata": {"a": "1", "b": "2"},
    "labels": {"c": "3"},
    "priority": 3,
    "request_id": "5f0c1f2e-0000-4000-8000-000000000000",
}


@pytest.mark.parametrize(
    "difference",
    [
        {"type": "other"},
        {"payload": b"2"},
        {"metadata": {"a": "1"}},
        {"labels": {"c": "4"}},
        {"priority": 1},
        {"dedupe_key": "k"},
        {"schedule_time": NOW},
        {"terms": Terms(retention=timedelta(1))},
        {"terms": Terms(retry=RetryPolicy(maximum_attempts=1))},
        {"terms": Terms(retry=RetryPolicy(non_retryable_error_codes=frozenset({"E"})))},
    ],
    ids=str,
)
def test_every_part_of_a_request_tells_it_from_another(difference: dict[str, Any]) -> None:
    """Whatever differs, the fingerprint does; the order of entries, and of codes, is no difference."""
    plain = Submit(**_PLAIN)
    assert Submit(**_PLAIN | difference).fingerprint() != plain.fingerprint()
    assert Submit(**_PLAIN | {"metadata": {"b": "2", "a": "1"}}).fingerprint() == plain.fingerprint()
    assert Submit(**_PLAIN | {"use_existing": True}).fingerprint() == plain.fingerprint()


async def test_caller_that_gives_up_does_not_lose_the_task() -> None:
    """A submit that is cancelled in mid-write is stored and offered all the same."""
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker()
    await engine.submit(task_type="other")
    store.late["insert_tasks"] = asyncio.Event()
    call = asyncio.create_task(engine.submit(tenant()))
    await asyncio.sleep(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    store.late["insert_tasks"].set()
    task = await worker.next()
    await worker.complete(task)
    await engine.app.submission.settle()
    assert not engine.app.submission._storing


async def test_a_failure_that_nobody_waits_for_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    """A caller that gave up before the database did leaves no error in the log."""
    store = DistantStore()
    engine = Engine(store)
    engine.worker()
    for method in ("put_queue", "insert_tasks", "count_tasks"):
        store.late[method] = asyncio.Event()
        call = asyncio.create_task(engine.app.tasks.count(tenant(), "") if method == "count_tasks" else engine.submit())
        await asyncio.sleep(1)
        call.cancel()
        store.cut = method
        store.late.pop(method).set()
        await asyncio.sleep(1)
        store.cut = ""
        gc.collect()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_submit_that_fails_gives_the_worker_back() -> None:
    """The worker that was reserved for it gets the next one."""
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker()
    await engine.submit(task_type="other")
    store.cut = "insert_tasks"
    with pytest.raises(errors.Unavailable):
        await engine.submit()
    store.cut = ""
    task = await engine.submit()
    assert (await worker.next()).key == task.key


# --- dedupe_key


async def test_a_dedupe_key_is_one_tasks_at_a_time() -> None:
    """While it has not ended, the next submit is refused, naming it, or gets it; as the submit itself says."""
    engine = Engine()
    worker = engine.worker()
    first = await engine.submit(dedupe_key="nightly")
    with pytest.raises(errors.DedupeKeyTaken) as refusal:
        await engine.submit(dedupe_key="nightly")
    assert refusal.value.resource == ("openmcp.chain.v1.Task", first.id)
    assert (await engine.submit(dedupe_key="nightly", use_existing=True)).id == first.id
    other = await engine.submit(dedupe_key="weekly")
    foreign = await engine.submit(tenant("ws-2"), dedupe_key="nightly")
    assert len({first.id, other.id, foreign.id}) == 3
    task = await worker.next()
    assert task.key == first.key
    with pytest.raises(errors.DedupeKeyTaken):
        await engine.submit(dedupe_key="nightly")


@pytest.mark.parametrize("ended", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
async def test_an_ended_task_gives_its_dedupe_key_away(ended: Status) -> None:
    """To a new task, with an id of its own; the old one keeps its history, and can't be tried again beside it."""
    engine = Engine()
    worker = engine.worker()
    ids = set()
    for _ in range(3):
        ids.add((await engine.submit(dedupe_key="nightly")).id)
        task = await worker.next()
        if ended is Status.SUCCEEDED:
            await worker.complete(task)
        elif ended is Status.FAILED:
            await worker.fail(task, retryable=False)
        else:
            await engine.app.tasks.cancel(tenant(), task.id, "")
            await worker.stop(task)
    assert len(ids) == len(engine.store._tasks) == 3
    *old, last = (task for task in engine.store._tasks.values())
    assert [task.superseded for task in old] == [True, True]
    assert {task.status for task in old} == {ended}
    for task in old:
        with pytest.raises(errors.TaskNotRetryable):
            await engine.app.tasks.retry(tenant(), task.id)
    if ended is not Status.SUCCEEDED:
        await engine.app.tasks.retry(tenant(), last.id)
        with pytest.raises(errors.DedupeKeyTaken):
            await engine.submit(dedupe_key="nightly")


async def test_the_same_request_with_a_dedupe_key_gets_its_task_after_the_end_too() -> None:
    """A repetition by request_id is no new submit, whatever the conflict policy."""
    engine = Engine()
    worker = engine.worker()
    request_id = str(uuid4())
    first = await engine.submit(dedupe_key="nightly", request_id=request_id)
    assert (await engine.submit(dedupe_key="nightly", request_id=request_id)).key == first.key
    await worker.complete(await worker.next())
    assert (await engine.submit(dedupe_key="nightly", request_id=request_id)).key == first.key
    assert len(engine.store._tasks) == 1


@pytest.mark.parametrize("use_existing", [False, True])
@pytest.mark.parametrize("old", [False, True])
async def test_hundred_submits_with_one_dedupe_key_make_one_task(old: bool, use_existing: bool) -> None:
    """Over two processes with slow answers, whether the key is free or held by an ended task."""
    store = distant(2)
    engines = [Engine(store), Engine(store)]
    if old:
        worker = engines[0].worker()
        await engines[0].submit(dedupe_key="nightly")
        await worker.complete(await worker.next())
        worker.leave()
    made = await crowd(engines, lambda engine, _: engine.submit(dedupe_key="nightly", use_existing=use_existing))
    got = [task for task in made if isinstance(task, Task)]
    assert len({task.key for task in got}) == 1
    assert len(got) == (100 if use_existing else 1)
    assert all(isinstance(one, Task | errors.DedupeKeyTaken) for one in made)
    assert sum(not task.status.terminal for task in store._tasks.values()) == 1


@pytest.mark.parametrize("seed", range(20))
async def test_a_retry_and_a_successor_never_both_have_the_key(seed: int) -> None:
    """However a retry by hand meets a new submit: at most one task with the key has not ended."""
    store = distant(seed)
    engines = [Engine(store), Engine(store)]
    worker = engines[0].worker()
    await engines[0].submit(dedupe_key="nightly")
    task = await worker.fail(await worker.next(), retryable=False)
    worker.leave()
    retried, submitted = await asyncio.gather(
        engines[0].app.tasks.retry(tenant(), task.id),
        engines[1].submit(dedupe_key="nightly"),
        return_exceptions=True,
    )
    living = [task.id for task in store._tasks.values() if not task.status.terminal]
    assert len(living) == 1
    assert isinstance(retried, errors.TaskNotRetryable) == isinstance(submitted, Task)
    assert isinstance(submitted, Task | errors.DedupeKeyTaken)


async def test_a_dedupe_key_is_free_again_when_retention_has_taken_its_task() -> None:
    """Its next task is as any other."""
    store = MemoryStore()
    engine = Engine(store).start()
    worker = engine.worker()
    await engine.submit(dedupe_key="nightly", terms=Terms(retention=timedelta(minutes=1)))
    await worker.complete(await worker.next())
    await asyncio.sleep(75)
    assert not store._tasks
    await engine.submit(dedupe_key="nightly")
    await worker.complete(await worker.next())
