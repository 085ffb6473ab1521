"""API3:2023 Broken Object Property Level Authorization: what a caller may not set, and what nobody is shown."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message_factory import GetMessageClass
from security.access import HAS, NEEDS
from security.conftest import People
from support.doors import OK, Door, Grpc, Rest, bearer, rendered, route, told
from support.methods import METHODS

from openmcp.chain.v1 import tasks_pb2, workers_pb2, workspaces_pb2

SUBMIT = "/openmcp.chain.v1.TaskService/SubmitTask"
GET = "/openmcp.chain.v1.TaskService/GetTask"
CONTRACT = sorted(path for path in METHODS if path.startswith("/openmcp."))
STATE: dict[str, Any] = {
    "status": "SUCCEEDED",
    "state": "ACTIVE",
    "attempt": 7,
    "result": {"a": 1},
    "error": "",
    "task_id": "mine",
    "submitted_at": "2020-01-01T00:00:00Z",
    "updated_at": "2020-01-01T00:00:00Z",
    "expire_time": None,
    "progress": {"fraction": 1},
    "cancel_requested": False,
    "version": 9,
    "lease": {"token": "x"},
    "events": [],
    "workspace": "ws-1",
    "owner": "ws-1",
    "tenant": "ws-1",
    "kind": "ADMINISTRATOR",
    "scope": "admin",
    "_id": "x",
    "secrets": [],
    "created_at": "2020-01-01T00:00:00Z",
    "is_admin": True,
    "__proto__": {"admin": True},
}
"""What somebody who knows what we keep would try to set."""


def request_of(path: str) -> Descriptor:
    found: Descriptor = METHODS[path].input_type
    return found


@pytest.mark.parametrize("path", [path for path in CONTRACT if (found := route(path)) and found[2]])
def test_state_by_json(rest: Rest, people: People, path: str) -> None:
    """A field that a call does not have is refused by its name, in every call's body; nothing is taken over unseen."""
    caller = next((one for one in people.all if NEEDS[path] in HAS[one.kind]), people.owner)
    verb, target, _ = rendered(path, GetMessageClass(request_of(path))())
    for name, value in STATE.items():
        if value is None or name in request_of(path).fields_by_name:
            continue
        answer = told(rest.http, verb, target, {name: value}, bearer(caller.token))
        assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", [name]), name


def test_state_by_query(rest: Rest, people: People) -> None:
    """Nor by a query, of a call with a body or without."""
    for verb, target in (("POST", "/v1/tasks"), ("GET", "/v1/tasks"), ("GET", "/v1/tasks/x")):
        for name in ("status", "workspace", "workspace_id", "attempt"):
            body = {"type": "x"} if verb == "POST" else None
            answer = told(rest.http, verb, f"{target}?{name}=x", body, bearer(people.owner.token))
            assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", [name])


def test_state_by_unknown_fields(native: Grpc, people: People) -> None:
    """Fields that a message does not have change nothing: protobuf carries them, and the server looks at none."""
    forged = tasks_pb2.TaskDetail(
        task_id="mine", status=tasks_pb2.TASK_STATUS_SUCCEEDED, attempt=7, error="x", cancel_requested=True
    )
    forged.result.update({"a": 1})
    unknown = b"".join(
        number.to_bytes(2, "little") + b"\x09forged-it" for number in (0x02FA, 0x03F2, 0x7FF2)
    )  # fields beyond all that there are
    request = tasks_pb2.SubmitTaskRequest(type="properties").SerializeToString()
    answer = native.send(SUBMIT, [request + unknown], bearer(people.owner.token))
    assert answer.code == OK
    task = native.ask(GET, people.owner.token, task_id=answer.body["task_id"], view="TASK_VIEW_FULL").body
    assert (task["status"], task["attempt"], task["error"]) == ("TASK_STATUS_PENDING", 0, "")
    assert "result" not in task
    assert "forged" not in repr(task)
    # As another message of the contract: its fields have other meanings here, or none.
    other = native.send(SUBMIT, [forged.SerializeToString()], bearer(people.owner.token))
    assert other.code == "INVALID_ARGUMENT"


def test_a_worker_sets_what_is_the_workers(native: Grpc, people: People) -> None:
    """A result is the result: fields in it that are called like a task's change nothing of the task."""
    owner = people.owner.token
    task_id = native.ask(SUBMIT, owner, type="result").body["task_id"]
    lease = native.ask(
        "/openmcp.chain.v1.WorkerService/LeaseTasks", owner, worker_name="w", task_types=["result"], wait={"seconds": 9}
    ).body["tasks"][0]["lease"]
    done = workers_pb2.CompleteTaskRequest(lease=workers_pb2.LeaseRef(**lease))
    done.result.update({"status": "FAILED", "task_id": "x", "attempt": 99, "workspace": "ws-x", "_id": {"$ne": 1}})
    complete = "/openmcp.chain.v1.WorkerService/CompleteTask"
    assert native.call(complete, done, headers=bearer(owner)).code == OK
    task = native.ask(GET, owner, task_id=task_id).body
    assert (task["status"], task["task_id"], task["attempt"]) == ("TASK_STATUS_SUCCEEDED", task_id, 1)
    assert task["result"]["_id"] == {"$ne": 1}


TOLD_ONCE = {
    "AuthToken.token",
    "CreateWorkspaceResponse.workspace_secret",
    "RotateSecretResponse.workspace_secret",
    "LeaseRef.lease_token",
}
"""What of an answer is to be kept secret: it is told to whom it is for, this once."""
SECRET_WORDS = ("secret", "token", "password", "key", "digest", "salt", "pepper", "hash", "private", "credential")
HARMLESS = {"next_page_token", "page_token", "dedupe_key", "secret_id", "secrets"}


def answered(message: Descriptor, seen: set[str]) -> Iterator[str]:
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    for field in message.fields:
        if message.GetOptions().map_entry:
            continue
        if any(word in field.name for word in SECRET_WORDS) and field.name not in HARMLESS:
            yield f"{message.name}.{field.name}"
        if field.message_type is not None:
            yield from answered(field.message_type, seen)


def test_no_answer_has_a_place_for_a_secret() -> None:
    """Over all answers of the contract: what is called like a secret is one of the few that are told once."""
    seen: set[str] = set()
    found = {name for path in CONTRACT for name in answered(METHODS[path].output_type, seen)}
    assert found <= TOLD_ONCE
    assert "AuthToken.token" in found
    pool = descriptor_pool.Default()
    assert "workspace_secret" not in pool.FindMessageTypeByName("openmcp.chain.v1.Workspace").fields_by_name
    assert not [
        name
        for name in workspaces_pb2.SecretInfo.DESCRIPTOR.fields_by_name
        if name not in ("secret_id", "created_at", "expires_at")
    ]


TELLS = ("/Authenticate", "/CreateWorkspace", "/RotateSecret")
"""The methods whose answer is a secret."""


@pytest.mark.parametrize("path", [p for p in CONTRACT if not (METHODS[p].client_streaming or p.endswith(TELLS))])
def test_no_answer_tells_a_secret(door: Door, people: People, path: str) -> None:
    """Nobody's secret or token is in any answer or refusal, whoever asks, but for what sign-in gives."""
    waits_not: dict[str, Any] = {"timeout": {}} if "timeout" in request_of(path).fields_by_name else {}
    for caller in people.all:
        text = door.ask(path, caller.token, **waits_not).text
        for one in people.all:
            assert one.secret not in text
            assert one.token not in text
            assert one.secret.split("_", 2)[2] not in text


def test_refusals_do_not_repeat_secrets(door: Door, people: People) -> None:
    """A refused sign-in, a refused token, a secret sent where it does not belong: none comes back in the answer."""
    secret, token = people.owner.secret, people.owner.token
    told_all = [
        door.ask("/openmcp.chain.v1.AuthService/Authenticate", workspace_id="nobody", workspace_secret=secret),
        door.ask("/openmcp.chain.v1.AuthService/Authenticate", workspace_secret=secret),
        door.ask(GET, token[:-4] + "AAAA", task_id="x"),
        door.ask(SUBMIT, token, type="x", request_id=secret),
        door.ask(SUBMIT, token, type="x", workspace_id=secret),
    ]
    for answer in told_all:
        assert answer.code != OK
        assert secret not in answer.text
        assert token[:-4] not in answer.text
