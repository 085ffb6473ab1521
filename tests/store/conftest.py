"""One suite for every store: `store` is each of them in turn, `mongo` those on a database."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest
from support.database import Database

from openmcp_chain.store.base import Store
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.store.mongo.client import Driver
from openmcp_chain.store.mongo.store import MongoStore, connect

Connect = Callable[[], Awaitable[Store]]


@pytest.fixture(params=["memory", "motor", "pymongo"])
def kind(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


@pytest.fixture(params=["pymongo", pytest.param("motor", marks=pytest.mark.slow)])
def driver(request: pytest.FixtureRequest) -> Driver:
    return cast("Driver", request.param)


@pytest.fixture
async def connected(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Makes stores on the same, at first empty, data, as if each were in a process of its own."""
    name = f"test-{uuid.uuid4().hex}"
    memory = MemoryStore()
    opened: list[Store] = []

    async def connect_one() -> Store:
        if kind == "memory":
            return memory
        database: Database = request.getfixturevalue("database")
        store = await connect(database.uri, name, cast("Driver", kind))
        opened.append(store)
        return store

    yield connect_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(connected: Connect) -> Store:
    return await connected()


@pytest.fixture
async def mongo(database: Database, driver: Driver) -> AsyncIterator[MongoStore]:
    store = await connect(database.uri, f"test-{uuid.uuid4().hex}", driver)
    yield store
    await store.close()
