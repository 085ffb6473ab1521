"""What runs out of time by the thousand: others' timeouts, changes and looks don't wait for all of it."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

import pytest
from support import virtual
from support.engine import DistantStore, Engine, tenant
from support.samples import make_task

from openmcp_chain.domain.queue import new
from openmcp_chain.domain.task import Change, Key, Status, Task, Terms, View
from openmcp_chain.engine import ends, sweep

MANY = 3000


class Slow(DistantStore):
    """Each task that is changed takes its time, and so does each mebibyte that is read."""

    async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
        await asyncio.sleep(0.005 * len(changes))
        return await super().update_tasks(changes)

    async def get_tasks(self, keys: Collection[Key], view: View = View.WHOLE) -> Mapping[Key, Task]:
        found = await super().get_tasks(keys, view)
        await asyncio.sleep(sum(len(task.payload) for task in found.values()) / 2**20)
        return found


async def crowd(store: Slow, count: int = MANY) -> None:
    """So many tasks of one workspace, all due to have begun in ten seconds."""
    now, terms = virtual.clock(), Terms(schedule_to_start=timedelta(seconds=10))
    tasks = [make_task(workspace="crowd", task_type="echo", terms=terms, now=now) for _ in range(count)]
    await store.insert_tasks(tasks)
    await store.put_queue(new(tasks[0].queue, now))


async def ended(engine: Engine, task: Task) -> float:
    """When the task has ended, by the loop's time; it is waited for."""
    async with asyncio.timeout(600):
        while not engine.task(task.key).status.terminal:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
    return asyncio.get_running_loop().time()


async def test_nobodys_time_out_waits_for_all_of_anothers() -> None:
    """A tenant's thousands take their time; one that is due meanwhile ends soon, though it was due later."""
    store = Slow()
    engine = Engine(store).start()
    await crowd(store)
    begin = asyncio.get_running_loop().time()
    theirs = await engine.submit(terms=Terms(schedule_to_start=timedelta(seconds=12)))
    assert await ended(engine, theirs) - begin < 12 + 4
    left = sum(task.status is Status.PENDING for task in store._tasks.values())
    assert left > MANY / 2
    await asyncio.sleep(40)
    assert {task.status for task in store._tasks.values()} == {Status.FAILED}


async def test_what_runs_out_beside_anothers_thousands_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many searches it takes to go through these: the lease of a server that died, and a wait."""
    monkeypatch.setattr(sweep, "OVERDUE", 5)
    store = Slow()
    dead = Engine(store)
    worker = dead.worker()
    task = await dead.submit()
    await worker.next()
    await dead.die()
    engine = Engine(store).start("sweep", "queues")
    await crowd(store, 1000)
    begin = asyncio.get_running_loop().time()
    waits = [await engine.submit(tenant("ws-2"), terms=Terms(schedule_to_start=timedelta(seconds=n))) for n in (12, 17)]
    stored = engine.task(task.key).lease
    assert stored is not None
    end = (stored.expires_at - virtual.clock()).total_seconds()
    assert await ended(engine, waits[0]) - begin < 12 + 2
    assert await ended(engine, waits[1]) - begin < 17 + 2
    while engine.task(task.key).status is Status.RUNNING:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.1)
    assert asyncio.get_running_loop().time() - begin < end + 2
    assert sum(task.status is Status.PENDING for task in store._tasks.values()) > 500


async def test_nobodys_worker_waits_for_anothers_time_outs() -> None:
    """A submit, its claim and its result pass while thousands end."""
    store = Slow()
    engine = Engine(store).start()
    await crowd(store)
    await asyncio.sleep(11)
    worker = engine.worker(workspace="ws-1")
    begin = asyncio.get_running_loop().time()
    await engine.submit()
    await worker.complete(await worker.next())
    assert asyncio.get_running_loop().time() - begin < 1
    assert any(task.status is Status.PENDING for task in store._tasks.values())


async def test_a_task_is_ended_without_its_payload() -> None:
    """A hundred mebibytes that time out are not read."""
    store = Slow()
    engine = Engine(store).start()
    for _ in range(100):
        await engine.submit(payload=b"x" * 2**20, terms=Terms(schedule_to_start=timedelta(seconds=10)))
    await asyncio.sleep(10 + sweep.INTERVAL_SECONDS + 1)
    assert {task.status for task in store._tasks.values()} == {Status.FAILED}
    assert {len(task.payload) for task in store._tasks.values()} == {2**20}


async def test_what_there_is_no_room_to_remember_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is found in a sweep, and kept of a workspace's, all of it ends."""
    monkeypatch.setattr(ends, "WAITING", 10)
    monkeypatch.setattr(sweep, "OVERDUE", 25)
    store = Slow()
    engine = Engine(store).start()
    await crowd(store, 200)
    await asyncio.sleep(10 + 30)
    assert {task.status for task in store._tasks.values()} == {Status.FAILED}
    assert not engine.app.sweep._ends._waiting
    assert not engine.app.sweep._ends._under_way


async def test_a_sweep_that_is_stopped_ends_nothing_more() -> None:
    """What it had found is left to the others."""
    store = Slow()
    engine = Engine(store).start("sweep")
    await crowd(store)
    await asyncio.sleep(11)
    await engine.die()
    await engine.app.ledger.settle()
    left = sum(task.status is Status.PENDING for task in store._tasks.values())
    assert 0 < left < MANY
    await asyncio.sleep(60)
    assert sum(task.status is Status.PENDING for task in store._tasks.values()) == left
