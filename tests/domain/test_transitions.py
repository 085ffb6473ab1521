"""The table of transitions, walked: each action on a task in each status does what the table says, or is refused."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

import pytest
from support.samples import NOW, PROGRESS, SECOND, at, make_lease, make_task

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.errors import Error
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Event, Failure, Status, Task, Terms
from openmcp_chain.domain.transitions import TABLE, Action

LATER = NOW + 5 * SECOND
FAILURE = Failure("BROKEN", "it broke")

PENDING = make_task(terms=Terms(RetryPolicy(maximum_attempts=2), schedule_to_start=60 * SECOND))
RUNNING = transitions.claim(PENDING, make_lease("token"), NOW)
STOPPING = transitions.cancel(RUNNING, "not needed", at(NOW))
SUCCEEDED = transitions.complete(RUNNING, "token", b"result", at(NOW))
FAILED = transitions.fail(RUNNING, "token", Failure("OTHER", "other"), at(NOW), retryable=False)
CANCELLED = transitions.cancel(PENDING, "not needed", at(NOW))
LAST = replace(RUNNING, attempt=2)
"""In its last attempt."""
FULL = replace(LAST, events=RUNNING.events * 500)
"""With as many events as it takes for an undelivered attempt to count."""

ACT: Mapping[Action, Callable[[Task], Task]] = {
    Action.CLAIM: lambda task: transitions.claim(task, make_lease("new"), LATER),
    Action.EXTEND: lambda task: transitions.extend(task, "token", LATER + 60 * SECOND),
    Action.NOTE: lambda task: transitions.note(task, "token", LATER, progress=PROGRESS),
    Action.COMPLETE: lambda task: transitions.complete(task, "token", b"other result", at(LATER)),
    Action.FAIL: lambda task: transitions.fail(task, "token", FAILURE, at(LATER), retryable=True),
    Action.STOP: lambda task: transitions.stop(task, "token", at(LATER)),
    Action.RELEASE: lambda task: transitions.release(task, "token", FAILURE, at(LATER)),
    Action.EXPIRE: lambda task: transitions.expire(task, at(NOW + 30 * SECOND)),
    Action.TIME_OUT: lambda task: transitions.time_out(task, at(NOW + 60 * SECOND)),
    Action.CANCEL: lambda task: transitions.cancel(task, "", at(LATER)),
    Action.RETRY: lambda task: transitions.retry(task, LATER),
    Action.SUPERSEDE: lambda task: transitions.supersede(task, LATER),
}
NAMES = ("pending", "running", "stopping", "last", "full", "succeeded", "failed", "cancelled")
EXAMPLES = (PENDING, RUNNING, STOPPING, LAST, FULL, SUCCEEDED, FAILED, CANCELLED)
REFUSALS: Mapping[Action, type[Error]] = {
    **dict.fromkeys(ACT, errors.LeaseLost),
    Action.CANCEL: errors.TaskEnded,
    Action.RETRY: errors.TaskNotRetryable,
    Action.SUPERSEDE: errors.DedupeKeyTaken,
}
"""How an action is refused that needs another status."""


def test_the_examples_have_every_action_and_status() -> None:
    """So what is walked below is all that there is."""
    assert set(TABLE) == set(Action) == {Action.SUBMIT, *ACT}
    assert {task.status for task in EXAMPLES} == set(Status)


@pytest.mark.parametrize("action", ACT)
@pytest.mark.parametrize("task", EXAMPLES, ids=NAMES)
def test_an_action_needs_its_status(action: Action, task: Task) -> None:
    """From a status for which the table has no step, it is refused, or there is nothing left to do."""
    if any(before is task.status for before, _ in TABLE[action]):
        return
    try:
        assert ACT[action](task) is task
    except Error as refusal:
        if not isinstance(refusal, REFUSALS[action]):
            raise


@pytest.mark.parametrize("action", ACT)
def test_an_action_takes_each_step_of_the_table_and_no_other(action: Action) -> None:
    """No line of the table is only a wish, and none is missing."""
    steps = set()
    for task in EXAMPLES:
        with suppress(Error):
            after = ACT[action](task)
            if after is not task:
                steps.add((task.status, after.status))
                assert after.version == task.version + 1
    assert steps == TABLE[action]


def test_what_nobody_cancelled_cannot_be_stopped() -> None:
    """Its worker is told so, and goes on or fails."""
    with pytest.raises(errors.CancelNotRequested):
        ACT[Action.STOP](RUNNING)


def test_only_a_retry_leads_out_of_an_end() -> None:
    """What has ended stays as it ended, unless it is tried again; what succeeded stays in any case."""
    out = {(action, step) for action, steps in TABLE.items() for step in steps if step[0] and step[0].terminal}
    assert {action for action, (before, after) in out if before is not after} == {Action.RETRY}
    assert {after for _, (before, after) in out if before is Status.SUCCEEDED} == {Status.SUCCEEDED}


@pytest.mark.parametrize(
    "action", [Action.EXTEND, Action.NOTE, Action.COMPLETE, Action.FAIL, Action.STOP, Action.RELEASE]
)
def test_another_lease_than_the_current_one_is_lost(action: Action) -> None:
    """An earlier holder, or one who never was, is refused, though the task is RUNNING."""
    with pytest.raises(errors.LeaseLost):
        ACT[action](replace(STOPPING, lease=make_lease("someone else's")))


def test_a_submitted_task_is_ready_at_once() -> None:
    """With its first event, no attempt, and nothing of an end."""
    task = make_task()
    assert (task.status, task.attempt, task.tried_before, task.due_at) == (Status.PENDING, 0, 0, NOW)
    assert task.events == (Event(1, Status.PENDING, NOW, {}),)
    assert (task.start_by, task.close_by, task.deadline) == (None, None, None)
    assert (task.lease, task.cancel, task.progress, task.result, task.failure) == (None, None, None, None, None)
    assert (task.notes, task.superseded) == (0, False)


def test_a_key_that_is_used_again_has_higher_versions() -> None:
    """A write that was decided on the task before, since deleted, finds its version taken by none."""
    first = make_task(now=NOW - SECOND)
    last = transitions.cancel(transitions.claim(first, make_lease(), NOW), "", at(NOW))
    assert first.version < last.version < make_task(task_id=first.id, now=NOW).version


def test_an_event_is_never_dated_before_the_one_it_follows() -> None:
    """Though the clock of the server that writes it is behind."""
    behind = transitions.complete(RUNNING, "token", b"", at(NOW - 60 * SECOND))
    assert behind.events[-1].at == behind.updated_at == NOW
