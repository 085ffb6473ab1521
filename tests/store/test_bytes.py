"""What leaves a database, in bytes: those who lose to others learn of it by little, however much there is."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import NamedTuple

import pytest
from support.database import Database
from support.proxy import Proxy, running_proxy
from support.samples import NOW, PROGRESS, at, make_lease, make_task

from openmcp_chain.domain import transitions
from openmcp_chain.domain.task import Change, Task
from openmcp_chain.store.mongo.client import Driver
from openmcp_chain.store.mongo.store import MongoStore, connect

MANY = 20
LITTLE = MANY * 2_000


class Remote(NamedTuple):
    """A store, and what is between it and its database."""

    store: MongoStore
    way: Proxy


@pytest.fixture
async def remote(database: Database, driver: Driver) -> AsyncIterator[Remote]:
    async with running_proxy(database.port) as way:
        uri = f"mongodb://127.0.0.1:{way.port}/?directConnection=true"
        store = await connect(uri, f"test-{uuid.uuid4().hex}", driver)
        yield Remote(store, way)
        await store.close()


async def running(store: MongoStore) -> list[Task]:
    """Tasks that have much of everything, as they are stored now."""
    new = [make_task(payload=b"x" * 50_000, metadata={"k": "x" * 10_000}, fingerprint=b"first") for _ in range(MANY)]
    claimed = [transitions.claim(task, make_lease("token"), NOW) for task in new]
    logged = claimed
    for _ in range(50):
        logged = [transitions.note(task, "token", NOW, line="x" * 1024) for task in logged]
    await store.insert_tasks(new)
    await store.update_tasks(list(map(Change, new, claimed)))
    await store.update_tasks(list(map(Change, claimed, logged)))
    return logged


async def test_an_insert_that_loses_reads_an_outline(remote: Remote) -> None:
    """The same submits again."""
    stored = await running(remote.store)
    before = remote.way.replied
    there = await remote.store.insert_tasks([replace(task, fingerprint=b"second") for task in stored])
    assert [task.id for task in there] == [task.id for task in stored]
    assert 0 < remote.way.replied - before < LITTLE


async def test_a_change_that_loses_reads_the_last_event(remote: Remote) -> None:
    """Of all in its batch: of those that were made too, of those that were made before, and of ended tasks' results."""
    stored = await running(remote.store)
    noted = [transitions.note(task, "token", NOW, progress=PROGRESS) for task in stored]
    ended = [transitions.complete(task, "token", b"x" * 50_000, at(NOW)) for task in stored]
    assert await remote.store.update_tasks(list(map(Change, stored[:5], noted[:5]))) == [True] * 5
    assert await remote.store.update_tasks(list(map(Change, stored[5:10], ended[5:10]))) == [True] * 5
    before = remote.way.replied
    made = await remote.store.update_tasks(list(map(Change, stored, noted)))
    assert made == [True] * 5 + [False] * 5 + [True] * (MANY - 10)
    assert 0 < remote.way.replied - before < LITTLE
