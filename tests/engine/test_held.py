"""What is kept in memory of tasks that run: no payloads, little of what has much, and nothing without bound."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from support.engine import LEASE, DistantStore, Engine, Worker, ref, tenant

from openmcp_chain.domain import errors, sizes
from openmcp_chain.domain.task import Key, Progress, Status, Task
from openmcp_chain.engine import held
from openmcp_chain.engine.held import KEPT_BYTES
from openmcp_chain.engine.leases import LeaseRef

MUCH = {"k": "x" * KEPT_BYTES}
STORED = 1.5 * LEASE


def kept(engine: Engine) -> list[int]:
    """The bytes of what is kept of each task that runs."""
    return [
        len(one.task.payload) + sum(map(len, one.task.labels.values())) + len(one.task.events)
        for one in engine.app.leases._held
        if one.task is not None
    ]


async def leased(engine: Engine, payload: bytes = b"", labels: Mapping[str, str] | None = None) -> tuple[Worker, Task]:
    worker = engine.worker()
    await engine.submit(payload=payload, labels=labels)
    return worker, await worker.next()


async def test_payloads_are_not_kept_while_their_tasks_run() -> None:
    """A worker gets the payload, in each attempt; then the database alone has it, whoever reports and whatever."""
    store = DistantStore()
    engine = Engine(store)
    engine.app.leases._chance = lambda: 0.0
    payload = b"x" * 1_000_000
    worker, task = await leased(engine, payload)
    assert task.payload == payload
    assert kept(engine) == [2]
    await asyncio.sleep(LEASE - 1)
    await worker.heartbeat(task, Progress(0.5, "half"))
    assert kept(engine) == [3]
    await worker.fail(task)
    again = await worker.next()
    assert (again.payload, again.attempt) == (payload, 2)
    assert kept(engine) == [5]
    await worker.complete(again, b"result")
    assert not kept(engine)
    ended = engine.task(task.key)
    assert (ended.payload, ended.result, len(ended.events)) == (payload, b"result", 6)


async def test_a_claim_that_is_decided_again_still_has_the_payload() -> None:
    """The task was cancelled and retried by another process, after this one had kept it for a worker to come."""
    store = DistantStore()
    here, there = Engine(store), Engine(store)
    blocked = here.worker()
    await here.submit()
    task = await here.submit(payload=b"payload")
    await there.app.tasks.cancel(tenant(), task.id, "")
    await there.app.tasks.retry(tenant(), task.id)
    await blocked.complete(await blocked.next())
    assert (await blocked.next()).payload == b"payload"


async def test_of_a_task_with_much_to_it_only_the_state_is_kept() -> None:
    """It is read again when it is reported on, and its history goes on as any other's."""
    store = DistantStore()
    engine = Engine(store)
    engine.app.leases._chance = lambda: 0.0
    worker, task = await leased(engine, labels=MUCH)
    assert kept(engine) == [0]
    store.calls.clear()
    await worker.heartbeat(task, line="a line")
    assert store.calls["get_tasks"] == 1
    await engine.app.tasks.cancel(tenant(), task.id, "enough")
    assert (await worker.told_to_stop()).cancel == "enough"
    await worker.stop(task)
    ended = engine.task(task.key)
    assert (ended.status, ended.labels) == (Status.CANCELLED, MUCH)
    assert [event.seq for event in ended.events] == [1, 2, 3, 4, 5]


async def test_what_a_heartbeat_does_not_write_it_does_not_read() -> None:
    """However much there is to the task: one that keeps it, and has no news, is answered from memory."""
    store = DistantStore()
    engine = Engine(store)
    worker, task = await leased(engine, labels=MUCH)
    store.calls.clear()
    await asyncio.sleep(LEASE / 3)
    assert (await worker.heartbeat(task)).cancel is None
    await engine.app.tasks.cancel(tenant(), task.id, "enough")
    store.calls.clear()
    assert (await worker.heartbeat(task)).cancel == "enough"
    with pytest.raises(errors.LeaseLost):
        await engine.app.leases.heartbeat(tenant("ws-2"), ref(task))
    assert not store.calls
    await asyncio.sleep(LEASE / 3)
    await worker.heartbeat(task)
    assert dict(store.calls) == {"get_tasks": 1, "update_tasks": 1}
    assert engine.task(task.key).labels == MUCH


async def test_a_silent_worker_of_such_a_task_is_noticed_as_any_other() -> None:
    """By the process that heard of it last, when it has been silent for too long; unless it was heard of elsewhere."""
    store = DistantStore()
    here, there = Engine(store), Engine(store)
    worker, task = await leased(here, labels=MUCH)
    await asyncio.sleep(LEASE)
    await there.app.leases.heartbeat(worker.principal, ref(task))
    await asyncio.sleep(LEASE / 2)
    await here.app.sweep.run_once()
    assert here.task(task.key).status is Status.RUNNING
    await there.app.leases.heartbeat(worker.principal, ref(task))
    await asyncio.sleep(LEASE + 0.001)
    assert (await there.app.sweep.run_once()).overdue == 1
    ended = here.task(task.key)
    assert ended.events[-1].context["code"] == "LEASE_EXPIRED"
    assert [event.seq for event in ended.events] == [1, 2, 3]


async def test_past_a_bound_only_states_are_kept_of_what_was_heard_of_longest_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And past another, of leases that no session holds, nothing: they are reported on, and run out, all the same."""
    monkeypatch.setattr(held, "ALL_KEPT_BYTES", 5 * (2 * sizes.EVENT + sizes.of_texts(["worker-1"])))
    monkeypatch.setattr(held, "LEFT", 3)
    engine = Engine()
    worker = engine.worker(room=8)
    for _ in range(8):
        await engine.submit()
    tasks = [await worker.next() for _ in range(8)]
    assert kept(engine) == [0] * 3 + [2] * 5
    worker.leave()
    assert {one.key for one in engine.app.leases._held} == {task.key for task in tasks[5:]}
    await worker.complete(tasks[0])
    await worker.complete(tasks[7])
    await asyncio.sleep(STORED)
    assert (await engine.app.sweep.run_once()).overdue >= 6
    assert {engine.task(task.key).status for task in tasks[1:7]} == {Status.PENDING}
    assert not engine.app.leases._held._whole
    assert (len(engine.app.leases._held), engine.app.leases._held._bytes) == (0, 0)


async def test_what_a_worker_said_that_it_held_goes_with_it() -> None:
    """Nobody has looked whether there are such leases: a worker may make up as many as it likes. A real one stays."""
    engine = Engine()
    worker, task = await leased(engine)
    held = engine.app.leases._held
    for number in range(1000):
        made_up = LeaseRef(task.key if number % 2 else Key("ws-1", "none"), f"made up {number}")
        engine.app.leases.claimed(worker.principal, made_up, worker.session)
    assert (len(held), len(held._claims), len(held._of_claimant)) == (1, 1000, 1)
    worker.leave()
    assert (len(held), len(held._claims), len(held._of_claimant)) == (1, 0, 0)
    assert engine.app.leases.holds(task.key)


STRANGERS = [{"workspace": "ws-2"}, {"workspace": None, "task_types": ["other"]}]


@pytest.mark.parametrize("known", [True, False], ids=["held here", "held elsewhere"])
@pytest.mark.parametrize("stranger", STRANGERS, ids=["another tenant", "an operator of other types"])
async def test_who_says_that_he_holds_anothers_lease_takes_nothing(stranger: Mapping[str, Any], known: bool) -> None:
    """Nor learns anything. Its holder is heard from memory and told to stop, and has room for another when it ends."""
    store = DistantStore()
    here = Engine(store)
    worker, task = await leased(here)
    there = here if known else Engine(store)
    thief = there.worker(*stranger.get("task_types", ["echo"]), workspace=stranger["workspace"], room=0)
    there.app.leases.claimed(thief.principal, ref(task), thief.session)
    for report in (thief.heartbeat, thief.complete, thief.fail, thief.stop):
        with pytest.raises(errors.LeaseLost):
            await report(task)
    assert thief.session.credits == 1, "what was taken for a lease is none, once"
    store.calls.clear()
    await worker.heartbeat(task)
    assert not store.calls
    await here.app.tasks.cancel(tenant(), task.id, "enough")
    assert (await worker.told_to_stop()).cancel == "enough"
    assert thief.stops.empty()
    await worker.stop(task)
    assert worker.session.credits == 1


async def test_who_comes_back_elsewhere_is_told_to_stop_when_it_has_shown_what_it_holds() -> None:
    """And at once by the process that knows its lease; the last of its streams that says so has it."""
    store = DistantStore()
    here, there = Engine(store), Engine(store)
    cut, task = await leased(here)
    await here.app.tasks.cancel(tenant(), task.id, "enough")
    for engine in (here, there):
        streams = [engine.worker(room=0) for _ in range(2)]
        for worker in streams:
            engine.app.leases.claimed(worker.principal, ref(task), worker.session)
        if engine is there:
            await asyncio.gather(*(streams[1].heartbeat(task) for _ in range(3)))
            assert streams[0].stops.empty()
        assert (await streams[1].told_to_stop()).cancel == "enough"
        assert streams[1].stops.empty()
    await streams[1].stop(task)
    assert [worker.session.credits for worker in (cut, *streams)] == [0, 0, 1]
