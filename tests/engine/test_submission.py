"""Submits: one task for a request_id, and none lost with its caller."""

import asyncio
import gc
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from support.engine import DistantStore, Engine, crowd, distant, tenant
from support.samples import NOW

from openmcp_chain.domain import errors
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Task, Terms
from openmcp_chain.engine.ledger import INSERTERS, INSERTS, UPDATES
from openmcp_chain.engine.submission import Submit


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


def test_a_fingerprint_is_what_it_was_when_it_was_stored() -> None:
    """Servers of two versions, or one after its update, must not take a repeated submit for another one."""
    terms = Terms(retry=RetryPolicy(non_retryable_error_codes=frozenset({"B", "A"})), heartbeat=timedelta(seconds=5))
    request = Submit(**_PLAIN | {"schedule_time": NOW, "dedupe_key": "k", "terms": terms})
    assert request.fingerprint().hex() == "61a69ba146abda3cc7d154878609fac84c97074f4018d440909b5b04ffdcfff6"


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


async def test_nobody_waits_for_another_tenants_crowd() -> None:
    """One submit beside another tenant's thousands, and one report on a task: each is in the next batch."""
    engine = Engine(distant(3))
    worker = engine.worker()
    await engine.submit(tenant("ws-2"))
    running = await worker.next()
    await engine.submit()
    crowd = [asyncio.create_task(engine.submit()) for _ in range(8 * INSERTS)]
    await asyncio.sleep(0.01)
    await engine.submit(tenant("ws-2"))
    # Those on their way when it came, those in its own batch, and those that the other writer took meanwhile.
    assert sum(one.done() for one in crowd) <= (2 * INSERTERS + 1) * INSERTS
    tasks = await asyncio.gather(*crowd)
    cancelled = [asyncio.create_task(engine.app.tasks.cancel(tenant(), task.id, "")) for task in tasks[: 4 * UPDATES]]
    await asyncio.wait(cancelled, return_when=asyncio.FIRST_COMPLETED)
    await worker.complete(running)
    assert sum(one.done() for one in cancelled) <= 3 * UPDATES
    await asyncio.gather(*cancelled)
