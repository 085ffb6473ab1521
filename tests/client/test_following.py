"""What both clients decide while they wait, list and follow, step by step: no server, no clock, no chance."""

from typing import Any

import pytest
from support.steps import DETAIL, FAILED, PENDING, SUCCEEDED, World, refusal, sends, slept

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.client import ApiError, TaskUnsuccessful, WaitTimeout
from openmcp_chain.client.steps import Emit, Open, Step


def waits(taken: list[Step]) -> list[float]:
    """How long each WaitTask asked to wait."""
    return [step.request.timeout.ToTimedelta().total_seconds() for step in sends(taken)]  # type: ignore[attr-defined]


def test_wait_asks_again_until_the_end() -> None:
    """WaitTask is asked for its longest time, again and again, until the task has ended."""
    world = World()
    ended = tasks_pb2.TaskDetail(task_id="t", status=SUCCEEDED)
    script = [world.wait(25, DETAIL), world.wait(25, DETAIL), world.wait(3, ended)]
    task, taken = world.play(world.calls.wait("t", None, check=True), *script)
    assert (task.status, waits(taken), slept(taken)) == ("SUCCEEDED", [25, 25, 25], [])


def test_wait_has_a_timeout() -> None:
    """The last WaitTask asks for what is left; WaitTimeout has the task as it was then."""
    world = World()
    with pytest.raises(WaitTimeout) as late:
        world.play(world.calls.wait("t", 30, check=False), world.wait(25, DETAIL), world.wait(5, DETAIL))
    assert waits(vars(late.value)["taken"]) == [25, 5]
    assert late.value.task is not None
    assert str(late.value) == "task t has not ended in time: it is PENDING"


def test_wait_without_waiting() -> None:
    """A timeout of 0 looks once."""
    world = World()
    with pytest.raises(WaitTimeout):
        world.play(world.calls.wait("t", 0, check=False), DETAIL)


def test_wait_over_an_outage() -> None:
    """However long it has waited before, a service that is away is waited for, for the client's timeout."""
    world = World(timeout=10.0)
    ended = tasks_pb2.TaskDetail(task_id="t", status=SUCCEEDED)
    away = refusal("UNAVAILABLE", retry_after=4.0)
    script = [world.wait(25, DETAIL), world.wait(24, away), away, refusal("UNAUTHENTICATED"), world.wait(3, ended)]
    task, taken = world.play(world.calls.wait("t", None, check=False), *script)
    assert (task.status, {step.seconds for step in sends(taken)}) == ("SUCCEEDED", {30.0})
    with pytest.raises(ApiError, match="UNAVAILABLE"):
        world.play(world.calls.wait("t", None, check=False), *[away] * 3)


def test_wait_no_longer_than_it_is_told() -> None:
    """A service that is away while the caller's time runs out is told of as that."""
    world = World()
    away = refusal("UNAVAILABLE", retry_after=4.0)
    with pytest.raises(ApiError, match="UNAVAILABLE"):
        world.play(world.calls.wait("t", 3, check=False), away, away)
    assert world.time < 1000 + 3 + 5


def test_wait_does_not_spin() -> None:
    """A server that answers before the time, and before the end, is asked again after a pause only."""
    world = World()
    ended = tasks_pb2.TaskDetail(task_id="t", status=SUCCEEDED)
    _, taken = world.play(world.calls.wait("t", None, check=False), DETAIL, DETAIL, ended)
    assert slept(taken) == [1.0, 1.0]


def test_wait_can_check() -> None:
    """With `check`, a task that failed is raised; without, returned."""
    world = World()
    failed = tasks_pb2.TaskDetail(task_id="t", status=FAILED, error="BROKEN: it broke")
    task, _ = world.play(world.calls.wait("t", None, check=False), failed)
    assert (task.error, task.error_code) == ("BROKEN: it broke", "BROKEN")
    with pytest.raises(TaskUnsuccessful, match="task t ended FAILED: BROKEN: it broke"):
        world.play(world.calls.wait("t", None, check=True), failed)


def page(*ids: str, token: str = "") -> tasks_pb2.ListTasksResponse:
    details = [tasks_pb2.TaskDetail(task_id=task_id) for task_id in ids]
    return tasks_pb2.ListTasksResponse(tasks=details, next_page_token=token)


@pytest.mark.parametrize(
    ("limit", "size", "pages", "asked", "had"),
    [
        (None, 0, [page("a", "b", token="1"), page(token="2"), page("c")], [0, 0, 0], "abc"),
        (3, 2, [page("a", "b", token="1"), page("c", token="2")], [2, 1], "abc"),
        (2, 0, [page("a", "b", token="1")], [2], "ab"),
        (1, 0, [page("a", "b")], [1], "a"),
        (0, 0, [], [], ""),
    ],
)
def test_list_turns_pages(
    limit: int | None, size: int, pages: list[tasks_pb2.ListTasksResponse], asked: list[int], had: str
) -> None:
    """Pages follow each other by token, an empty one too; a limit asks for no more than is wanted."""
    world = World()
    _, taken = world.play(world.calls.tasks("status = FAILED", limit, size, None, None), *pages)
    assert [step.value.task_id for step in taken if isinstance(step, Emit)] == list(had)
    requests: list[Any] = [step.request for step in sends(taken)]
    assert [request.page_size for request in requests] == asked
    assert [request.page_token for request in requests] == ["", "1", "2"][: len(asked)]
    assert {request.filter for request in requests} <= {"status = FAILED"}


def event(sequence: int, status: "tasks_pb2.TaskStatus.ValueType" = PENDING) -> tasks_pb2.TaskEvent:
    return tasks_pb2.TaskEvent(task_id="t", sequence=sequence, status=status)


END = event(4, SUCCEEDED)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([event(1), event(2), event(3), END, None], id="one stream"),
        pytest.param([event(1), event(2), refusal("UNAVAILABLE"), event(3), END, None], id="cut"),
        pytest.param([event(1), event(2), event(3), END, refusal("UNAVAILABLE"), None], id="cut after the last"),
        pytest.param([event(1), None, event(2), event(3), END, None], id="ended early"),
        pytest.param([event(1), event(2), event(1), event(2), event(2), event(3), END, None], id="repeated"),
        pytest.param([event(1), event(3), event(2), event(3), END, None], id="a gap, then all"),
        pytest.param([event(1), event(2, FAILED), event(3), END, None], id="retried after a terminal event"),
        pytest.param([event(1), refusal("UNAUTHENTICATED"), event(2), event(3), END, None], id="token taken back"),
        pytest.param(
            [refusal("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS", 5.0), event(1), event(2), event(3), END, None],
            id="refused for a while",
        ),
    ],
)
def test_events_come_once_each(script: list[Any]) -> None:
    """Whatever becomes of the streams, each event comes once, in order; a new stream begins after the last one."""
    world = World()
    _, taken = world.play(world.calls.events("t", 0, None), *script)
    had, after = 0, list[int]()
    for step in taken:
        if isinstance(step, Emit):
            had += 1
            assert step.value.sequence == had
        elif isinstance(step, Open):
            request: Any = step.request
            assert request.after_sequence == had
            after.append(had)
    assert had == 4
    assert len(after) == 1 + sum(one is None or isinstance(one, ApiError) for one in script[:-1]) + (
        event(3) in script[1:2]
    )


def test_events_after_the_end() -> None:
    """Who has all events is told so by an empty stream."""
    world = World()
    _, taken = world.play(world.calls.events("t", 4, None), None)
    assert not [step for step in taken if isinstance(step, Emit)]


def test_events_give_up() -> None:
    """A service that stays away for the client's timeout ends the iteration; each event before that begins it anew."""
    world = World(timeout=10.0)
    script = [event(1), *[refusal("UNAVAILABLE", retry_after=4.0)] * 2, event(2)]
    with pytest.raises(ApiError, match="UNAVAILABLE"):
        world.play(world.calls.events("t", 0, None), *script, *[refusal("UNAVAILABLE", retry_after=4.0)] * 3)
    assert world.time > 1000 + 4 * 4.0


def test_a_quiet_stream_counts_as_one_that_worked() -> None:
    """Streams that are cut again and again before anything happens don't add up, if each was open for a while."""
    world = World(timeout=10.0)
    cut = world.wait(30, refusal("UNAVAILABLE"))
    _, taken = world.play(world.calls.events("t", 0, None), *[cut] * 10, event(1, SUCCEEDED), None)
    assert slept(taken) == [0.05] * 10


def test_events_have_a_timeout() -> None:
    """The timeout is for all of them, and for the stream that is open."""
    world = World()
    with pytest.raises(WaitTimeout) as late:
        world.play(world.calls.events("t", 0, 5.0), world.wait(2, event(1)), refusal("DEADLINE_EXCEEDED"))
    opened = [step for step in vars(late.value)["taken"] if isinstance(step, Open)]
    assert [step.seconds for step in opened] == [5.0]


def test_no_events_of_what_is_not_there() -> None:
    """A refusal that another try would not mend is raised."""
    world = World()
    with pytest.raises(ApiError, match="TASK_NOT_FOUND"):
        world.play(world.calls.events("t", 0, None), refusal("NOT_FOUND", "TASK_NOT_FOUND"))
