"""What workers' streams may say: as much as the plan lets them call, beside what leases need, which never waits."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from support.engine import LEASE, Engine, Worker, ref, tenant
from support.service import SETTINGS

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import STANDARD, Key, Task
from openmcp_chain.engine import pace
from openmcp_chain.engine.leases import LeaseRef
from openmcp_chain.engine.pace import CLAIMS, GIVEN, NEEDED, SHORTEST

FREE = SETTINGS.plans["free"]
MANY = 300
"""Tasks: more than any rate of its plan would let a worker report on."""


def worker_of(engine: Engine, plan: str, workspace: str = "ws-1", room: int = 0) -> Worker:
    worker = engine.worker(room=room, workspace=workspace)
    worker.principal = replace(worker.principal, plan=plan)
    return worker


def made_up(number: int) -> LeaseRef:
    return LeaseRef(Key("ws-1", f"task-{number}"), "token")


async def seconds(engine: Engine, worker: Worker, refs: Sequence[LeaseRef]) -> float:
    """How long it takes until the last of these reports has its turn, as a stream takes them."""
    began = asyncio.get_running_loop().time()
    leases, waiting = engine.app.leases, list[Awaitable[None]]()
    for one in refs:
        held = leases.held_by(worker.session, one)
        if held is None:
            await leases.admit(worker.principal, worker.session, one)
        else:
            waiting.append(asyncio.ensure_future(leases.admit_under(worker.principal, held)))
    await asyncio.gather(*waiting)
    return asyncio.get_running_loop().time() - began


async def busy(engine: Engine, number: int, plan: str = "free") -> tuple[Worker, list[Task]]:
    """A worker that has so many tasks."""
    worker = worker_of(engine, plan, room=number)
    for _ in range(number):
        await engine.submit()
    return worker, [await worker.next() for _ in range(number)]


async def test_what_no_lease_needs_has_the_rate_of_the_plan() -> None:
    """A burst, then the rate; over all streams of the workspace together, and of nobody else."""
    engine = Engine()
    workers = [worker_of(engine, "free") for _ in range(2)]
    said = FREE.burst + 10 * FREE.requests_per_second
    took = await asyncio.gather(*(seconds(engine, one, [made_up(n) for n in range(said // 2)]) for one in workers))
    assert max(took) == pytest.approx(10, abs=0.2)
    assert await seconds(engine, worker_of(engine, "free", "ws-2"), [made_up(0)]) == 0
    await asyncio.sleep(FREE.burst / FREE.requests_per_second)
    assert await seconds(engine, workers[0], [made_up(n) for n in range(FREE.burst)]) == pytest.approx(0)


@pytest.mark.parametrize(("plan", "rate"), [("unlimited", 0), ("standard", 200), ("gone", 10)])
async def test_each_plan_has_its_own(plan: str, rate: int) -> None:
    """None for a plan without one; the smallest plan's for one that is in the file no more, as Envoy has it."""
    engine = Engine()
    worker = worker_of(engine, plan)
    took = await seconds(engine, worker, [made_up(n) for n in range(2000)])
    burst = next((one.burst for one in SETTINGS.plans.values() if one.requests_per_second == rate), 0)
    assert took == pytest.approx((2000 - burst) / rate if rate else 0, rel=0.01)


async def test_what_leases_need_never_waits() -> None:
    """Hundreds of tasks of the smallest plan: their heartbeats, a line each, and their ends, all at once."""
    engine = Engine()
    worker, tasks = await busy(engine, MANY)
    refs = [ref(task) for task in tasks]
    for _ in range(10):
        await asyncio.sleep(LEASE / 3)
        assert await seconds(engine, worker, refs) == 0
    await asyncio.sleep(LEASE / 3)
    assert await seconds(engine, worker, refs) == 0
    assert await seconds(engine, worker, refs) == 0


async def test_what_is_said_under_a_lease_waits_no_longer_than_its_heartbeat_may() -> None:
    """However much its workspace says: the worker is never late by that."""
    engine = Engine()
    worker, (task,) = await busy(engine, 1)
    other = worker_of(engine, "free")
    flood = asyncio.create_task(seconds(engine, other, [made_up(n) for n in range(10_000)]))
    await asyncio.sleep(10)
    for _ in range(100):
        assert await seconds(engine, worker, [ref(task)]) <= LEASE / NEEDED + 0.001
    flood.cancel()


async def test_what_waits_under_one_lease_holds_up_no_other() -> None:
    """A worker says hundreds of lines of one task: the heartbeat of another has its turn at once."""
    engine = Engine()
    worker, (chatty, other) = await busy(engine, 2)
    for _ in range(FREE.burst):
        await engine.app.leases.admit(worker.principal, worker.session, made_up(0))
    lines = asyncio.create_task(seconds(engine, worker, [ref(chatty)] * 200))
    await asyncio.sleep(LEASE / NEEDED / 2)
    assert not lines.done()
    assert await seconds(engine, worker, [ref(other)]) == 0
    lines.cancel()


async def test_what_is_said_under_a_lease_keeps_its_order() -> None:
    """What needs no turn comes behind what waits for one."""
    engine = Engine()
    worker, (task,) = await busy(engine, 1)
    held = engine.app.leases.held_by(worker.session, ref(task))
    assert held is not None
    said = list[int]()

    async def say(number: int) -> None:
        await engine.app.leases.admit_under(worker.principal, held)
        said.append(number)

    saying = [asyncio.create_task(say(number)) for number in range(50)]
    for number in (50, 51):
        await asyncio.sleep(1.5 * LEASE / NEEDED)
        saying.append(asyncio.create_task(say(number)))
    await asyncio.gather(*saying)
    assert said == list(range(52))


async def test_who_wants_to_hear_of_silence_within_a_second_pays_by_its_rate() -> None:
    """A lease of a second needs six reports in it: of these as many are not counted as if it had ten."""
    engine = Engine()
    worker = worker_of(engine, "free", room=MANY)
    for _ in range(MANY):
        await engine.submit(terms=replace(STANDARD, heartbeat=timedelta(seconds=1)))
    refs = [ref(await worker.next()) for _ in range(MANY)]
    began, said = asyncio.get_running_loop().time(), 0
    while asyncio.get_running_loop().time() < began + 20:
        await seconds(engine, worker, refs)
        said += len(refs)
    took = asyncio.get_running_loop().time() - began
    assert said <= GIVEN * MANY + FREE.burst + (MANY * NEEDED / SHORTEST + FREE.requests_per_second) * took + MANY


async def test_a_lease_that_has_ended_has_a_report_left() -> None:
    """Hundreds of attempts run out of time together: their worker hears so, and its other lease suffers no wait."""
    engine = Engine()
    worker, tasks = await busy(engine, MANY)
    refs = [ref(task) for task in tasks]
    assert await seconds(engine, worker, refs + refs) == 0
    for task in tasks:
        await worker.fail(task)
    assert await seconds(engine, worker, refs) == 0
    assert await seconds(engine, worker, refs) == pytest.approx((MANY - FREE.burst) / FREE.requests_per_second)


async def test_who_comes_back_elsewhere_says_at_once_what_it_holds() -> None:
    """As often as it is cut off, since each time it proves true."""
    engine = Engine()
    worker, tasks = await busy(engine, MANY)
    for _ in range(3):
        worker.leave()
        engine = Engine(engine.store)
        worker = worker_of(engine, "free")
        for task in tasks:
            engine.app.leases.claimed(worker.principal, ref(task), worker.session)
        for task in tasks:
            assert await seconds(engine, worker, [ref(task)]) == 0
            await worker.heartbeat(task)
        assert await seconds(engine, worker, [ref(task) for task in tasks]) == 0


async def test_what_is_made_up_at_hello_has_the_rate_in_the_long_run() -> None:
    """As many as a worker may have tasks pass at once, and then no more than twice the rate."""
    engine = Engine()
    # The second worker's count; in the time that they take, as many have room among the others again.
    for expected in (0.0, (CLAIMS - FREE.burst) / (2 * FREE.requests_per_second)):
        worker = worker_of(engine, "free")
        refs = [LeaseRef(Key("ws-1", "task"), f"token-{n}") for n in range(CLAIMS)]
        for one in refs:
            engine.app.leases.claimed(worker.principal, one, worker.session)
        assert await seconds(engine, worker, refs) == pytest.approx(expected, abs=0.2)
        for one in refs[:10]:
            with pytest.raises(errors.LeaseLost):
                await engine.app.leases.heartbeat(worker.principal, one)
        worker.leave()


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace that has said nothing for long is forgotten; past a bound, whoever has not for longest."""
    monkeypatch.setattr(pace, "WORKSPACES", 5)
    engine = Engine()
    rates = engine.app.leases._pace._said
    for number in range(10):
        rates.take(replace(tenant(f"ws-{number}"), plan="free"))
    assert list(rates._full_at) == [f"ws-{number}" for number in range(5, 10)]
    await asyncio.sleep(1)
    for _ in range(5):
        rates.take(replace(tenant("ws-9"), plan="free"))
    assert list(rates._full_at) == ["ws-9"]
