"""The backlog: order inside a workspace, turns between workspaces, and who is turned away when it is full."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from openmcp_chain.domain import transitions
from openmcp_chain.domain.task import Priority, Task
from openmcp_chain.engine import backlog
from openmcp_chain.engine.backlog import Backlog

_START = datetime(2026, 1, 1, tzinfo=UTC)


def task(workspace: str, number: int, *, priority: Priority = Priority.NORMAL, size: int = 0) -> Task:
    return transitions.submit(
        workspace=workspace,
        task_id=f"{workspace}-{number}",
        task_type="echo",
        payload=b"x" * size,
        metadata={},
        priority=priority,
        fingerprint=b"",
        traceparent="",
        max_attempts=5,
        now=_START + timedelta(seconds=number),
    )


def taken(waiting: Backlog, workspace: str | None = None) -> list[str]:
    """The ids of all that is in it, in the order in which it is given out."""
    ids = []
    while (next_one := waiting.take(workspace)) is not None:
        ids.append(next_one.id)
    return ids


def test_priority_then_age() -> None:
    """Inside a workspace: HIGH before NORMAL before LOW, and the older one first, however they came in."""
    waiting = Backlog()
    for number, priority in ((4, Priority.LOW), (3, Priority.HIGH), (2, Priority.NORMAL), (1, Priority.HIGH)):
        waiting.add(task("a", number, priority=priority))
    assert taken(waiting) == ["a-1", "a-3", "a-2", "a-4"]


def test_workspaces_take_turns() -> None:
    """A tenant's single task waits for one task of each other tenant, not for another's thousands."""
    waiting = Backlog()
    for number in range(1000):
        waiting.add(task("flood", number))
    waiting.add(task("b", 1))
    waiting.add(task("c", 1))
    assert [waiting.take(None).workspace for _ in range(4)] == ["flood", "b", "c", "flood"]  # type: ignore[union-attr]


def test_takes_of_one_workspace_only_when_asked() -> None:
    """A tenant's own worker gets its tenant's tasks alone."""
    waiting = Backlog()
    waiting.add(task("a", 1))
    waiting.add(task("b", 1))
    assert taken(waiting, "b") == ["b-1"]
    assert taken(waiting) == ["a-1"]


def test_same_task_is_held_once() -> None:
    """A second hint of a task that waits changes nothing."""
    waiting = Backlog()
    waiting.add(task("a", 1))
    waiting.add(task("a", 1))
    assert len(waiting) == 1
    assert taken(waiting) == ["a-1"]


def test_flood_past_the_bound_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog turns away the workspace that fills it, and says that there is more in the database."""
    monkeypatch.setattr(backlog, "TASKS", 100)
    waiting = Backlog()
    for number in range(500):
        waiting.add(task("flood", number))
    assert waiting.overflowed
    for number in range(10):
        waiting.add(task("b", number))
    waiting.add(task("c", 1))
    assert len(waiting) == 100
    shares = Counter(id_.partition("-")[0] for id_ in taken(waiting))
    assert shares == {"flood": 89, "b": 10, "c": 1}


def test_what_comes_first_is_not_what_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog takes a HIGH task in for a later one of the same workspace."""
    monkeypatch.setattr(backlog, "TASKS", 3)
    waiting = Backlog()
    for number in range(3):
        waiting.add(task("a", number))
    waiting.add(task("a", 9, priority=Priority.HIGH))
    assert waiting.take(None).id == "a-9"  # type: ignore[union-attr]
    assert len(waiting) == 2


def test_payloads_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of the payloads count, and are given back when a task is taken."""
    monkeypatch.setattr(backlog, "BYTES", 100)
    waiting = Backlog()
    for number in range(4):
        waiting.add(task("a", number, size=40))
    assert (len(waiting), waiting.overflowed) == (2, True)
    waiting.add(task("b", 1, size=100))
    assert len(taken(waiting)) <= 2
    waiting.add(task("c", 1, size=100))
    assert taken(waiting) == ["c-1"]
