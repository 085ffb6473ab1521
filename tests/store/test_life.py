"""The life of a task, as in the domain's own test, through the stores: two actors, each with a store of its own."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from support.database import Database
from support.life import Life

from openmcp_chain.domain.task import Change, Task
from openmcp_chain.store.base import Store
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.store.mongo.client import Driver
from openmcp_chain.store.mongo.store import connect

pytestmark = pytest.mark.timeout(600)  # for hypothesis to find a short example, should one ever fail


class StoredLife(Life):
    """Reads and writes through stores on the same data; of two writes at once, each goes through another."""

    run: ClassVar[asyncio.Runner]
    stores: ClassVar[Sequence[Store]]

    def insert(self, task: Task) -> None:
        (added,) = self.run.run(self.stores[0].insert_tasks([task]))
        assert added is task

    def write(self, changes: Sequence[Change]) -> Sequence[bool]:
        async def at_once() -> list[bool]:
            answers = await asyncio.gather(
                *(store.update_tasks([change]) for store, change in zip(self.stores, changes, strict=False))
            )
            return [made for (made,) in answers]

        return self.run.run(at_once())

    def read(self) -> Task:
        found = self.run.run(self.stores[-1].get_tasks([self.first.key]))
        return found[self.first.key]


def live(stores: Sequence[Store], runner: asyncio.Runner, examples: int) -> None:
    machine = type("Machine", (StoredLife,), {"run": runner, "stores": stores})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_in_memory() -> None:
    """The memory store keeps the rules as the domain does."""
    memory = MemoryStore()
    with asyncio.Runner() as runner:
        live([memory, memory], runner, 50)


def test_on_a_database(database: Database, driver: Driver) -> None:
    """Two processes' worth of writes race on a real database: one wins, and history stays whole."""
    with asyncio.Runner() as runner:
        stores = [runner.run(connect(database.uri, f"life-{driver}", driver)) for _ in range(2)]
        try:
            live(stores, runner, 15)
        finally:
            for store in stores:
                runner.run(store.close())
