"""API4:2023 Unrestricted Resource Consumption: what one call, one stream and one workspace may take."""

from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from security.conftest import People, sign_in
from support.doors import OK, Door, Grpc, Rest, Told, bearer, told
from support.stack import StackInfo

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc
from openmcp_chain import config

TASKS = "/openmcp.chain.v1.TaskService"
WORKERS = "/openmcp.chain.v1.WorkerService"
WORKSPACES = "/openmcp.chain.v1.WorkspaceService"
PLAN = config.load_plans({})["free"]


def nested(levels: int) -> Mapping[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


LEASE = {"workspace_id": "w", "task_id": "t", "lease_token": "l"}
TOO_MUCH: list[tuple[str, str, dict[str, Any]]] = [
    (f"{TASKS}/ListTasks", "page_size", {"page_size": -1}),
    (f"{TASKS}/ListTasks", "filter", {"filter": "priority = 1 " + "AND priority = 1 " * 100}),
    (f"{TASKS}/ListTasks", "filter", {"filter": "(" * 500 + "priority = 1" + ")" * 500}),
    (f"{TASKS}/ListTasks", "page_token", {"page_token": "x" * 3000}),
    (f"{TASKS}/BatchGetTasks", "task_ids", {"task_ids": ["x"] * 101}),
    (f"{TASKS}/BatchGetTasks", "task_ids", {"task_ids": []}),
    (f"{TASKS}/BatchSubmitTasks", "requests", {"requests": [{"type": "x"}] * 1001}),
    (f"{TASKS}/BatchRetryTasks", "limit", {"limit": 1001}),
    (f"{TASKS}/WaitTask", "timeout", {"task_id": "x", "timeout": {"seconds": 26}}),
    (f"{TASKS}/CancelTask", "reason", {"task_id": "x", "reason": "x" * 513}),
    (f"{TASKS}/SubmitTask", "type", {"type": "x" * 129}),
    (f"{TASKS}/SubmitTask", "payload", {"type": "x", "payload": {"a": "x" * (1 << 20)}}),
    (f"{TASKS}/SubmitTask", "payload", {"type": "x", "payload": nested(33)}),
    (f"{TASKS}/SubmitTask", "metadata", {"type": "x", "metadata": {f"k{n}": "v" for n in range(65)}}),
    (f"{TASKS}/SubmitTask", 'metadata["k"]', {"type": "x", "metadata": {"k": "v" * 1025}}),
    (f"{TASKS}/SubmitTask", "labels", {"type": "x", "labels": {f"k{n}": "v" for n in range(17)}}),
    (f"{TASKS}/SubmitTask", "dedupe_key", {"type": "x", "dedupe_key": "x" * 129}),
    (f"{TASKS}/SubmitTask", "retention", {"type": "x", "retention": {"seconds": 400 * 86400}}),
    (f"{TASKS}/SubmitTask", "schedule_time", {"type": "x", "schedule_time": {"seconds": 4 * 10**9}}),
    (f"{TASKS}/SubmitTask", "heartbeat_timeout", {"type": "x", "heartbeat_timeout": {"seconds": 3601}}),
    (f"{TASKS}/SubmitTask", "retry_policy.maximum_attempts", {"type": "x", "retry_policy": {"maximum_attempts": 101}}),
    (f"{WORKERS}/LeaseTasks", "max_tasks", {"worker_name": "w", "task_types": ["x"], "max_tasks": 101}),
    (f"{WORKERS}/LeaseTasks", "task_types", {"worker_name": "w", "task_types": ["x"] * 65}),
    (f"{WORKERS}/LeaseTasks", "wait", {"worker_name": "w", "task_types": ["x"], "wait": {"seconds": 26}}),
    (f"{WORKERS}/HeartbeatTask", "lease.task_id", {"lease": {**LEASE, "task_id": "x" * 1000}}),
]


@pytest.mark.parametrize(
    ("path", "field", "given"), TOO_MUCH, ids=lambda value: value if isinstance(value, str) else ""
)
def test_one_call(door: Door, people: People, path: str, field: str, given: dict[str, Any]) -> None:
    """What is longer, deeper, later or more than it may be is refused, and the field is named."""
    answer = door.ask(path, people.owner.token, **given)
    assert answer.code == "INVALID_ARGUMENT", answer
    assert answer.fields[0].startswith(field), answer


def test_a_page_is_no_larger_than_a_page(door: Door, people: People) -> None:
    """Whoever asks for a page of all gets a thousand at most; of whole tasks, a hundred."""
    stranger = people.stranger.token
    many = tasks_pb2.BatchSubmitTasksRequest(requests=[tasks_pb2.SubmitTaskRequest(type="page")] * 101)
    assert door.call(f"{TASKS}/BatchSubmitTasks", many, headers=bearer(stranger)).code == OK
    full = door.ask(f"{TASKS}/ListTasks", stranger, filter='type = "page"', page_size=2**31 - 1, view="TASK_VIEW_FULL")
    assert len(full.body["tasks"]) == 100
    assert full.body["next_page_token"]


def test_streams_of_a_workspace(native: Grpc, stack: StackInfo, people: People) -> None:
    """A workspace has as many streams open as its plan allows; one more is refused, and one that ends makes room."""
    token = people.small.token
    task_id = native.ask(f"{TASKS}/SubmitTask", token, type="streams").body["task_id"]
    metadata = tuple(bearer(token))
    with grpc.insecure_channel(stack.grpc_target, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = tasks_pb2_grpc.TaskServiceStub(channel)
        wanted = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        opened = [stub.StreamTaskEvents(wanted, metadata=metadata, timeout=30) for _ in range(PLAN.streams)]
        for stream in opened:
            next(stream)
        refused = native.ask(f"{TASKS}/StreamTaskEvents", token, task_id=task_id)
        assert refused.code == "TOO_MANY_STREAMS"
        assert native.ask("/openmcp.chain.v1.RestService/ServeTaskEvents", token, task_id=task_id).code == refused.code
        assert native.ask(f"{TASKS}/CancelTask", token, task_id=task_id).code == OK
        for stream in opened:
            list(stream)
    assert native.ask(f"{TASKS}/StreamTaskEvents", token, task_id=task_id).code == OK


def test_waiting_tasks_of_a_workspace(door: Door, people: People) -> None:
    """A workspace has as many tasks waiting as its quota allows; one more is refused, with the time to come back."""
    admin = people.administrator.token
    made = door.ask(f"{WORKSPACES}/CreateWorkspace", admin, plan="free", quotas={"pending_tasks": 3}).body
    token = sign_in(door, made["workspace"]["workspace_id"], made["workspace_secret"])

    def let_through(method: str, **fields: str) -> Told:
        """Asked for until the rate lets it through."""
        answers = (door.ask(f"{TASKS}/{method}", token, **fields) for _ in range(1000))
        return next(answer for answer in answers if answer.code != "RATE_LIMITED")

    def accepted() -> Told:
        """What was written while a count was under way may be counted twice, until the next one."""
        answers = (let_through("SubmitTask", type="waiting") for _ in range(1000))
        return next(answer for answer in answers if answer.code != "TOO_MANY_PENDING")

    first, *others = [accepted() for _ in range(3)]
    assert [one.code for one in (first, *others)] == [OK, OK, OK]
    refused = let_through("SubmitTask", type="waiting")
    assert refused.code == "TOO_MANY_PENDING"
    assert [detail for detail in refused.details if detail["@type"].endswith("RetryInfo")]
    assert let_through("CancelTask", task_id=first.body["task_id"]).code == OK
    assert accepted().code == OK


def test_the_rate_of_a_workspace(rest: Rest, people: People) -> None:
    """Past its plan's rate a workspace is told when to come back, by REST and by gRPC; another is not held up by it."""
    token = people.busy.token
    answers = [rest.http.get("/v1/tasks/x", headers=dict(bearer(token))) for _ in range(3 * PLAN.burst)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) >= PLAN.burst
    for answer in refused:
        assert answer.json()["error"]["code"] == "RATE_LIMITED"
        assert int(answer.headers["retry-after"]) >= 1
    # By the time that one is told, there may be room for another again.
    assert "0" in {answer.headers["x-ratelimit-remaining"] for answer in refused}
    # To connect takes time, in which there may be room for a call again.
    tries = (rest.grpc.ask(f"{TASKS}/GetTask", token, task_id="x") for _ in range(3 * PLAN.burst))
    by_grpc = next(answer for answer in tries if answer.code == "RATE_LIMITED")
    assert [detail for detail in by_grpc.details if detail["@type"].endswith("RetryInfo")]
    assert told(rest.http, "GET", "/v1/tasks/x", headers=bearer(people.owner.token)).code == "TASK_NOT_FOUND"


def test_a_call_without_an_end(native: Grpc, people: People) -> None:
    """A request that is never finished holds nothing of the server's for longer than a call may take: it is refused."""
    answer = native.send(f"{TASKS}/GetTask", [], bearer(people.owner.token))
    assert answer.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("target", ["/v1/tasks", "/v1/auth/token"])
def test_a_body_without_an_end(rest: Rest, people: People, target: str) -> None:
    """A body that keeps coming is refused at the limit, whether it says its length or not."""
    headers = [*bearer(people.owner.token), ("content-type", "application/json")]
    chunks = (b" " * (1 << 16) for _ in range(80))
    answer = rest.http.post(target, content=chunks, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "REQUEST_TOO_LARGE"


def test_a_message_too_large(native: Grpc, people: People) -> None:
    """A gRPC message past what a request may have is refused; the next call is served."""
    answer = native.send(f"{TASKS}/SubmitTask", [bytes(4 * 1024 * 1024 + 1)], bearer(people.owner.token))
    assert answer.code == "REQUEST_TOO_LARGE"
    assert native.ask(f"{TASKS}/ListTaskTypes", people.owner.token).code == OK


def test_the_bytes_of_a_workspace(rest: Rest, people: People) -> None:
    """Past its plan's bytes a workspace is refused, however few its calls, by REST and by gRPC; another is not."""
    admin = people.administrator.token
    made = rest.ask(f"{WORKSPACES}/CreateWorkspace", admin, plan="free").body
    token = sign_in(rest, made["workspace"]["workspace_id"], made["workspace_secret"])
    large = {"type": "large", "payload": {"a": "x" * 1_000_000}}
    submits = [rest.ask(f"{TASKS}/SubmitTask", token, **large) for _ in range(5)]
    assert {answer.code for answer in submits} == {OK, "RATE_LIMITED"}
    by_grpc = rest.grpc.ask(f"{TASKS}/SubmitTask", token, **large)
    assert by_grpc.code == "RATE_LIMITED"
    assert [detail for detail in by_grpc.details if detail["@type"].endswith("RetryInfo")]
    assert rest.ask(f"{TASKS}/SubmitTask", people.owner.token, **large).code == OK


def test_the_bytes_that_a_workspace_reads(door: Door, people: People) -> None:
    """Nor what is read: of large answers the next one waits until the last one has been paid for."""
    admin = people.administrator.token
    made = door.ask(f"{WORKSPACES}/CreateWorkspace", admin, plan="free").body
    token = sign_in(door, made["workspace"]["workspace_id"], made["workspace_secret"])
    task_id = door.ask(f"{TASKS}/SubmitTask", token, type="large", payload={"a": "x" * 1_000_000}).body["task_id"]
    reads = [door.ask(f"{TASKS}/GetTask", token, task_id=task_id, view="TASK_VIEW_FULL").code for _ in range(3)]
    assert reads == [OK, "RATE_LIMITED", "RATE_LIMITED"]
    assert door.ask(f"{TASKS}/GetTask", token, task_id=task_id, view="TASK_VIEW_BASIC").code == OK
