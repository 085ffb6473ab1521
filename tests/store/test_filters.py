"""Filters as queries: the database finds what the domain says that it should."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from pymongo import MongoClient
from pymongo.collection import Collection
from support.database import Database
from support.filters import FILTERS, various_tasks

from openmcp_chain.domain import filters
from openmcp_chain.domain.filters import EVERYTHING, And, Comparator, Comparison, Filter, Label, Not, Or
from openmcp_chain.domain.task import Status
from openmcp_chain.store.mongo import documents
from openmcp_chain.store.mongo.filters import query

TASKS = various_tasks()


@pytest.fixture(scope="module")
def collection(database: Database) -> Iterator[Collection[dict[str, Any]]]:
    """The tasks, as the store keeps them."""
    with MongoClient[dict[str, Any]](database.uri, retryWrites=False) as client:
        tasks = client["test-filters"].tasks
        tasks.insert_many([documents.from_task(task) for task in TASKS])
        yield tasks


def found(collection: Collection[dict[str, Any]], chosen: Filter) -> Sequence[str]:
    """The ids of the tasks that a listing would find."""
    pipeline = [{"$match": {"workspace": "ws-1"}}, {"$match": query(chosen)}]
    return sorted(documents.to_key(document).id for document in collection.aggregate(pipeline))


def matching(chosen: Filter) -> Sequence[str]:
    return sorted(task.id for task in TASKS if filters.matches(chosen, task))


@settings(max_examples=150, deadline=None)
@given(FILTERS)
def test_the_database_finds_what_matches(collection: Collection[dict[str, Any]], chosen: Filter) -> None:
    """Whatever the filter, whatever it negates, whatever a task lacks."""
    assert found(collection, chosen) == matching(chosen)


@pytest.mark.parametrize("field", ["schedule_time", "expire_time"])
def test_times_that_not_all_tasks_have(collection: Collection[dict[str, Any]], field: str) -> None:
    """A task without the time is neither before nor after any; the database agrees."""
    times = {
        task.id: task.schedule_time if field == "schedule_time" else task.due_at
        for task in TASKS
        if (task.status is Status.PENDING if field == "schedule_time" else task.status.terminal)
    }
    time = sorted(times.values())[len(times) // 2]
    for sign, holds in (("<=", datetime.__le__), (">", datetime.__gt__), ("=", datetime.__eq__)):
        chosen = filters.parse(f"{field} {sign} {time.isoformat()}")
        ids = sorted(id_ for id_, its in times.items() if holds(its, time))
        assert found(collection, chosen) == matching(chosen) == ids


SUPERSEDED = Comparison("superseded", Comparator.EQUAL, value=True)


@pytest.mark.parametrize("condition", [Label("team", None), Label("team", "search"), Label("gone", None), SUPERSEDED])
def test_a_condition_and_its_negation_part_the_tasks(collection: Collection[dict[str, Any]], condition: Filter) -> None:
    """A task without the label is on one side too; a second negation takes the first back."""
    have, lack = found(collection, condition), found(collection, Not(condition))
    assert have == matching(condition)
    assert sorted([*have, *lack]) == sorted(task.id for task in TASKS)
    assert not set(have) & set(lack)
    assert found(collection, Not(Not(condition))) == have


def test_no_condition_is_no_query(collection: Collection[dict[str, Any]]) -> None:
    """The empty filter is the empty query, and may stand beside another one or be negated."""
    failed = Comparison("status", Comparator.EQUAL, Status.FAILED)
    assert query(EVERYTHING) == {}
    assert found(collection, And((EVERYTHING, Or((failed, failed))))) == matching(failed) != []
    assert found(collection, Not(EVERYTHING)) == []


def test_the_deepest_filter_is_one_that_the_database_takes(collection: Collection[dict[str, Any]]) -> None:
    """MongoDB documents 100 levels of BSON: with the query's own around it, the deepest that is parsed stays below."""
    text = "type=x OR labels.team=y priority<1"
    for _ in range(filters.DEPTH):
        text = f"type=x OR NOT ({text}) priority<9"
    chosen = filters.parse(text)
    assert _levels([{"$match": query(chosen)}]) <= 90
    assert found(collection, chosen) == matching(chosen)


def _levels(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_levels, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_levels, value), default=0)
    return 0


def test_the_tasks_are_various() -> None:
    """So that the agreement above is about something: each status, type and label is there, and is not everywhere."""
    kinds: list[Filter] = [
        *(Comparison("status", Comparator.EQUAL, status) for status in Status),
        *(Comparison("priority", Comparator.EQUAL, priority) for priority in range(1, 6)),
        *(Label(key, None) for key in ("team", "a.b", "-1")),
    ]
    for kind in kinds:
        assert 0 < len(matching(kind)) < len(TASKS)
