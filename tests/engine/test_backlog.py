"""The backlog: order inside a workspace, who is turned away, and what is known of those."""

import asyncio
from datetime import datetime, timedelta

import pytest
from support.samples import NOW

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import HIGH, LOW, NORMAL, Key
from openmcp_chain.engine import room
from openmcp_chain.engine.backlog import Backlog
from openmcp_chain.engine.demands import KEPT_SECONDS, Demands
from openmcp_chain.engine.room import Room
from openmcp_chain.engine.sessions import Demand


def task(workspace: str, number: int, priority: int = NORMAL, task_type: str = "echo") -> Waiting:
    at = NOW + timedelta(seconds=number)
    other = "" if task_type == "echo" else f" {task_type}"
    return Waiting(Key(workspace, f"{workspace}-{number}{other}"), task_type, priority, at, at)


def demands(*task_types: str) -> Demands:
    """With a worker for all workspaces."""
    there = Demands(lambda _: 1)
    there.join(Demand(frozenset(task_types or ("echo",)), None))
    return there


def fill(there: Demands, workspace: str, count: int, task_type: str = "echo") -> None:
    for number in range(count):
        there.add(task(workspace, number, task_type=task_type))


def taken(waiting: Backlog, workspace: str = "a") -> list[str]:
    """The ids of all that a workspace has in it, in the order in which it is given out."""
    return [waiting.take(workspace).key.id for _ in range(waiting.waiting(workspace))]


def missed(waiting: Backlog, *workspaces: str) -> dict[tuple[str, int], datetime | None]:
    """From when on the database may have tasks that are not here, by workspace and priority."""
    return {
        (workspace, priority): cursor.since
        for workspace in workspaces
        for priority, cursor in waiting.cursors(workspace).items()
        if cursor.missing is not None
    }


def test_priority_then_age() -> None:
    """Inside a workspace: 1 before 2 and so on to 5, and the older one first, however they came in."""
    waiting = Backlog("echo", Room())
    for number, priority in ((5, LOW), (4, 2), (3, HIGH), (2, 4), (1, NORMAL), (0, HIGH)):
        waiting.add(task("a", number, priority))
    assert taken(waiting) == ["a-0", "a-3", "a-4", "a-1", "a-2", "a-5"]


def test_same_task_is_held_once() -> None:
    """A second hint of a task that waits changes nothing."""
    waiting = Backlog("echo", Room())
    waiting.add(task("a", 1))
    waiting.add(task("a", 1))
    assert len(waiting) == waiting.waiting("a") == 1
    assert taken(waiting) == ["a-1"]


def test_flood_past_the_bound_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog turns away the workspace that fills it."""
    monkeypatch.setattr(room, "TASKS", 100)
    there = demands()
    waiting = there.backlogs["echo"]
    fill(there, "flood", 500)
    fill(there, "b", 10)
    there.add(task("c", 1))
    assert len(waiting) == 100
    assert {workspace: waiting.waiting(workspace) for workspace in waiting.workspaces} == {"flood": 89, "b": 10, "c": 1}
    assert taken(waiting, "flood") == [f"flood-{number}" for number in range(89)]


@pytest.mark.parametrize("bound", [3, 100, 1000])
def test_what_comes_last_is_turned_away(monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    """A full backlog lets go of the newest of the last priority, whatever came last, and however many do."""
    monkeypatch.setattr(room, "TASKS", bound)
    there = demands()
    waiting = there.backlogs["echo"]
    fill(there, "a", bound)
    urgent = bound // 2 + 1
    for number in range(urgent):
        there.add(task("a", 10 * bound + number, HIGH))
    there.add(task("a", 0, LOW))
    assert len(waiting) == bound
    firsts = [f"a-{10 * bound + number}" for number in range(urgent)]
    assert taken(waiting) == firsts + [f"a-{number}" for number in range(bound - urgent)]


def test_who_is_turned_away_has_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds, and after any of the takes and drops that change who has most."""
    monkeypatch.setattr(room, "TASKS", 20)
    there = demands()
    waiting = there.backlogs["echo"]
    for workspace, count in (("a", 12), ("b", 8)):
        fill(there, workspace, count)
    for _ in range(8):
        waiting.take("a")
    fill(there, "c", 9)
    assert {workspace: waiting.waiting(workspace) for workspace in waiting.workspaces} == {"a": 4, "b": 8, "c": 8}
    waiting.drop("b")
    fill(there, "d", 20)
    assert {workspace: waiting.waiting(workspace) for workspace in waiting.workspaces} == {"a": 4, "c": 8, "d": 8}


def test_there_is_one_room_for_all_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood over many types has no more of it than one over a single type, and gives way alike, of its largest."""
    monkeypatch.setattr(room, "TASKS", 100)
    types = [f"type-{number}" for number in range(20)]
    there = demands("echo", *types)

    def in_all(workspace: str) -> int:
        return sum(waiting.waiting(workspace) for waiting in there.backlogs.values())

    for task_type in types:
        fill(there, "flood", 50, task_type)
    assert (in_all("flood"), there.backlogs["type-19"].waiting("flood")) == (100, 5)
    fill(there, "b", 60)
    assert (in_all("flood"), in_all("b")) == (50, 50)
    assert {there.backlogs[task_type].waiting("flood") for task_type in types} == {2, 3}
    fill(there, "c", 10, "type-0")
    assert (in_all("flood"), in_all("b"), in_all("c")) == (45, 45, 10)


def test_a_share_is_of_the_whole_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no more is read than there is room for: a workspace's types share what it has."""
    monkeypatch.setattr(room, "TASKS", 100)
    types = [f"type-{number}" for number in range(10)]
    there = demands("echo", *types)
    assert there.backlogs["echo"].share("a") == 100
    for task_type in types:
        fill(there, "a", 1, task_type)
    assert there.backlogs["type-0"].share("a") == 10
    assert there.backlogs["echo"].share("a") == 9
    assert there.backlogs["echo"].share("b") == 50
    fill(there, "b", 1)
    assert there.backlogs["type-0"].share("a") == 5
    there.backlogs["echo"].take("b")
    assert there.backlogs["type-0"].share("a") == 10


async def test_what_no_worker_takes_any_more_leaves_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its last worker gone for long enough, its tasks are not kept, and others' have the room."""
    monkeypatch.setattr(room, "TASKS", 10)
    there = demands()
    other = Demand(frozenset({"other"}), None)
    there.join(other)
    fill(there, "a", 10, "other")
    there.leave(other)
    await asyncio.sleep(KEPT_SECONDS + 1)
    fill(there, "a", 10)
    assert [len(waiting) for waiting in there.backlogs.values()] == [10]


def test_what_is_turned_away_is_known_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor of its workspace and priority goes back to when it was due, and to no other's time."""
    monkeypatch.setattr(room, "TASKS", 3)
    there = demands()
    waiting = there.backlogs["echo"]
    for workspace in ("a", "b"):
        for cursor in waiting.cursors(workspace).values():
            cursor.since, cursor.missing = NOW + timedelta(hours=1), None
    fill(there, "a", 3)
    assert not list(missed(waiting, "a", "b"))
    there.add(task("b", 0, HIGH))
    assert taken(waiting) == ["a-0", "a-1"]
    assert missed(waiting, "a", "b") == {("a", NORMAL): task("a", 2).due_at}


def test_what_is_let_go_of_is_known_by_its_time() -> None:
    """A workspace's tasks are dropped, its cursors go back to the first of each priority; the others stay."""
    waiting = Backlog("echo", Room())
    for cursor in waiting.cursors("a").values():
        cursor.since, cursor.missing = NOW + timedelta(hours=1), None
    for number, priority in ((3, HIGH), (2, HIGH), (5, LOW)):
        waiting.add(task("a", number, priority))
    waiting.add(task("b", 0))
    waiting.drop("a")
    assert (len(waiting), waiting.waiting("a")) == (1, 0)
    assert missed(waiting, "a") == {("a", HIGH): task("a", 2).due_at, ("a", LOW): task("a", 5).due_at}
    waiting.add(task("a", 3, HIGH))
    assert taken(waiting, "a") == ["a-3"]


def test_what_another_process_has_changed_leaves() -> None:
    """Wherever it stands in its line; and nothing is left of it."""
    there = demands()
    fill(there, "a", 5)
    waiting = there.backlogs["echo"]
    for number in (2, 0, 4, 2):
        there.remove(Key("a", f"a-{number}"))
    assert taken(waiting) == ["a-1", "a-3"]
    fill(there, "a", 1)
    there.remove(Key("a", "a-0"))
    assert not waiting.workspaces
    assert not there._room.holders
    assert there._room._all == 0


def test_what_is_others_to_try_for_first_is_taken_for_younger() -> None:
    there = demands()
    for number, later in ((0, 1.5), (1, 0.0), (2, 0.0)):
        there.add(task("a", number), later)
    assert taken(there.backlogs["echo"]) == ["a-1", "a-0", "a-2"]
