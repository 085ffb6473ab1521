"""What workers' streams may say: as much as the plan lets them call, beside what leases need, which never waits."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.engine import LEASE, Engine, Worker, ref, tenant
from support.service import SETTINGS

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import STANDARD, Key, Task
from openmcp_chain.engine import pace
from openmcp_chain.engine.leases import LeaseRef
from openmcp_chain.engine.pace import CLAIMS, GIVEN, HEARD, NEEDED, SHORTEST

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
    """How long it takes until the last of these reports, under none of the worker's leases, has its turn."""
    began = asyncio.get_running_loop().time()
    for one in refs:
        assert engine.app.leases.held_by(worker.session, one) is None
        await engine.app.leases.admit(worker.principal, worker.session, one)
    return asyncio.get_running_loop().time() - began


def taken(engine: Engine, worker: Worker, tasks: Sequence[Task], **what: bool) -> int:
    """How many of these reports, one under each task's lease, are carried out."""
    count = 0
    for task in tasks:
        held = engine.app.leases.held_by(worker.session, ref(task))
        assert held is not None
        count += engine.app.leases.takes(worker.principal, held, **what)
    return count


async def busy(engine: Engine, number: int, **fields: Any) -> tuple[Worker, list[Task]]:
    """A worker of the smallest plan that has so many tasks."""
    worker = worker_of(engine, "free", room=number)
    for _ in range(number):
        await engine.submit(**fields)
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


async def test_what_leases_need_is_always_taken() -> None:
    """Heartbeats and ends of hundreds of tasks of the smallest plan, however much else was said before."""
    engine = Engine()
    worker, tasks = await busy(engine, MANY)
    assert taken(engine, worker, tasks, writes=True) == FREE.burst
    for _ in range(10):
        await asyncio.sleep(LEASE / 3)
        taken(engine, worker, tasks, writes=True)
        assert taken(engine, worker, tasks) == taken(engine, worker, tasks) == MANY
        assert taken(engine, worker, tasks) == 0, "what no lease needs"
    assert taken(engine, worker, tasks, ends=True) == MANY


async def test_what_is_written_has_the_rate_of_the_plan() -> None:
    """Progress and lines, of all leases together, and of what is said beside them; none is counted that is left out."""
    engine = Engine()
    worker, tasks = await busy(engine, MANY)
    counted = 0
    for _ in range(20):
        counted += taken(engine, worker, tasks, writes=True)
        await asyncio.sleep(1)
    assert counted == FREE.burst + 19 * FREE.requests_per_second
    assert taken(engine, worker, tasks, writes=True) == FREE.requests_per_second
    assert await seconds(engine, worker, [made_up(0)]) == pytest.approx(1 / FREE.requests_per_second)


async def test_who_wants_to_be_missed_within_a_second_pays_by_the_rate() -> None:
    """Of heartbeats under such a lease as many are free as of one of ten seconds; past the rate, more are refused."""
    engine = Engine()
    worker, tasks = await busy(engine, MANY, terms=replace(STANDARD, heartbeat=timedelta(seconds=1)))
    said = 0
    for _ in range(100):
        said += taken(engine, worker, tasks)
        await asyncio.sleep(0.2)
    free = MANY * (GIVEN + int(NEEDED / SHORTEST * 20))
    assert free - MANY <= said <= free + FREE.burst + 20 * FREE.requests_per_second
    assert taken(engine, worker, tasks, ends=True) == MANY


async def test_of_all_reports_so_many_a_second_are_read() -> None:
    """Of one workspace; another's are read at once, and a plan without a rate has no limit."""
    engine = Engine()
    worker, other, free = worker_of(engine, "free"), worker_of(engine, "free", "ws-2"), worker_of(engine, "unlimited")

    async def hearing(of: Worker, number: int) -> float:
        began = asyncio.get_running_loop().time()
        for _ in range(number):
            await engine.app.leases.hear(of.principal)
        return asyncio.get_running_loop().time() - began

    assert await hearing(worker, 3 * HEARD) == pytest.approx(2, abs=0.01)
    assert await hearing(other, HEARD) == pytest.approx(0)
    assert await hearing(free, 10 * HEARD) == 0


async def test_a_lease_that_has_ended_has_a_report_left() -> None:
    """Hundreds of attempts run out of time together: their worker hears so, and its other leases suffer no wait."""
    engine = Engine()
    worker, tasks = await busy(engine, MANY)
    for task in tasks:
        await worker.fail(task)
    refs = [ref(task) for task in tasks]
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
        assert taken(engine, worker, tasks) == MANY


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
