"""What both clients decide about tokens, tries and batches, step by step: no server, no clock, no chance."""

from datetime import timedelta
from typing import Any

import pytest
from support.steps import DETAIL, PENDING, World, refusal, sends, slept

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.client import ApiError, NewTask, retrying
from openmcp_chain.client.steps import Alone, Run, Send, Step
from openmcp_chain.domain import errors


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


@pytest.mark.parametrize("lost", ["UNAVAILABLE", "UNAUTHENTICATED"])
def test_a_retry_whose_answer_was_lost(lost: str) -> None:
    """RetryTask that is refused at the second try was carried out at the first: the task is told as it is."""
    world = World()
    refused = refusal("FAILED_PRECONDITION", "TASK_NOT_RETRYABLE")
    task, taken = world.play(world.calls.retry("t", None), refusal(lost), refused, DETAIL)
    assert (task.task_id, [step.method for step in sends(taken)]) == ("t", ["RetryTask", "RetryTask", "GetTask"])
    with pytest.raises(ApiError, match="TASK_NOT_RETRYABLE"):
        world.play(world.calls.retry("t", None), refusal("FAILED_PRECONDITION", "TASK_NOT_RETRYABLE"))


@pytest.mark.parametrize("status", ["FAILED", "CANCELLED"])
def test_a_retry_that_was_refused_is_no_success(status: str) -> None:
    """A first try that never came through is no reason to take the second one's refusal for anything else."""
    detail = tasks_pb2.TaskDetail(task_id="t", status=tasks_pb2.TaskStatus.Value(f"TASK_STATUS_{status}"))
    refused = refusal("FAILED_PRECONDITION", "TASK_NOT_RETRYABLE")
    world = World()
    with pytest.raises(ApiError, match="TASK_NOT_RETRYABLE"):
        world.play(world.calls.retry("t", None), refusal("UNAVAILABLE"), refused, detail)


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


def test_what_a_batch_had_accepted_is_told_though_the_rest_fails() -> None:
    """A try for a part of it that fails as a whole is the outcome of that part. The first try's failure is raised."""
    world = World()
    tasks = [NewTask(name) for name in "abc"]
    script = [outcomes("", "UNAVAILABLE", ""), refusal("PERMISSION_DENIED", "SCOPE_MISSING")]
    done, _ = world.play(world.calls.batch_submit(tasks, None), *script)
    assert [getattr(one, "code", "") for one in done] == ["", "SCOPE_MISSING", ""]
    with pytest.raises(ApiError, match="SCOPE_MISSING"):
        world.play(world.calls.batch_submit(tasks, None), refusal("PERMISSION_DENIED", "SCOPE_MISSING"))


def test_a_batch_is_not_tried_for_ever() -> None:
    """What is not accepted in time is told by its own error."""
    world = World(timeout=0.1)
    done, _ = world.play(world.calls.batch_submit([NewTask("a")], None), *[outcomes("OVERLOADED")] * 2)
    assert [error.code for error in done] == ["OVERLOADED"]


def test_the_codes_that_pass_are_all_of_them() -> None:
    """A task of a batch is told a code alone: those that pass are the ones with a status that is always repeated."""
    always = {errors.Status.UNAVAILABLE, errors.Status.ABORTED}
    assert {code for code, error in errors.TABLE.items() if error.status in always} == retrying.PASSING
