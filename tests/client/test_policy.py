"""What both clients decide, step by step: no server, no clock, no chance."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from openmcp.chain.v1 import auth_pb2, tasks_pb2
from openmcp_chain.client import ApiError, NewTask, TaskUnsuccessful, WaitTimeout, retrying
from openmcp_chain.client.calls import Calls
from openmcp_chain.client.connection import Credentials
from openmcp_chain.client.steps import Alone, Emit, Open, Read, Run, Send, Sleep, Step, Steps
from openmcp_chain.domain import errors

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PENDING, SUCCEEDED, FAILED = (
    tasks_pb2.TASK_STATUS_PENDING,
    tasks_pb2.TASK_STATUS_SUCCEEDED,
    tasks_pb2.TASK_STATUS_FAILED,
)


def refusal(status: str, code: str = "", retry_after: float | None = None) -> ApiError:
    return ApiError(status, code or status, "no", retry_after=retry_after)


class World:
    """Calls, and a clock that only sleep and `pass_time` move. Chance is always in the middle."""

    def __init__(self, timeout: float = 30.0) -> None:
        self.time = 1000.0
        self.sign_ins = 0
        self.calls = Calls(
            Credentials("ws-1", "S3CRET"),
            timeout,
            clock=lambda: self.time,
            chance=lambda: 0.5,
            now=lambda: NOW + timedelta(seconds=self.time),
        )

    def token(self, life: float = 1000.0) -> auth_pb2.AuthToken:
        """A new token, good for so many seconds."""
        self.sign_ins += 1
        token = auth_pb2.AuthToken(token=f"token-{self.sign_ins}")
        token.expires_at.FromDatetime(NOW + timedelta(seconds=self.time + life))
        return token

    def play(self, steps: Steps[Any], *script: Any, sign_in: bool = True) -> tuple[Any, list[Step]]:
        """Carries the steps out: sends and reads are answered by the script in turn, sign-ins of themselves."""
        answers = list(script)
        run, taken = Run(steps), list[Step]()
        try:
            while run.step is not None:
                step = run.step
                taken.append(step)
                match step:
                    case Sleep(seconds):
                        self.time += seconds
                        run.answer(None)
                    case Alone(inner) if sign_in:
                        run.answer(self.play(inner, self.token())[0])
                    case Alone(inner):
                        try:
                            answer = self.play(inner, answers.pop(0))[0]
                        except ApiError as error:
                            run.fail(error)
                        else:
                            run.answer(answer)
                    case Send() | Read():
                        answer = answers.pop(0)
                        if callable(answer):
                            answer = answer()
                        if isinstance(answer, ApiError):
                            run.fail(answer)
                        else:
                            run.answer(answer)
                    case Open() | Emit():
                        run.answer(None)
        except Exception as error:
            error.add_note(repr(taken))
            vars(error)["taken"] = taken
            raise
        assert not answers
        return run.result, taken

    def wait(self, seconds: float, answer: Any) -> Any:
        """An answer that comes so much later."""

        def come() -> Any:
            self.time += seconds
            return answer

        return come


def sends(taken: list[Step]) -> list[Send]:
    return [step for step in taken if isinstance(step, Send)]


def slept(taken: list[Step]) -> list[float]:
    """How long it waited, where it did."""
    return [step.seconds for step in taken if isinstance(step, Sleep) and step.seconds]


DETAIL = tasks_pb2.TaskDetail(task_id="t", status=PENDING)


def test_a_call_signs_in_once() -> None:
    """The first call gets a token; the next ones use it, until four fifths of its life are over."""
    world = World()
    for passed, token in ((0, "token-1"), (799, "token-1"), (2, "token-2")):
        world.time += passed
        _, taken = world.play(world.calls.get("t", None, None), DETAIL)
        assert [step.token for step in sends(taken)] == [token]


def test_a_fast_clock_does_not_sign_in_for_every_call() -> None:
    """A token that this machine takes for expired is used for ten seconds all the same."""
    world = World()
    world.play(world.calls.get("t", None, None), world.token(-3600), DETAIL, sign_in=False)
    world.play(world.calls.get("t", None, None), DETAIL, sign_in=False)
    assert world.sign_ins == 1


def test_a_refused_token_is_replaced_once() -> None:
    """UNAUTHENTICATED: one new token and one more try; if that is refused as well, so is the call."""
    world = World()
    _, taken = world.play(world.calls.get("t", None, None), refusal("UNAUTHENTICATED"), DETAIL)
    assert [step.token for step in sends(taken)] == ["token-1", "token-2"]
    with pytest.raises(ApiError, match="UNAUTHENTICATED"):
        world.play(world.calls.get("t", None, None), refusal("UNAUTHENTICATED"), refusal("UNAUTHENTICATED"))


def test_a_token_that_others_have_replaced_is_kept() -> None:
    """Two calls with the same refused token: the second finds the first one's new token and does not sign in again."""
    world = World()
    first, second = (Run(world.calls.get("t", None, None)) for _ in range(2))
    assert isinstance(first.step, Alone)
    assert isinstance(second.step, Alone)
    token = world.play(first.step.steps, world.token())[0]
    first.answer(token)
    second.answer(world.play(second.step.steps)[0])  # it had its turn after the first, and found the token there
    for run in (first, second):
        run.fail(refusal("UNAUTHENTICATED"))
        run.answer(None)  # to a sleep of no time
        step: Step | None = run.step
        if isinstance(step, Alone):
            run.answer(world.play(step.steps, world.token())[0])
            step = run.step
        assert isinstance(step, Send)
        assert step.token == "token-2"
    assert world.sign_ins == 2


def test_wrong_credentials_are_final() -> None:
    """Who can't sign in is told so at once."""
    world = World()
    with pytest.raises(ApiError, match="CREDENTIALS_INVALID"):
        world.play(world.calls.get("t", None, None), refusal("UNAUTHENTICATED", "CREDENTIALS_INVALID"), sign_in=False)


def test_signing_in_is_tried_again() -> None:
    """A server that is away for the sign-in is waited for as for any call."""
    world = World()
    _, taken = world.play(
        world.calls.get("t", None, None), refusal("UNAVAILABLE"), world.token(), DETAIL, sign_in=False
    )
    assert slept(taken) == [0.05]


@pytest.mark.parametrize("status", ["UNAVAILABLE", "ABORTED"])
def test_backoff(status: str) -> None:
    """Tries are further and further apart, up to five seconds, by full jitter (here always the middle)."""
    world = World()
    _, taken = world.play(world.calls.get("t", None, None), *[refusal(status)] * 8, DETAIL)
    assert slept(taken) == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5])


def test_retry_info_is_waited_for() -> None:
    """The server's own time is waited for in full, and jitter on top of it."""
    world = World()
    _, taken = world.play(world.calls.get("t", None, None), refusal("RESOURCE_EXHAUSTED", "RATE_LIMITED", 7.0), DETAIL)
    assert slept(taken) == [7.05]


@pytest.mark.parametrize(
    "error",
    [
        refusal("RESOURCE_EXHAUSTED"),
        refusal("INVALID_ARGUMENT"),
        refusal("NOT_FOUND"),
        refusal("INTERNAL"),
        refusal("UNKNOWN"),
        refusal("DEADLINE_EXCEEDED"),
    ],
    ids=lambda error: error.status,
)
def test_what_is_final(error: ApiError) -> None:
    """What another try would not mend is raised at once; so is a quota that does not say when to come back."""
    world = World()
    with pytest.raises(ApiError) as refused:
        world.play(world.calls.get("t", None, None), error)
    assert refused.value.tries == 1


def test_no_longer_than_the_timeout() -> None:
    """When the next try would come too late, the failure is raised there and then, with the number of tries."""
    world = World(timeout=2.0)
    with pytest.raises(ApiError) as refused:
        world.play(world.calls.get("t", None, None), *[refusal("UNAVAILABLE")] * 6)
    assert refused.value.tries == 6
    assert world.time < 1002.0
    with pytest.raises(ApiError) as refused:
        world.play(world.calls.get("t", None, timedelta(seconds=1)), refusal("UNAVAILABLE", retry_after=1.0))
    assert refused.value.tries == 1


def test_each_try_has_what_time_is_left() -> None:
    """The deadline of a try is that of the call."""
    world = World(timeout=10.0)
    _, taken = world.play(world.calls.get("t", None, None), refusal("UNAVAILABLE", retry_after=4.0), DETAIL)
    assert [step.seconds for step in sends(taken)] == pytest.approx([10.0, 5.95])


def test_a_submit_is_the_same_over_all_tries() -> None:
    """A submit makes up one request_id, for all of its tries; another submit makes up another."""
    world = World()
    summary = tasks_pb2.TaskSummary(task_id="t", status=PENDING)
    ids = []
    for _ in range(2):
        done, taken = world.play(world.calls.submit(NewTask("echo"), None), refusal("UNAVAILABLE"), summary)
        first, second = (step.request for step in sends(taken))
        assert first == second
        ids.append(done.request_id)
    assert len(set(ids)) == 2


def test_a_retry_whose_answer_was_lost() -> None:
    """RetryTask that is refused at the second try was carried out at the first: the task is told as it is."""
    world = World()
    refused = refusal("FAILED_PRECONDITION", "TASK_NOT_RETRYABLE")
    task, taken = world.play(world.calls.retry("t", None), refusal("UNAVAILABLE"), refused, DETAIL)
    assert (task.task_id, [step.method for step in sends(taken)]) == ("t", ["RetryTask", "RetryTask", "GetTask"])
    with pytest.raises(ApiError, match="TASK_NOT_RETRYABLE"):
        world.play(world.calls.retry("t", None), refusal("FAILED_PRECONDITION", "TASK_NOT_RETRYABLE"))


def outcomes(*codes: str) -> tasks_pb2.BatchSubmitTasksResponse:
    """An answer to a batch: an empty code is a task that was accepted."""
    answer = tasks_pb2.BatchSubmitTasksResponse()
    for code in codes:
        if code:
            answer.results.add().error.code = code
        else:
            answer.results.add().task.status = PENDING
    return answer


def test_a_batch_is_tried_again_in_part() -> None:
    """Tasks that were refused for a reason that passes are submitted again, as they were, and only they."""
    world = World()
    script = [outcomes("", "UNAVAILABLE", "INVALID_ARGUMENT", "ABORTED"), outcomes("OVERLOADED", ""), outcomes("")]
    tasks = [NewTask(name) for name in "abcd"]
    done, taken = world.play(world.calls.batch_submit(tasks, None), *script)
    requests: list[Any] = [step.request for step in sends(taken)]
    assert [[one.type for one in request.requests] for request in requests] == [list("abcd"), list("bd"), list("b")]
    assert [getattr(one, "code", "") for one in done] == ["", "", "INVALID_ARGUMENT", ""]
    assert done[1].request_id == requests[0].requests[1].request_id == requests[2].requests[0].request_id


def test_a_batch_is_not_tried_for_ever() -> None:
    """What is not accepted in time is told by its own error."""
    world = World(timeout=0.1)
    done, _ = world.play(world.calls.batch_submit([NewTask("a")], None), *[outcomes("OVERLOADED")] * 2)
    assert [error.code for error in done] == ["OVERLOADED"]


def test_the_codes_that_pass_are_all_of_them() -> None:
    """A task of a batch is told a code alone: those that pass are the ones with a status that is always repeated."""
    always = {errors.Status.UNAVAILABLE, errors.Status.ABORTED}
    assert {code for code, error in errors.TABLE.items() if error.status in always} == retrying.PASSING


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
