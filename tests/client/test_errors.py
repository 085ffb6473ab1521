"""The client's exceptions as values: they survive the way between processes."""

import pickle
from datetime import UTC, datetime

import pytest

from openmcp_chain.client import ApiError, Error, Status, Task, TaskUnsuccessful, Violation, WaitTimeout

TASK = Task(
    task_id="t",
    type="echo",
    status=Status.FAILED,
    submitted_at=datetime(2026, 1, 2, tzinfo=UTC),
    updated_at=datetime(2026, 1, 2, tzinfo=UTC),
    error="BROKEN: it broke",
)


@pytest.mark.parametrize(
    "error",
    [
        ApiError("NOT_FOUND", "TASK_NOT_FOUND", "Task t does not exist", (Violation("a", "b"),), 1.5, 3),
        WaitTimeout("t", TASK),
        WaitTimeout("t"),
        TaskUnsuccessful(TASK),
    ],
    ids=lambda error: type(error).__name__,
)
def test_pickled(error: Error) -> None:
    """An exception that a pool of processes passes on has all that it had."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(copy), vars(copy)) == (str(error), vars(error))
