"""The model of tasks' lives, run: on the domain alone, and through every store.

The examples are the same each time (a few; `make faults` has more), but in CI, where each run tries others; so does
`make test ARGS="tests/model --examples 500"`. The report of a failure says how to have its examples again.
"""

import asyncio
import os
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol
from unittest import mock

import hypothesis
import pymongo
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from model.machine import Model
from model.shelf import SERVERS, Plain, Shelf, Stored
from support.database import Database

from openmcp_chain.domain import transitions
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.store.mongo.client import Driver
from openmcp_chain.store.mongo.store import connect

pytestmark = pytest.mark.timeout(1800)  # for hypothesis to find a short example, should one ever fail


class Live(Protocol):
    def __call__(self, open_shelf: Callable[[], Shelf], examples: int, steps: int, *, together: bool = False) -> None:
        """Runs the model on shelves: so many examples, of so many steps."""


@pytest.fixture
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    """Runs the model on shelves: so many examples, of so many steps; or as many as --examples says, at random."""
    wanted = request.config.getoption("--examples")
    known = request.config.getoption("--hypothesis-seed")
    varied = bool(wanted or known or os.environ.get("CI"))

    def run(open_shelf: Callable[[], Shelf], examples: int, steps: int, *, together: bool = False) -> None:
        # On a database, each move by itself costs a round trip.
        left_out = {"act": None} if together else {}
        machine = type("Machine", (Model,), {"open_shelf": staticmethod(open_shelf), **left_out})
        if varied:
            chosen = known or random.getrandbits(64)
            again = f"--examples {wanted or examples} --hypothesis-seed {chosen}"
            request.node.add_report_section("call", "model", f"again: {again}")
            machine = hypothesis.seed(int(chosen))(machine)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=wanted or examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=not varied,
                # On a database a shorter example takes minutes to find.
                phases=[Phase.generate] if together else [Phase.generate, Phase.shrink],
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

    # Few enough that lives come to them.
    with mock.patch.object(transitions, "NOTES", 2), mock.patch.object(transitions, "EVENTS", 10):
        yield run


@pytest.mark.parametrize("examples", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_the_domain(live: Live, examples: int) -> None:
    """Whatever happens, each task is whole, its history contiguous, and its lease held once."""
    live(Plain, examples, 20)


def test_in_memory(live: Live) -> None:
    """The memory store keeps what the domain decides, and finds what is due."""
    with asyncio.Runner() as runner:

        def open_shelf() -> Shelf:
            store = MemoryStore()
            return Stored(runner, [store for _ in SERVERS])

        live(open_shelf, 12, 20)


@pytest.mark.parametrize(("driver", "examples"), [("pymongo", 8), pytest.param("motor", 30, marks=pytest.mark.slow)])
def test_on_a_database(live: Live, database: Database, driver: Driver, examples: int) -> None:
    """So do two processes' worth of stores on one database, whose writes race."""
    name = f"model-{uuid.uuid4().hex}"
    with pymongo.MongoClient[dict[str, object]](database.uri) as client, asyncio.Runner() as runner:
        stores = [runner.run(connect(database.uri, name, driver)) for _ in SERVERS]

        def open_shelf() -> Shelf:
            for collection in client[name].list_collection_names():
                client[name][collection].delete_many({})
            return Stored(runner, stores)

        try:
            live(open_shelf, examples, 12, together=True)
        finally:
            for store in stores:
                runner.run(store.close())
