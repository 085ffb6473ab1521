"""The backlog: order inside a workspace, turns between workspaces, who is turned away, and what is known of those."""

from collections import Counter
from datetime import datetime, timedelta

import pytest
from support.samples import NOW

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import HIGH, LOW, NORMAL, Key
from openmcp_chain.engine import backlog
from openmcp_chain.engine.backlog import Backlog


def task(workspace: str, number: int, priority: int = NORMAL) -> Waiting:
    at = NOW + timedelta(seconds=number)
    return Waiting(Key(workspace, f"{workspace}-{number}"), "echo", priority, at, at)


def fill(waiting: Backlog, workspace: str, count: int) -> None:
    for number in range(count):
        waiting.add(task(workspace, number))


def taken(waiting: Backlog, workspace: str | None = None) -> list[str]:
    """The ids of all that is in it, in the order in which it is given out."""
    ids = []
    while (next_one := waiting.take(workspace)) is not None:
        ids.append(next_one.key.id)
    return ids


def turns(waiting: Backlog, count: int) -> list[str]:
    """The workspaces of the next so many."""
    taken = (waiting.take(None) for _ in range(count))
    return [one.key.workspace for one in taken if one is not None]


def missed(waiting: Backlog, *workspaces: str) -> dict[tuple[str, int], datetime | None]:
    """From when on the database may have tasks that are not here, by workspace and priority."""
    return {
        (workspace, priority): cursor.since
        for workspace in workspaces
        for priority, cursor in waiting.cursors(workspace).items()
        if cursor.behind
    }


def test_priority_then_age() -> None:
    """Inside a workspace: 1 before 2 and so on to 5, and the older one first, however they came in."""
    waiting = Backlog()
    for number, priority in ((5, LOW), (4, 2), (3, HIGH), (2, 4), (1, NORMAL), (0, HIGH)):
        waiting.add(task("a", number, priority))
    assert taken(waiting) == ["a-0", "a-3", "a-4", "a-1", "a-2", "a-5"]


def test_workspaces_take_turns() -> None:
    """A tenant's single task waits for one task of each other tenant, not for another's thousands."""
    waiting = Backlog()
    fill(waiting, "flood", 1000)
    waiting.add(task("b", 1))
    waiting.add(task("c", 1))
    assert turns(waiting, 4) == ["flood", "b", "c", "flood"]


def test_turns_are_as_long_as_the_weight_says() -> None:
    """A workspace of weight 3 gives out three tasks in its turn, or as many as it has."""
    waiting = Backlog(lambda workspace: 3 if workspace == "big" else 1)
    fill(waiting, "big", 7)
    fill(waiting, "small", 5)
    expected = ["big"] * 3 + ["small"] + ["big"] * 3 + ["small"] + ["big"] + ["small"] * 3
    assert turns(waiting, 12) == expected


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
    assert len(waiting) == waiting.waiting("a") == 1
    assert taken(waiting) == ["a-1"]


def test_flood_past_the_bound_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog turns away the workspace that fills it."""
    monkeypatch.setattr(backlog, "TASKS", 100)
    waiting = Backlog()
    fill(waiting, "flood", 500)
    fill(waiting, "b", 10)
    waiting.add(task("c", 1))
    assert len(waiting) == 100
    shares = Counter(id_.partition("-")[0] for id_ in taken(waiting))
    assert shares == {"flood": 89, "b": 10, "c": 1}


def test_what_comes_first_is_not_what_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog takes a HIGH task in for a later one of the same workspace."""
    monkeypatch.setattr(backlog, "TASKS", 3)
    waiting = Backlog()
    fill(waiting, "a", 3)
    waiting.add(task("a", 9, HIGH))
    assert len(waiting) == 3
    assert taken(waiting)[:2] == ["a-9", "a-0"]


def test_what_is_turned_away_is_known_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor of its workspace and priority goes back to when it was due, and to no other's time."""
    monkeypatch.setattr(backlog, "TASKS", 3)
    waiting = Backlog()
    for workspace in ("a", "b"):
        for cursor in waiting.cursors(workspace).values():
            cursor.since, cursor.behind = NOW + timedelta(hours=1), False
    waiting.behind = False
    fill(waiting, "a", 3)
    assert not list(missed(waiting, "a", "b"))
    waiting.add(task("b", 0, HIGH))
    assert waiting.behind
    (left_out,) = {f"a-{number}" for number in range(3)} - set(taken(waiting, "a"))
    assert missed(waiting, "a", "b") == {("a", NORMAL): task("a", int(left_out[2:])).due_at}


def test_what_is_let_go_of_is_known_by_its_time() -> None:
    """A workspace's tasks are dropped, its cursors go back to the first of each priority; the others stay."""
    waiting = Backlog()
    for cursor in waiting.cursors("a").values():
        cursor.since, cursor.behind = NOW + timedelta(hours=1), False
    for number, priority in ((3, HIGH), (2, HIGH), (5, LOW)):
        waiting.add(task("a", number, priority))
    waiting.add(task("b", 0))
    waiting.drop("a")
    assert (len(waiting), waiting.waiting("a")) == (1, 0)
    assert missed(waiting, "a") == {("a", HIGH): task("a", 2).due_at, ("a", LOW): task("a", 5).due_at}
    waiting.add(task("a", 3, HIGH))
    assert taken(waiting, "a") == ["a-3"]


def test_dropping_a_workspace_in_its_turn_does_not_shorten_the_next_ones() -> None:
    """The one after it has the whole of its own turn."""
    waiting = Backlog(lambda _: 2)
    for workspace in ("a", "b", "c"):
        fill(waiting, workspace, 4)
    assert turns(waiting, 1) == ["a"]
    waiting.drop("a")
    assert turns(waiting, 4) == ["b", "b", "c", "c"]


def test_a_tenants_own_worker_does_not_lengthen_anothers_turn() -> None:
    """What is taken out of turn leaves the turn as it is."""
    waiting = Backlog(lambda _: 2)
    for workspace in ("a", "b"):
        fill(waiting, workspace, 6)
    assert turns(waiting, 1) == ["a"]
    assert waiting.take("b")
    assert turns(waiting, 3) == ["a", "b", "b"]
