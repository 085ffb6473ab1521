"""API6:2023 Unrestricted Access to Sensitive Business Flows: loops of submits, cancels and retries stay in bounds."""

import time
import uuid

from security.conftest import People
from support.doors import OK, Door, Grpc, Rest, bearer

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain import config

TASKS = "/openmcp.chain.v1.TaskService"
WORKERS = "/openmcp.chain.v1.WorkerService"


def test_submit_and_cancel_without_pause(rest: Rest, people: People) -> None:
    """Through Envoy, a loop gets no more calls than its plan's rate, whatever they are and however they end."""
    plan = config.load_plans({})["free"]
    token = people.looping.token
    began, admitted = time.monotonic(), 0
    for _ in range(plan.burst * 2):
        answer = rest.ask(f"{TASKS}/SubmitTask", token, type="loop")
        admitted += answer.code != "RATE_LIMITED"
        task_id = answer.body["task_id"] if answer.code == OK else "x"
        admitted += rest.ask(f"{TASKS}/CancelTask", token, task_id=task_id).code != "RATE_LIMITED"
    seconds = time.monotonic() - began
    # A bucket is filled once a second.
    assert admitted <= plan.burst + plan.requests_per_second * (seconds + 1)
    assert admitted >= plan.burst


def test_cancel_and_retry_without_end(native: Grpc, people: People) -> None:
    """A task that is cancelled and tried again, over and over, is one task with one more step each time: no copy."""
    token = people.small.token
    task_id = native.ask(f"{TASKS}/SubmitTask", token, type="again").body["task_id"]
    for _ in range(10):
        assert native.ask(f"{TASKS}/CancelTask", token, task_id=task_id).code == OK
        assert native.ask(f"{TASKS}/CancelTask", token, task_id=task_id).code == OK  # again: nothing more
        assert native.ask(f"{TASKS}/RetryTask", token, task_id=task_id).code == OK
        assert native.ask(f"{TASKS}/RetryTask", token, task_id=task_id).code == "TASK_NOT_RETRYABLE"
    listed = native.ask(f"{TASKS}/ListTasks", token, filter='type = "again"').body["tasks"]
    assert [task["task_id"] for task in listed] == [task_id]


def test_one_key_is_one_task(door: Door, people: People) -> None:
    """Whoever submits the same again with its request_id has one task, however often."""
    request = tasks_pb2.SubmitTaskRequest(
        type="once", request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"once through {door.name}"))
    )
    told = {
        door.call(f"{TASKS}/SubmitTask", request, headers=bearer(people.stranger.token)).body["task_id"]
        for _ in range(10)
    }
    assert len(told) == 1


def test_waiting_for_nothing(native: Grpc, people: People) -> None:
    """To ask for work that is not there, over and over, leases nothing."""
    for _ in range(3):
        answer = native.ask(f"{WORKERS}/LeaseTasks", people.small.token, worker_name="w", task_types=["none.such"])
        assert answer.code == OK
        assert not answer.body.get("tasks")
