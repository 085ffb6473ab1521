"""What a task costs does not grow with what others have: counted in calls of functions, which no load changes."""

import sys
from collections.abc import Awaitable
from types import FrameType

import pytest
from support.engine import Engine, tenant

from openmcp_chain.domain.task import Queue
from openmcp_chain.engine.leasing import Ask
from openmcp_chain.engine.sessions import Demand

FEW, MANY = 5, 500
TASKS = 20


class Noticed(str):
    """A name that nobody compares without a function being called."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)


async def calls_of(action: Awaitable[object]) -> int:
    """How many functions are called until it is done."""
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        await action
    finally:
        sys.setprofile(None)
    return calls


def assert_alike(few: int, many: int) -> None:
    """Not to the call: what is amortized comes now and then."""
    assert many < 1.2 * few


@pytest.mark.parametrize("workspace", ["mine", None], ids=["own worker", "operator's"])
async def test_a_task_costs_the_same_however_many_workers_of_others_are_idle(workspace: str | None) -> None:
    """Other tenants' workers that take a type of the same name are not gone through."""

    async def cost(others: int) -> int:
        engine = Engine()
        for number in range(others):
            engine.worker(workspace=f"ws-{number}")
        worker = engine.worker(workspace=workspace)

        async def tasks() -> None:
            for _ in range(TASKS):
                await engine.submit(tenant("mine"))
                await worker.complete(await worker.next())

        return await calls_of(tasks())

    assert_alike(await cost(FEW), await cost(MANY))


async def test_a_lease_call_costs_the_same_however_many_tasks_of_others_run() -> None:
    """Leases that others hold are not gone through."""
    ask = Ask(
        worker="curl",
        version="",
        demand=Demand(frozenset({"echo"}), "mine"),
        most=1,
        wait=1.0,
        request_id="",
        most_bytes=1000,
    )

    async def cost(others: int) -> int:
        engine = Engine()
        worker = engine.worker(room=others, workspace="other")
        for _ in range(others):
            await engine.submit(tenant("other"))
        await worker.next()

        async def calls() -> None:
            for _ in range(TASKS):
                await engine.submit(tenant("mine"))
                async with engine.app.leasing.lease("mine", 10, ask) as leased:
                    assert leased.tasks

        async with engine.app.leasing.lease("mine", 10, ask):
            pass
        return await calls_of(calls())

    assert_alike(await cost(FEW), await cost(MANY))


async def test_a_task_costs_the_same_however_many_wait() -> None:
    """Of the same tenant and of others, of its priority and of others."""

    async def cost(waiting: int) -> int:
        engine = Engine()
        worker = engine.worker()
        for number in range(waiting):
            await engine.submit(tenant(f"ws-{number % 50}"), priority=1 + number % 5)

        async def tasks() -> None:
            for _ in range(TASKS):
                await engine.submit(tenant("mine"), priority=3)
                await worker.complete(await worker.next())

        return await calls_of(tasks())

    assert_alike(await cost(10 * FEW), await cost(10 * MANY))


async def test_a_workspaces_queues_are_found_at_the_same_cost_however_many_others_have() -> None:
    """Each list of types, and each count of what waits, asks for them."""

    async def cost(others: int) -> int:
        queues = Engine().app.queues
        for number in range(others):
            await queues.ensure(Queue(Noticed(f"ws-{number}"), "echo"))
        await queues.ensure(Queue("mine", "echo"))

        async def find() -> None:
            (state,) = queues.of_workspace("mine")
            assert state.queue == Queue("mine", "echo")

        return await calls_of(find())

    assert_alike(await cost(FEW), await cost(MANY))
