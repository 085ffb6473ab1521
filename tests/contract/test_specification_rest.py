"""The specification's REST examples, request and response, through the real Envoy."""

import hashlib
import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from contract.errorshape import rest_error
from support.plain import NOBODY
from support.rest import Rest
from support.stack import StackInfo
from support.workspaces import Credentials, create, expired_token

UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
SUBMIT = {
    "workspace_id": "ws-1234",
    "type": "data_pipeline",
    "payload": {"input_uri": "s3://bucket/path/input.json"},
    "metadata": {"priority": "high"},
}
TASK = ["task_id", "status", "submitted_at", "updated_at", "result", "error"]


def refused(answer: httpx.Response, status: int) -> str:
    """The code of a refusal, of which REST clients see nothing of gRPC."""
    assert answer.status_code == status, answer.text
    assert not [name for name in answer.headers if name.startswith("grpc-")]
    return str(rest_error(answer.status_code, answer.headers["content-type"], answer.content)["code"])


def test_credentials_become_a_token(stack: StackInfo, credentials: Credentials) -> None:
    """`POST /v1/auth/token` answers with `access_token` and `expires_at` alone, the latter in UTC."""
    answer = httpx.post(
        f"{stack.rest_url}/v1/auth/token",
        json={"workspace_id": credentials.workspace_id, "workspace_secret": credentials.workspace_secret},
        verify=NOBODY,
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["access_token", "expires_at"]
    assert UTC_TIME.fullmatch(answer.json()["expires_at"])
    left = datetime.fromisoformat(answer.json()["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)


def test_task_is_submitted(rest: Rest) -> None:
    """The specification's own submit answers with exactly its three fields, the status without a prefix."""
    answer = rest.http.post("/v1/tasks", json=SUBMIT)
    assert answer.status_code == 200, answer.text
    summary = answer.json()
    assert list(summary) == ["task_id", "status", "submitted_at"]
    assert uuid.UUID(summary["task_id"])
    assert summary["status"] == "PENDING"
    assert UTC_TIME.fullmatch(summary["submitted_at"])


def test_pending_task_has_all_fields(rest: Rest) -> None:
    """A task that nobody takes stays PENDING, with every documented field, `result` and `error` null."""
    task_id = rest.submit("nobody_takes_this", {})
    task = rest.get(task_id)
    assert list(task)[: len(TASK)] == TASK, "the specified fields come first, in its order"
    assert task == task | {"task_id": task_id, "status": "PENDING", "result": None, "error": None}
    assert task["submitted_at"] == task["updated_at"]
    assert UTC_TIME.fullmatch(task["updated_at"])


def test_running_task_is_shown_so(rest: Rest, tmp_path: Path) -> None:
    """While a worker has the task, its status is RUNNING; afterwards SUCCEEDED."""
    task_id = rest.submit("hold", {"until": str(tmp_path / "released")})
    rest.events(task_id, until="RUNNING")
    task = rest.get(task_id)
    (tmp_path / "released").touch()
    assert task == task | {"status": "RUNNING", "result": None, "error": None}
    assert task["updated_at"] >= task["submitted_at"]
    assert rest.ended(task_id)["status"] == "SUCCEEDED"


def test_pipeline_result_names_a_whole_artifact(stack: StackInfo, demo: Rest) -> None:
    """A `data_pipeline` task ends with the specification's result: the artifact's URI, and its checksum."""
    source = stack.files_dir / "spec" / "input.json"
    source.parent.mkdir()
    source.write_text(json.dumps([{"a": 1}, {"a": 2}]))
    task = demo.ended(demo.submit("data_pipeline", {"input_uri": source.as_uri()}, metadata={"priority": "high"}))
    assert list(task)[: len(TASK)] == TASK, "the specified fields come first, in its order"
    assert (task["status"], task["error"]) == ("SUCCEEDED", None)
    assert task["result"]["artifact_uri"] == source.with_name("output.json").as_uri()
    artifact = Path(unquote(urlsplit(task["result"]["artifact_uri"]).path)).read_bytes()
    assert task["result"]["checksum"] == f"sha256:{hashlib.sha256(artifact).hexdigest()}"
    assert json.loads(artifact) == [{"a": 1}, {"a": 2}]


def test_failed_task_says_why(rest: Rest) -> None:
    """A task that fails is FAILED, with its error as `CODE: message` and no result."""
    task = rest.ended(rest.submit("fail", {"code": "INPUT_NOT_FOUND", "message": 'no "such" file'}))
    assert task == task | {"status": "FAILED", "result": None, "error": 'INPUT_NOT_FOUND: no "such" file'}


def test_unknown_task_is_the_specifications_error(rest: Rest) -> None:
    """The specification's example of an error, word for word, besides the details."""
    answer = rest.http.get("/v1/tasks/task-1f7f")
    assert refused(answer, 404) == "TASK_NOT_FOUND"
    error = answer.json()["error"]
    assert {"code": error["code"], "message": error["message"]} == {
        "code": "TASK_NOT_FOUND",
        "message": "Task task-1f7f does not exist",
    }


@pytest.mark.parametrize("path", ["/v1/tasks/{}", "/v1/tasks/{}/events"])
def test_task_of_another_workspace_does_not_exist(rest: Rest, demo: Rest, path: str) -> None:
    """Another workspace's task gets the answer of one that never was."""
    task_id = rest.submit("echo", {"private": True})
    never = str(uuid.uuid4())
    theirs, nobodys = (demo.http.get(path.format(name)) for name in (task_id, never))
    assert refused(theirs, 404) == "TASK_NOT_FOUND"
    assert theirs.text.replace(task_id, never) == nobodys.text


def test_other_workspace_cannot_be_named(rest: Rest) -> None:
    """A submit that names another workspace than the token's is refused, naming the field."""
    answer = rest.http.post("/v1/tasks", json=SUBMIT | {"workspace_id": "ws-demo"})
    assert refused(answer, 403) == "WORKSPACE_MISMATCH"


@pytest.mark.parametrize(
    "body",
    [
        {"workspace_id": "ws-1234", "workspace_secret": "<secret>"},
        {"workspace_id": "ws-of-nobody", "workspace_secret": "<secret>"},
    ],
)
def test_wrong_credentials_get_401(stack: StackInfo, credentials: Credentials, body: dict[str, str]) -> None:
    """An unknown workspace and a wrong secret are one and the same answer."""
    answer = httpx.post(f"{stack.rest_url}/v1/auth/token", json=body, verify=NOBODY)
    assert refused(answer, 401) == "CREDENTIALS_INVALID"


@pytest.mark.parametrize("path", ["/v1/tasks/task-1f7f", "/v1/tasks/task-1f7f/events"])
class TestToken:
    def test_missing(self, stack: StackInfo, path: str) -> None:
        """A call without a token is told where to get one."""
        answer = httpx.get(f"{stack.rest_url}{path}", verify=NOBODY)
        assert refused(answer, 401) == "TOKEN_MISSING"
        assert "POST /v1/auth/token" in answer.text

    def test_tampered(self, stack: StackInfo, rest: Rest, path: str) -> None:
        """A token of which a single character was changed, in any of its three parts, is refused."""
        for part in range(3):
            parts = rest.token.split(".")
            parts[part] = parts[part][:10] + ("A" if parts[part][10] != "A" else "B") + parts[part][11:]
            answer = httpx.get(
                f"{stack.rest_url}{path}", headers={"authorization": f"Bearer {'.'.join(parts)}"}, verify=NOBODY
            )
            assert refused(answer, 401) == "TOKEN_INVALID"

    def test_expired(self, stack: StackInfo, credentials: Credentials, path: str) -> None:
        """A token that has expired is answered by 401, and the words tell to refresh it."""
        token = expired_token(stack, credentials)
        answer = httpx.get(f"{stack.rest_url}{path}", headers={"authorization": f"Bearer {token}"}, verify=NOBODY)
        assert refused(answer, 401) == "TOKEN_EXPIRED"
        assert "Refresh it" in answer.json()["error"]["message"]
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_quota_is_each_workspaces_own(stack: StackInfo, rest: Rest) -> None:
    """A workspace past its plan's rate gets 429 with `Retry-After`; another workspace does not notice."""
    with Rest(stack.rest_url, create(stack, "free")) as hasty:
        answers = [hasty.http.get("/v1/tasks/task-1f7f") for _ in range(60)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert limited, [answer.status_code for answer in answers]
    assert {answer.status_code for answer in answers} == {404, 429}
    for answer in limited:
        assert refused(answer, 429) == "RATE_LIMITED"
        assert int(answer.headers["retry-after"]) >= 1
    assert rest.http.get("/v1/tasks/task-1f7f").status_code == 404


def test_repeated_submit_is_one_task(rest: Rest) -> None:
    """The same request with the same request_id gets the first answer; a different one is refused."""
    request = {"type": "nobody_takes_this", "payload": {"a": 1}, "request_id": str(uuid.uuid4())}
    first, second = (rest.http.post("/v1/tasks", json=request) for _ in range(2))
    assert first.json() == second.json()
    other = rest.http.post("/v1/tasks", json=request | {"payload": {"a": 2}})
    assert refused(other, 409) == "REQUEST_ID_REUSED"
