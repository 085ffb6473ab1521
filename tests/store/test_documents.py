"""Tasks as documents: whatever a task holds, it comes back, and an update makes of one exactly the other."""

from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.database import Database
from support.samples import NOW, SECOND, make_task

from openmcp_chain.domain import retry
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Call, Event, Failure, Key, Lease, Progress, Status, Task, Terms
from openmcp_chain.store.mongo import documents
from openmcp_chain.store.mongo.client import Driver
from openmcp_chain.store.mongo.store import MongoStore, connect

BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
"""A task has many fields, and the machine may be busy."""
OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)

TIMES = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1)).map(  # noqa: DTZ001 - made aware next
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000, tzinfo=UTC)
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
STATUSES = st.sampled_from(Status)
SPANS = st.timedeltas(min_value=timedelta(), max_value=timedelta(days=36500))
CONTEXTS = st.dictionaries(
    st.sampled_from(["attempt", "worker", "message"]), TEXTS | st.integers(0, 2**31) | st.booleans() | st.floats(0, 1)
)
POLICIES = st.builds(RetryPolicy, SPANS, st.floats(1, 10), SPANS, st.integers(1, 100), st.frozensets(TEXTS, max_size=3))
TASKS = st.builds(
    Task,
    workspace=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True),
    id=TEXTS,
    type=TEXTS,
    payload=st.binary(),
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=3),
    labels=st.dictionaries(TEXTS, TEXTS, max_size=3),
    priority=st.integers(1, 5),
    terms=st.builds(Terms, st.just(retry.DEFAULT) | POLICIES, *[st.none() | SPANS] * 5),
    dedupe_key=TEXTS,
    fingerprint=st.binary(max_size=32),
    traceparent=TEXTS,
    submitted_at=TIMES,
    version=st.integers(1, 2**53),
    status=STATUSES,
    attempt=st.integers(0, 100),
    tried_before=st.integers(0, 100),
    due_at=TIMES,
    scheduled_for=st.none() | TIMES,
    start_by=st.none() | TIMES,
    close_by=st.none() | TIMES,
    lease=st.none()
    | st.builds(Lease, TEXTS, TEXTS, TIMES, st.none() | TIMES, call=st.none() | st.builds(Call, TEXTS, TEXTS)),
    cancel=st.none() | TEXTS,
    progress=st.none() | st.builds(Progress, st.floats(0, 1), TEXTS),
    notes=st.integers(0, 200),
    updated_at=TIMES,
    events=st.lists(st.builds(Event, st.integers(1, 100), STATUSES, TIMES, CONTEXTS), max_size=4).map(tuple),
    result=st.none() | st.binary(),
    failure=st.none() | st.builds(Failure, TEXTS, TEXTS),
    superseded=st.booleans(),
)


@BUSY
@given(TASKS)
def test_a_task_comes_back_from_its_document(task: Task) -> None:
    """Through BSON, field by field."""
    stored = bson.decode(bson.encode(documents.from_task(task)), OPTIONS)
    assert documents.to_task(stored) == task


@BUSY
@given(TASKS, TASKS)
def test_an_update_makes_one_state_of_the_other(before: Task, after: Task) -> None:
    """It sets what differs, unsets what is gone and appends the new events, and touches nothing twice."""
    update = documents.update(before, after)
    made = documents.state(before) | update.get("$set", {})
    for name in update.get("$unset", {}):
        del made[name]
    assert made == documents.state(after)
    pushed = update.get("$push", {"events": {"$each": []}})["events"]["$each"]
    assert pushed == documents.events(after.events[len(before.events) :])
    assert not set(update.get("$set", {})) & set(update.get("$unset", {}))
    assert all(update.values())


@BUSY
@given(TASKS)
def test_the_state_is_what_can_change(task: Task) -> None:
    """So that what a lost change is compared with is all of it."""
    assert set(documents.state(task)) <= set(documents.STATE)


def test_a_task_as_most_are_has_a_small_document() -> None:
    """What is empty, or as it is by default, takes no room."""
    document = documents.from_task(make_task(payload=b"", metadata={}, labels={}))
    assert set(document) == {
        *("_id", "workspace", "type", "priority", "submitted_at", "events"),
        *("version", "status", "queue", "due_at", "updated_at"),
    }


@given(st.from_regex(r"[a-z0-9-]{1,8}", fullmatch=True), TEXTS, st.from_regex(r"[a-z0-9-]{1,8}", fullmatch=True), TEXTS)
def test_two_keys_are_never_one(workspace: str, task_id: str, other: str, other_id: str) -> None:
    """No pair of workspace and id is written as another pair is."""
    one, two = Key(workspace, task_id), Key(other, other_id)
    assert (documents.primary_key(one) == documents.primary_key(two)) is (one == two)
    assert documents.to_key({"_id": documents.primary_key(one)}) == one


@pytest.fixture
async def stocked(mongo: MongoStore) -> MongoStore:
    await mongo.insert_tasks([make_task() for _ in range(10)])
    return mongo


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({"queue": "data_pipeline/ws-1/3", "due_at": {"$lte": NOW}}, "due"),
        ({"queue": "data_pipeline/ws-1/3", "due_at": {"$gte": NOW, "$lte": NOW}}, "due"),
        ({"queue": "running", "due_at": {"$lte": NOW}}, "due"),
        ({"queue": "ended", "due_at": {"$gte": NOW, "$lt": NOW + SECOND}}, "due"),
        ({"workspace": "ws-1", "submitted_at": {"$gte": NOW, "$lt": NOW + SECOND}}, "listed"),
        ({"workspace": "ws-1", "submitted_at": NOW}, "listed"),
    ],
)
async def test_what_is_looked_for_is_found_by_an_index(stocked: MongoStore, query: dict[str, Any], index: str) -> None:
    """A look costs what it finds, not what is stored."""
    plan = await stocked._tasks.find(query).explain()
    assert plan["queryPlanner"]["winningPlan"]["inputStage"]["indexName"] == index


async def test_a_second_process_finds_the_indexes_made(database: Database, driver: Driver) -> None:
    """Each process makes them at its start. A task has two: each costs every write."""
    stores = [await connect(database.uri, "indexes", driver) for _ in range(2)]
    for store in stores:
        assert set(await store._tasks.index_information()) == {"_id_", "due", "listed"}
        await store.close()


@pytest.mark.parametrize(("collection", "seconds"), [("calls", 0), ("processes", 86400), ("signals", 60)])
async def test_what_is_of_use_for_a_while_is_deleted_by_the_database(
    mongo: MongoStore, collection: str, seconds: int
) -> None:
    """By its clock, not by a sweep."""
    indexes = await mongo._database[collection].index_information()
    assert indexes["expiry"]["expireAfterSeconds"] == seconds
