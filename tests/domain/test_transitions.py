"""The table of transitions, walked: each action on a task in each status does what the table says, or is refused."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from support.samples import NOW, RETENTION, SECOND, make_lease, make_task

from openmcp_chain.domain import errors, retry, transitions
from openmcp_chain.domain.task import Event, Failure, Status, Task
from openmcp_chain.domain.transitions import LEASE_EXPIRED, TABLE, Action

LATER = NOW + 5 * SECOND
FAILURE = Failure("BROKEN", "it broke")


def fail(task: Task, token: str = "token", *, retryable: bool = True, failure: Failure = FAILURE) -> Task:
    return transitions.fail(task, token, failure, retryable=retryable, now=LATER, retention=RETENTION, jitter=0.5)


PENDING = make_task(max_attempts=2)
RUNNING = transitions.claim(PENDING, make_lease("token"), NOW)
SUCCEEDED = transitions.complete(RUNNING, "token", b"result", NOW, RETENTION)
FAILED = fail(RUNNING, retryable=False, failure=Failure("OTHER", "other"))
IN_STATUS: Mapping[Status, Task] = {task.status: task for task in (PENDING, RUNNING, SUCCEEDED, FAILED)}

ACT: Mapping[Action, Callable[[Task], Task]] = {
    Action.CLAIM: lambda task: transitions.claim(task, make_lease("new", ends=LATER + 30 * SECOND), LATER),
    Action.EXTEND: lambda task: transitions.extend(task, "token", LATER + 60 * SECOND),
    Action.COMPLETE: lambda task: transitions.complete(task, "token", b"other result", LATER, RETENTION),
    Action.FAIL: fail,
    Action.EXPIRE: lambda task: transitions.expire(task, now=NOW + 31 * SECOND, retention=RETENTION, jitter=0.5),
}


def test_the_table_has_every_action_and_ends_where_a_status_is_terminal() -> None:
    """Every action that there is can be tested from the table, and nothing leads out of a terminal status."""
    assert set(TABLE) == set(Action) == {Action.SUBMIT, *ACT}
    assert {needs for needs, _ in TABLE.values()} == {None, Status.PENDING, Status.RUNNING}
    assert all(not status.terminal for status in (Status.PENDING, Status.RUNNING))
    assert all(status.terminal for status in (Status.SUCCEEDED, Status.FAILED))


@pytest.mark.parametrize("action", ACT)
@pytest.mark.parametrize("status", Status)
def test_an_action_needs_its_status(action: Action, status: Status) -> None:
    """In the status that the table names, it leads where the table says; in any other, the lease counts as lost."""
    needs, leads_to = TABLE[action]
    task = IN_STATUS[status]
    if status is not needs:
        with pytest.raises(errors.LeaseLost):
            ACT[action](task)
        return
    after = ACT[action](task)
    assert after.status in leads_to
    assert after.version == task.version + 1


def test_every_end_in_the_table_is_reached() -> None:
    """No line of the table is only a wish."""
    last = replace(RUNNING, attempt=RUNNING.max_attempts)
    assert ACT[Action.CLAIM](PENDING).status is Status.RUNNING
    assert ACT[Action.EXTEND](RUNNING).status is Status.RUNNING
    assert ACT[Action.COMPLETE](RUNNING).status is Status.SUCCEEDED
    for action in (Action.FAIL, Action.EXPIRE):
        assert {ACT[action](task).status for task in (RUNNING, last)} == TABLE[action][1]
    assert {PENDING.status} == TABLE[Action.SUBMIT][1]


def test_a_submitted_task_is_ready_at_once() -> None:
    """With its first event, no attempt, and nothing of an end."""
    assert (PENDING.version, PENDING.attempt, PENDING.due_at) == (1, 0, NOW)
    assert PENDING.events == (Event(1, Status.PENDING, NOW, {}),)
    assert (PENDING.lease, PENDING.result, PENDING.failure, PENDING.expire_at) == (None, None, None, None)


def test_a_claim_begins_an_attempt_under_the_lease() -> None:
    """The task is due when the lease ends; the event says which attempt, and whose."""
    assert (RUNNING.attempt, RUNNING.lease) == (1, make_lease("token"))
    assert RUNNING.due_at == make_lease().expires_at
    assert RUNNING.events[1] == Event(2, Status.RUNNING, NOW, {"attempt": 1, "worker": "worker-1"})


def test_an_extension_moves_the_lease_and_tells_nobody() -> None:
    """A heartbeat is no event, and `updated_at` is that of the last event."""
    after = transitions.extend(RUNNING, "token", LATER + 60 * SECOND)
    assert after.lease == make_lease("token", ends=LATER + 60 * SECOND)
    assert after.due_at == LATER + 60 * SECOND
    assert (after.events, after.updated_at) == (RUNNING.events, RUNNING.updated_at)


@pytest.mark.parametrize("action", [Action.EXTEND, Action.COMPLETE, Action.FAIL])
def test_another_lease_than_the_current_one_is_lost(action: Action) -> None:
    """An earlier holder, or one who never was, is refused, though the task is RUNNING."""
    with pytest.raises(errors.LeaseLost):
        ACT[action](transitions.claim(PENDING, make_lease("someone else's"), NOW))


def test_a_repeated_completion_is_answered_as_the_first() -> None:
    """The same holder, the same result: nothing changes. Another result is another completion, and too late."""
    assert transitions.complete(SUCCEEDED, "token", b"result", LATER, RETENTION) is SUCCEEDED
    for token, result in (("token", b"other"), ("other", b"result")):
        with pytest.raises(errors.LeaseLost):
            transitions.complete(SUCCEEDED, token, result, LATER, RETENTION)


def test_a_repeated_final_failure_is_answered_as_the_first() -> None:
    """The same holder, the same failure: nothing changes."""
    failed = fail(RUNNING, retryable=False)
    assert fail(failed) is failed
    for token, failure in (("token", Failure("E", "other")), ("other", FAILURE)):
        with pytest.raises(errors.LeaseLost):
            fail(failed, token, failure=failure)


def test_a_failed_attempt_waits_for_the_next() -> None:
    """Without a lease, until the backoff is over; the event says why and for how long."""
    after = fail(RUNNING)
    delay = retry.backoff(1, 0.5)
    assert (after.status, after.lease, after.due_at) == (Status.PENDING, None, LATER + delay)
    assert after.events[-1] == Event(
        3,
        Status.PENDING,
        LATER,
        {"attempt": 1, "code": "BROKEN", "message": "it broke", "retry_in_ms": delay // (SECOND / 1000)},
    )
    assert (after.failure, after.expire_at) == (None, None)


@pytest.mark.parametrize(
    ("task", "retryable"), [(RUNNING, False), (replace(RUNNING, attempt=2), True)], ids=["not retryable", "last"]
)
def test_a_failure_that_is_not_tried_again_ends_the_task(task: Task, retryable: bool) -> None:
    """With the failure, and the day that it is deleted."""
    after = fail(task, retryable=retryable)
    assert (after.status, after.failure) == (Status.FAILED, FAILURE)
    assert (after.due_at, after.expire_at) == (None, LATER + RETENTION)


def test_a_lease_expires_when_it_ends_and_not_before() -> None:
    """At `expires_at` it is over, a moment earlier it isn't; the task says that its worker stopped reporting."""
    end = make_lease().expires_at
    with pytest.raises(errors.LeaseLost):
        transitions.expire(RUNNING, now=end - SECOND / 1000, retention=RETENTION, jitter=0.0)
    last = replace(RUNNING, attempt=2)
    assert transitions.expire(last, now=end, retention=RETENTION, jitter=0.0).failure == LEASE_EXPIRED


def test_an_event_is_never_dated_before_the_one_it_follows() -> None:
    """Though the clock of the server that writes it is behind."""
    behind = transitions.complete(RUNNING, "token", b"", NOW - 60 * SECOND, RETENTION)
    assert behind.events[-1].at == behind.updated_at == NOW
