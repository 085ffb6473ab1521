"""Turns: whose task is next, over workspaces, weights and types; and idle workers' turns."""

from collections.abc import Callable
from datetime import timedelta

from support.samples import NOW

from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import HIGH, LOW, NORMAL, Key, Queue
from openmcp_chain.engine.demands import Demands
from openmcp_chain.engine.sessions import Demand, Idle, Session


class Waits:
    """What waits in memory for workers that take all of these types."""

    def __init__(self, *types: str, weight: Callable[[str], int] = lambda _: 1) -> None:
        self.demands = Demands(weight)
        self.demand = Demand(frozenset(types), None)
        self.demands.join(self.demand)

    def add(self, workspace: str, count: int, task_type: str = "echo", priority: int = NORMAL) -> None:
        for number in range(count):
            at = NOW + timedelta(seconds=number)
            key = Key(workspace, f"{workspace}-{task_type}-{priority}-{number}")
            self.demands.add(Waiting(key, task_type, priority, at, at))

    def taken(self, count: int, demand: Demand | None = None) -> list[Queue]:
        """The queues of the next so many; fewer if there are fewer."""
        turns, taken = self.demands.turns(demand or self.demand), list[Queue]()
        while len(taken) < count and (queue := turns.next()) is not None:
            assert turns.take(queue).queue == queue
            taken.append(queue)
        return taken

    def turns(self, count: int, demand: Demand | None = None) -> list[str]:
        """The workspaces of the next so many."""
        return [queue.workspace for queue in self.taken(count, demand)]


def test_workspaces_take_turns() -> None:
    """A tenant's single task waits for one task of each other tenant, not for another's thousands."""
    waits = Waits("echo")
    waits.add("flood", 1000)
    waits.add("b", 1)
    waits.add("c", 1)
    assert waits.turns(4) == ["flood", "b", "c", "flood"]


def test_a_flood_of_many_types_has_one_turn() -> None:
    """Whichever of the workers' types a tenant's thousands are of, and another's single task."""
    types = [f"type-{number}" for number in range(10)]
    waits = Waits(*types)
    for task_type in types:
        waits.add("flood", 100, task_type)
    assert waits.turns(5) == ["flood"] * 5
    waits.add("b", 1, "type-7")
    assert "b" in waits.turns(2)
    waits.add("c", 2, "type-3")
    assert waits.turns(4).count("c") == 2


def test_turns_are_as_long_as_the_weight_says() -> None:
    """A workspace of weight 3 gives out three tasks in its turn, or as many as it has; of whichever types."""
    waits = Waits("echo", "other", weight=lambda workspace: 3 if workspace == "big" else 1)
    waits.add("big", 3)
    waits.add("big", 4, "other")
    waits.add("small", 5)
    expected = ["big"] * 3 + ["small"] + ["big"] * 3 + ["small"] + ["big"] + ["small"] * 3
    assert waits.turns(20) == expected


def test_a_tenants_own_worker_gets_its_own_and_changes_nobodys_turn() -> None:
    """What it takes is out of turn."""
    waits = Waits("echo", weight=lambda _: 2)
    own = Demand(frozenset({"echo"}), "b")
    waits.add("a", 6)
    waits.add("b", 6)
    waits.demands.join(own)
    assert waits.turns(1) == ["a"]
    assert waits.turns(1, own) == ["b"]
    assert waits.turns(3) == ["a", "b", "b"]
    assert waits.turns(9, own) == ["b"] * 3
    assert waits.turns(9) == ["a"] * 4


def test_dropping_a_workspace_in_its_turn_does_not_shorten_the_next_ones() -> None:
    """The one after it has the whole of its own turn."""
    waits = Waits("echo", weight=lambda _: 2)
    for workspace in ("a", "b", "c"):
        waits.add(workspace, 4)
    assert waits.turns(1) == ["a"]
    waits.demands.backlogs["echo"].drop("a")
    assert waits.turns(4) == ["b", "b", "c", "c"]


def test_priority_goes_before_types() -> None:
    """Inside a workspace the best priority is next, of whichever type; types with the same take turns."""
    waits = Waits("one", "two", "three")
    waits.add("a", 2, "one", LOW)
    waits.add("a", 3, "one")
    waits.add("a", 1, "two")
    waits.add("a", 1, "two", HIGH)
    waits.add("a", 2, "three")
    taken = [queue.type for queue in waits.taken(20)]
    assert taken[0] == "two"
    assert set(taken[1:4]) == {"one", "two", "three"}
    assert taken[4:] in (["three", "one", "one", "one", "one"], ["one", "three", "one", "one", "one"])


def test_types_that_are_empty_again_and_again_do_not_starve_another() -> None:
    """A type that always has one task goes behind those that wait, each time."""
    waits = Waits("flood", "b", "c")
    waits.add("a", 100, "flood")
    seen = []
    for _ in range(30):
        for task_type in ("b", "c"):
            waits.add("a", 1, task_type)
        seen += [queue.type for queue in waits.taken(1)]
    assert min(seen.count(task_type) for task_type in ("flood", "b", "c")) >= 9


def test_demands_that_come_later_have_turns_of_their_own() -> None:
    """A worker of some of the types finds what waits already, and takes turns by itself."""
    waits = Waits("echo", "other")
    waits.add("a", 10)
    waits.add("b", 10, "other")
    some = Demand(frozenset({"echo"}), None)
    waits.demands.join(some)
    assert waits.turns(2, some) == ["a", "a"]
    waits.add("c", 1)
    assert "c" in waits.turns(2, some)
    assert sorted(waits.turns(4)) == ["a", "a", "b", "b"]


def idle_session(*types: str, workspace: str | None = None) -> Session:
    return Session(worker="", demand=Demand(frozenset(types), workspace), room=1, deliver=lambda _: None)


async def test_idle_workers_are_found_by_what_they_take() -> None:
    """A workspace's own go first; who was served is the last next time; who has left is not found."""
    idle = Idle()
    own, any_one, any_two = idle_session("echo", workspace="a"), idle_session("echo", "other"), idle_session("echo")
    for session in (any_one, any_two, own, own):
        idle.add(session)
    assert idle.first(Queue("a", "echo")) is own
    assert idle.first(Queue("b", "echo")) is any_one
    idle.served(any_one)
    assert idle.first(Queue("b", "echo")) is any_two
    assert idle.first(Queue("a", "other")) is any_one
    for session in (own, any_one, any_one):
        idle.remove(session)
    assert idle.first(Queue("a", "echo")) is any_two
    assert idle.first(Queue("a", "other")) is None
    idle.remove(any_two)
    assert not idle
