"""A workspace's whole life as its administrators lead it, through the real Envoy, by REST and gRPC in turn."""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
from contract.errorshape import grpc_error, rest_error
from google.protobuf.duration_pb2 import Duration
from support.plain import NOBODY
from support.rest import Rest
from support.stack import StackInfo
from support.workspaces import Credentials

from openmcp.chain.v1 import workspaces_pb2, workspaces_pb2_grpc

PATIENCE = 120.0
"""Seconds in which a workspace is gone, or a token, at the latest; only a fault makes a test wait so long."""
TYPE = f"of-operators-{uuid.uuid4()}"


class Grpc:
    """An administrator by gRPC, through Envoy."""

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self._stub = workspaces_pb2_grpc.WorkspaceServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    def call(self, method: str, request: Any) -> Any:
        return getattr(self._stub, method)(request, metadata=self._metadata, timeout=30)

    def refused(self, method: str, request: Any) -> str:
        with pytest.raises(grpc.RpcError) as raised:
            self.call(method, request)
        return str(grpc_error(raised.value).code)


@pytest.fixture
def by_grpc(stack: StackInfo, admin: Rest) -> Iterator[Grpc]:
    with grpc.insecure_channel(stack.envoy_grpc_target, [("grpc.enable_http_proxy", 0)]) as channel:
        yield Grpc(channel, admin.token)


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response) -> str:
    return str(rest_error(answer.status_code, answer.headers["content-type"], answer.content)["code"])


def sign_in(stack: StackInfo, workspace_id: str, secret: str) -> httpx.Response:
    credentials = {"workspace_id": workspace_id, "workspace_secret": secret}
    return httpx.post(f"{stack.rest_url}/v1/auth/token", json=credentials, verify=NOBODY)


def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; for what the server does in its own time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.2)


def lease(worker: Rest, seconds: int) -> list[dict[str, Any]]:
    """The tasks that a worker gets that waits so long."""
    ask = {"worker_name": "w", "task_types": [TYPE], "max_tasks": 10, "wait": f"{seconds}s"}
    tasks: list[dict[str, Any]] = ok(worker.http.post("/v1/worker/tasks:lease", json=ask))["tasks"]
    return tasks


@pytest.mark.timeout(400)  # a name is free 45 s after its workspace was shut out
def test_a_workspaces_whole_life(stack: StackInfo, admin: Rest, by_grpc: Grpc) -> None:
    """Made, shut out, let in, its secret rotated and revoked, deleted with its tasks; then its name is free again."""
    name = f"life-{uuid.uuid4()}"
    made = ok(admin.http.post("/v1/workspaces", json={"workspace_id": name, "plan": "unlimited"}))
    assert made["workspace"] == made["workspace"] | {"kind": "TENANT", "state": "ACTIVE", "plan": "unlimited"}
    operator = by_grpc.call("CreateWorkspace", workspaces_pb2.CreateWorkspaceRequest(worker_types=[TYPE]))
    worker = Rest(stack.rest_url, Credentials(operator.workspace.workspace_id, operator.workspace_secret))
    tenant = Rest(stack.rest_url, Credentials(name, made["workspace_secret"]))
    with worker, tenant:
        task_id = tenant.submit(TYPE, {})

        # Shut out: when that is answered, no token is taken any more, and no waiting task given out.
        disable = workspaces_pb2.DisableWorkspaceRequest(workspace_id=name, reason="a test")
        shut = by_grpc.call("DisableWorkspace", disable)
        assert shut.workspace.state == workspaces_pb2.WORKSPACE_STATE_DISABLED
        assert refused(tenant.http.get(f"/v1/tasks/{task_id}")) == "TOKEN_INVALID"
        assert refused(sign_in(stack, name, made["workspace_secret"])) == "CREDENTIALS_INVALID"
        assert lease(worker, 5) == []

        # Let in again: with the secrets and tokens that it had.
        assert ok(admin.http.post(f"/v1/workspaces/{name}:enable", json={}))["workspace"]["state"] == "ACTIVE"
        until(lambda: tenant.http.get(f"/v1/tasks/{task_id}").status_code == 200)
        until(lambda: bool(held := lease(worker, 20)) and held[0]["lease"]["task_id"] == task_id)

        # A new secret beside the old one, until that is revoked, with the tokens that were got with it.
        rotate = workspaces_pb2.RotateSecretRequest(workspace_id=name, overlap=Duration(seconds=3600))
        rotated = by_grpc.call("RotateSecret", rotate)
        for secret in (made["workspace_secret"], rotated.workspace_secret):
            ok(sign_in(stack, name, secret))
        secrets = ok(admin.http.get(f"/v1/workspaces/{name}/secrets"))["secrets"]
        assert [one["secret_id"] for one in secrets] == [made["secret_id"], rotated.secret_id]
        assert ["expires_at" in one for one in secrets] == [True, False]
        assert ok(admin.http.post(f"/v1/workspaces/{name}/secrets/{made['secret_id']}:revoke", json={})) == {}
        assert refused(sign_in(stack, name, made["workspace_secret"])) == "CREDENTIALS_INVALID"
        until(lambda: tenant.http.get(f"/v1/tasks/{task_id}").status_code == 401)
        ok(sign_in(stack, name, rotated.workspace_secret))

        # Deleted, with all its tasks.
        assert ok(admin.http.delete(f"/v1/workspaces/{name}"))["workspace"]["state"] == "DELETING"
        read = workspaces_pb2.GetWorkspaceRequest(workspace_id=name)
        assert by_grpc.call("GetWorkspace", read).workspace.state == workspaces_pb2.WORKSPACE_STATE_DELETING
        assert refused(sign_in(stack, name, rotated.workspace_secret)) == "CREDENTIALS_INVALID"
        assert refused(admin.http.post(f"/v1/workspaces/{name}:enable", json={})) == "WORKSPACE_DELETING"
        assert by_grpc.refused("CreateWorkspace", workspaces_pb2.CreateWorkspaceRequest(workspace_id=name, plan="free"))
        until(lambda: admin.http.get(f"/v1/workspaces/{name}").status_code == 404)
        assert by_grpc.refused("GetWorkspace", read) == "WORKSPACE_NOT_FOUND"

        # Its name is free, and who takes it finds nothing.
        anew = by_grpc.call("CreateWorkspace", workspaces_pb2.CreateWorkspaceRequest(workspace_id=name, plan="free"))
        assert refused(sign_in(stack, name, rotated.workspace_secret)) == "CREDENTIALS_INVALID"
        with Rest(stack.rest_url, Credentials(name, anew.workspace_secret)) as successor:
            assert ok(successor.http.get("/v1/tasks"))["tasks"] == []
            assert ok(successor.http.get("/v1/task-types"))["task_types"] == []
            assert refused(successor.http.get(f"/v1/tasks/{task_id}")) == "TASK_NOT_FOUND"
        assert refused(tenant.http.get("/v1/tasks")) == "TOKEN_INVALID"

    events = ok(admin.http.get("/v1/audit-events", params={"workspace_id": name}))["events"]
    deeds = ["create", "disable", "enable", "secret.create", "secret.revoke", "delete", "create"]
    told = [deed if deed.startswith("secret") else f"workspace.{deed}" for deed in deeds]
    assert [event["action"] for event in reversed(events)] == told
    assert {event["actor"] for event in events} == {admin.workspace_id}
    assert made["workspace_secret"] not in str(events)


def test_no_tenant_gets_in(stack: StackInfo, rest: Rest, demo: Rest) -> None:
    """A tenant's token is refused by every route, and nobody may ask for more than its kind has."""
    for verb, path in (("GET", "/v1/workspaces"), ("GET", "/v1/audit-events"), ("DELETE", "/v1/workspaces/ws-demo")):
        assert refused(rest.http.request(verb, path)) == "SCOPE_MISSING"
    credentials = {"workspace_id": stack.workspace_id, "workspace_secret": stack.workspace_secret, "scopes": ["admin"]}
    assert refused(httpx.post(f"{stack.rest_url}/v1/auth/token", json=credentials, verify=NOBODY)) == "INVALID_ARGUMENT"
    ok(demo.http.get("/v1/tasks"))
