"""Tasks as documents: whatever a task holds, it comes back, and an update makes of one exactly the other."""

from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st
from support.database import Database
from support.samples import NOW, SECOND, make_task

from openmcp_chain.domain.task import Event, Failure, Key, Lease, Priority, Status, Task
from openmcp_chain.store.mongo import documents
from openmcp_chain.store.mongo.client import Driver
from openmcp_chain.store.mongo.store import MongoStore, connect

OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)

TIMES = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1)).map(  # noqa: DTZ001 - made aware next
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000, tzinfo=UTC)
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
STATUSES = st.sampled_from(Status)
CONTEXTS = st.dictionaries(st.sampled_from(["attempt", "worker", "message"]), TEXTS | st.integers(0, 2**63 - 1))
TASKS = st.builds(
    Task,
    workspace=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True),
    id=TEXTS,
    type=TEXTS,
    payload=st.binary(),
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=5),
    priority=st.sampled_from(Priority),
    fingerprint=st.binary(max_size=32),
    traceparent=TEXTS,
    max_attempts=st.integers(1, 100),
    submitted_at=TIMES,
    version=st.integers(1, 2**31),
    status=STATUSES,
    attempt=st.integers(0, 100),
    due_at=st.none() | TIMES,
    lease=st.none() | st.builds(Lease, TEXTS, TEXTS, TIMES),
    updated_at=TIMES,
    events=st.lists(st.builds(Event, st.integers(1, 100), STATUSES, TIMES, CONTEXTS), max_size=4).map(tuple),
    result=st.none() | st.binary(),
    failure=st.none() | st.builds(Failure, TEXTS, TEXTS),
    expire_at=st.none() | TIMES,
)


@given(TASKS)
def test_a_task_comes_back_from_its_document(task: Task) -> None:
    """Through BSON, field by field."""
    stored = bson.decode(bson.encode(documents.from_task(task)), OPTIONS)
    assert documents.to_task(stored) == task


@given(TASKS, TASKS)
def test_an_update_makes_one_state_of_the_other(before: Task, after: Task) -> None:
    """It sets what differs, unsets what is gone and appends the new events, and touches nothing twice."""
    update = documents.update(before, after)
    made = documents.state(before) | update.get("$set", {})
    for name in update.get("$unset", {}):
        del made[name]
    pushed = update.get("$push", {"events": {"$each": []}})["events"]["$each"]
    made["events"] = documents.state(before)["events"] + pushed
    expected = documents.state(after)
    expected["events"] = documents.state(before)["events"] + expected["events"][len(before.events) :]
    assert made == expected
    assert not set(update.get("$set", {})) & set(update.get("$unset", {}))
    assert all(update.values())


@given(st.from_regex(r"[a-z0-9-]{1,8}", fullmatch=True), TEXTS, st.from_regex(r"[a-z0-9-]{1,8}", fullmatch=True), TEXTS)
def test_two_keys_are_never_one(workspace: str, task_id: str, other: str, other_id: str) -> None:
    """No pair of workspace and id is written as another pair is."""
    one, two = Key(workspace, task_id), Key(other, other_id)
    assert (documents.primary_key(one) == documents.primary_key(two)) is (one == two)


@pytest.fixture
async def stocked(mongo: MongoStore) -> MongoStore:
    await mongo.insert_tasks([make_task() for _ in range(10)])
    return mongo


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({"status": "PENDING", "type": "data_pipeline", "due_at": {"$lte": NOW}}, "ready"),
        (
            {"status": "PENDING", "type": "data_pipeline", "workspace": "ws-1", "due_at": {"$lte": NOW}},
            "ready_in_workspace",
        ),
        ({"status": "RUNNING", "due_at": {"$lt": NOW + SECOND}}, "expired"),
    ],
)
async def test_what_is_due_is_found_by_an_index(stocked: MongoStore, query: dict[str, Any], index: str) -> None:
    """A sweep costs what it finds, not what is stored."""
    plan = await stocked._tasks.find(query).explain()
    assert plan["queryPlanner"]["winningPlan"]["inputStage"]["indexName"] == index


async def test_retention_is_the_servers_affair(mongo: MongoStore) -> None:
    """A task that has ended is deleted by the database at its `expire_at`."""
    indexes = await mongo._tasks.index_information()
    assert indexes["retention"]["key"] == [("expire_at", 1)]
    assert timedelta(seconds=indexes["retention"]["expireAfterSeconds"]) == timedelta()


async def test_a_second_process_finds_the_indexes_made(database: Database, driver: Driver) -> None:
    """Each process makes them at its start."""
    stores = [await connect(database.uri, "indexes", driver) for _ in range(2)]
    names = [set(await store._tasks.index_information()) for store in stores]
    assert names[0] == names[1] == {"_id_", "ready", "ready_in_workspace", "expired", "retention"}
    for store in stores:
        await store.close()
