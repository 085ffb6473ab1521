"""Each REST route of the contract: which method it calls, and what of the request arrives there."""

from typing import Any

import pytest
from google.protobuf import json_format
from support.gateway import Gateway

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain.stack.envoy import view

here = pytest.mark.asyncio(loop_scope="session")

LEASE = {"workspace_id": "ws-1", "task_id": "x", "lease_token": "t"}
ROUTES: list[tuple[str, str, Any, str, dict[str, Any]]] = [
    ("GET", "/v1/tasks/a:b:wait?timeout=25s", None, "WaitTask", {"task_id": "a:b", "timeout": "25s"}),
    ("GET", "/v1/tasks", None, "ListTasks", {}),
    (
        "GET",
        "/v1/tasks?filter=status+%3D+FAILED%20AND%20labels.a%20%3D%20%22b%26c%2Bd%22&page_size=5&page_token=x%3D&view=FULL",
        None,
        "ListTasks",
        {
            "filter": 'status = FAILED AND labels.a = "b&c+d"',
            "page_size": 5,
            "page_token": "x=",
            "view": "TASK_VIEW_FULL",
        },
    ),
    ("GET", "/v1/tasks:count?filter=type%20%21%3D%20%22a%22", None, "CountTasks", {"filter": 'type != "a"'}),
    ("POST", "/v1/tasks/x:cancel", {"reason": "why"}, "CancelTask", {"task_id": "x", "reason": "why"}),
    ("POST", "/v1/tasks/x:retry", {}, "RetryTask", {"task_id": "x"}),
    ("POST", "/v1/tasks/x:retry", None, "RetryTask", {"task_id": "x"}),
    (
        "POST",
        "/v1/tasks:batchSubmit",
        {
            "requests": [
                {"type": "a", "payload": {"b": [1, None]}, "conflict_policy": "USE_EXISTING", "labels": {"c": "d"}},
                {
                    "schedule_time": "2024-01-01T02:00:00+02:00",
                    "retry_policy": {"initial_interval": "0.5s", "maximum_attempts": 3},
                    "heartbeat_timeout": "90s",
                },
            ]
        },
        "BatchSubmitTasks",
        {
            "requests": [
                {
                    "type": "a",
                    "payload": {"b": [1.0, None]},
                    "conflict_policy": "CONFLICT_POLICY_USE_EXISTING",
                    "labels": {"c": "d"},
                },
                {
                    "schedule_time": "2024-01-01T00:00:00Z",
                    "retry_policy": {"initial_interval": "0.500s", "maximum_attempts": 3},
                    "heartbeat_timeout": "90s",
                },
            ]
        },
    ),
    (
        "GET",
        "/v1/tasks:batchGet?task_ids=a&task_ids=b&view=BASIC",
        None,
        "BatchGetTasks",
        {"task_ids": ["a", "b"], "view": "TASK_VIEW_BASIC"},
    ),
    (
        "POST",
        "/v1/tasks:batchRetry",
        {"filter": "a", "limit": 5, "page_token": "p"},
        "BatchRetryTasks",
        {"filter": "a", "limit": 5, "page_token": "p"},
    ),
    ("GET", "/v1/task-types", None, "ListTaskTypes", {}),
    ("POST", "/v1/task-types/a.b:pause", {"reason": "why"}, "PauseTaskType", {"type": "a.b", "reason": "why"}),
    ("POST", "/v1/task-types/a.b:resume", {}, "ResumeTaskType", {"type": "a.b"}),
    (
        "POST",
        "/v1/worker/tasks:lease",
        {"worker_name": "w", "task_types": ["a", "b"], "max_tasks": 2, "wait": "25s"},
        "LeaseTasks",
        {"worker_name": "w", "task_types": ["a", "b"], "max_tasks": 2, "wait": "25s"},
    ),
    (
        "POST",
        "/v1/worker/tasks:heartbeat",
        {"lease": LEASE, "progress": {"fraction": 0.5, "message": "m"}, "log": "l"},
        "HeartbeatTask",
        {"lease": LEASE, "progress": {"fraction": 0.5, "message": "m"}, "log": "l"},
    ),
    (
        "POST",
        "/v1/worker/tasks:complete",
        {"lease": LEASE, "result": {"a": 1e23}},
        "CompleteTask",
        {"lease": LEASE, "result": {"a": 1e23}},
    ),
    (
        "POST",
        "/v1/worker/tasks:fail",
        {"lease": LEASE, "code": "C", "retryable": True, "retry_delay": "1.5s"},
        "FailTask",
        {"lease": LEASE, "code": "C", "retryable": True, "retry_delay": "1.500s"},
    ),
    ("POST", "/v1/worker/tasks:stop", {"lease": LEASE}, "StopTask", {"lease": LEASE}),
    (
        "POST",
        "/v1/workspaces",
        {"workspace_id": "w", "plan": "p", "quotas": {"streams": 2}, "worker_types": ["a"]},
        "CreateWorkspace",
        {"workspace_id": "w", "plan": "p", "quotas": {"streams": 2}, "worker_types": ["a"]},
    ),
    ("GET", "/v1/workspaces/w", None, "GetWorkspace", {"workspace_id": "w"}),
    ("GET", "/v1/workspaces?page_size=5&page_token=x", None, "ListWorkspaces", {"page_size": 5, "page_token": "x"}),
    ("PATCH", "/v1/workspaces/w", {"plan": "p"}, "UpdateWorkspace", {"workspace_id": "w", "plan": "p"}),
    ("DELETE", "/v1/workspaces/w", None, "DeleteWorkspace", {"workspace_id": "w"}),
    ("POST", "/v1/workspaces/w:disable", {"reason": "r"}, "DisableWorkspace", {"workspace_id": "w", "reason": "r"}),
    ("POST", "/v1/workspaces/w:enable", {}, "EnableWorkspace", {"workspace_id": "w"}),
    ("GET", "/v1/workspaces/w/secrets", None, "ListSecrets", {"workspace_id": "w"}),
    (
        "POST",
        "/v1/workspaces/w/secrets:rotate",
        {"overlap": "3600s"},
        "RotateSecret",
        {"workspace_id": "w", "overlap": "3600s"},
    ),
    (
        "POST",
        "/v1/workspaces/w/secrets/01234567:revoke",
        {},
        "RevokeSecret",
        {"workspace_id": "w", "secret_id": "01234567"},
    ),
    (
        "GET",
        "/v1/audit-events?workspace_id=w&page_size=5",
        None,
        "ListAuditEvents",
        {"workspace_id": "w", "page_size": 5},
    ),
]
ELSEWHERE = {"Authenticate", "SubmitTask", "GetTask", "ServeTaskEvents", "ServeJsonWebKeySet"}
"""Methods whose routes other tests are about."""


@here
@pytest.mark.parametrize(("verb", "target", "body", "method", "expected"), ROUTES)
async def test_route(
    gateway: Gateway, verb: str, target: str, body: Any, method: str, expected: dict[str, Any]
) -> None:
    """The method gets what path, query and body say, and nothing else; no such route answers without a token."""
    gateway.upstream.requests.clear()
    assert (await gateway.anonymous.request(verb, target, json=body)).status_code == 401
    answer = await gateway.rest.request(verb, target, json=body)
    assert answer.status_code == 200, answer.text
    ((called, request),) = gateway.upstream.requests.items()
    assert called == method
    assert json_format.MessageToDict(request, preserving_proto_field_name=True) == expected


def test_every_route_is_tried() -> None:
    """A method that gets a route gets a test."""
    routed = {method.name.rpartition("/")[2] for method in view.methods() if method.routes}
    assert routed == {method for *_, method, _ in ROUTES} | ELSEWHERE


@here
async def test_short_names_in_answers(gateway: Gateway) -> None:
    """An enum's value has no prefix; times and lists are as proto3's JSON has them; what is unset is null."""
    task = tasks_pb2.TaskDetail(task_id="x", status=tasks_pb2.TASK_STATUS_CANCELLED, cancel_requested=True)
    task.expire_time.FromJsonString("2024-01-01T00:00:00Z")
    gateway.upstream.answers = {
        "ListTasks": tasks_pb2.ListTasksResponse(tasks=[task, task], next_page_token="n"),
        "CountTasks": tasks_pb2.CountTasksResponse(
            counts=[tasks_pb2.StatusCount(status=tasks_pb2.TASK_STATUS_FAILED, count=3)], total=3
        ),
        "FailTask": workers_pb2.FailTaskResponse(status=tasks_pb2.TASK_STATUS_PENDING),
    }
    listed = (await gateway.rest.get("/v1/tasks")).json()
    assert listed["next_page_token"] == "n"
    assert [(t["status"], t["expire_time"], t["result"], t["error"]) for t in listed["tasks"]] == [
        ("CANCELLED", "2024-01-01T00:00:00Z", None, None)
    ] * 2
    counted = (await gateway.rest.get("/v1/tasks:count")).json()
    assert counted == {"counts": [{"status": "FAILED", "count": 3}], "total": 3}
    assert (await gateway.rest.post("/v1/worker/tasks:fail", json={})).json() == {"status": "PENDING"}
    gateway.upstream.answers = {}


@here
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/tasks", '{"conflict_policy":"X"}', "conflict_policy"),
        ("/v1/tasks", '{"conflict_policy":"UNSPECIFIED"}', "conflict_policy"),
        ("/v1/tasks", '{"retention":"5"}', "retention"),
        ("/v1/tasks", '{"retention":5}', "retention"),
        ("/v1/tasks", '{"schedule_time":"yesterday"}', "schedule_time"),
        ("/v1/tasks", '{"priority":1.5}', "priority"),
        ("/v1/tasks:batchSubmit", '{"requests":[{},{"retry_policy":{"maximum_attempts":"x"}}]}', None),
        ("/v1/tasks:batchSubmit", '{"requests":[{},{"payload":{"a":[9007199254740993]}}]}', "requests[1].payload.a[0]"),
        ("/v1/tasks/x:cancel", '{"task_id":"y"}', "task_id"),
        ("/v1/tasks/x:cancel", " ", "request"),
        ("/v1/worker/tasks:heartbeat", '{"lease":{"token":"x"}}', "lease.token"),
    ],
)
async def test_faults_are_named(gateway: Gateway, path: str, body: str, field: str | None) -> None:
    """Inside of messages and lists too, and in whole sentences of ours."""
    answer = await gateway.rest.post(path, content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    (violation,) = [v for detail in error["details"] for v in detail.get("field_violations", ())]
    assert violation["field"] == (field or "requests[1].retry_policy.maximum_attempts")
    assert error["message"] == f"{violation['field']}: {violation['description']}"
    assert "googleapis" not in error["message"]
