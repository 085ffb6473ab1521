"""Headers by which a caller would be somebody else, or write into what others read: through Envoy and at the server."""

import pytest
from contract.rawhttp import Connection, exchange
from security.conftest import Caller, People
from support.doors import OK, Grpc, Rest, bearer
from support.stack import StackInfo

from openmcp.chain.v1 import tasks_pb2

GET = "/openmcp.chain.v1.TaskService/GetTask"
SUBMIT = "/openmcp.chain.v1.TaskService/SubmitTask"
IDENTITIES = [
    "x-workspace-id",
    "X-Workspace-Id",
    "x-workspace",
    "workspace-id",
    "x-openmcp-workspace",
    "x-user",
    "x-forwarded-user",
    "x-auth-request-user",
    "x-jwt-payload",
    "x-jwt-claim-workspace-id",
    "x-scope",
    "x-plan",
    "x-envoy-original-path",
    "x-envoy-original-method",
    "x-envoy-internal",
    "x-forwarded-for",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "forwarded",
    "remote-user",
]
UNDERSCORED = ["x_workspace_id", "workspace_id", "X_Workspace_Id", "authorization_"]


@pytest.fixture(scope="module")
def owned(native: Grpc, people: People) -> str:
    return str(native.ask(SUBMIT, people.owner.token, type="headers").body["task_id"])


def forgeries(name: str, owner: Caller) -> list[list[tuple[str, str]]]:
    once = [[(name, value)] for value in (owner.workspace_id, owner.token, "127.0.0.1")]
    return [*once, once[0] * 2]


@pytest.mark.parametrize("name", IDENTITIES)
def test_no_header_makes_somebody_else(stack: StackInfo, native: Grpc, people: People, owned: str, name: str) -> None:
    """Whatever a header says, in whatever case, once or twice: who calls is who the token says, on both ways."""
    for forged in forgeries(name, people.owner):
        answer = exchange(stack.rest_url, "GET", f"/v1/tasks/{owned}", [*bearer(people.stranger.token), *forged])
        assert answer.status == 404
        assert exchange(stack.rest_url, "GET", f"/v1/tasks/{owned}", forged).status == 401
        by_grpc = [(name.lower(), value) for name, value in forged]
        asked = native.call(GET, _get(owned), headers=[*bearer(people.stranger.token), *by_grpc])
        assert asked.code == "TASK_NOT_FOUND"
        assert native.call(GET, _get(owned), headers=by_grpc).code == "TOKEN_MISSING"


@pytest.mark.parametrize("name", UNDERSCORED)
def test_underscores(stack: StackInfo, native: Grpc, people: People, owned: str, name: str) -> None:
    """Envoy refuses a header that some would read as another; to the server itself it is nothing."""
    forged = [(name, people.owner.workspace_id)]
    answer = exchange(stack.rest_url, "GET", f"/v1/tasks/{owned}", [*bearer(people.stranger.token), *forged])
    assert answer.status == 400
    by_grpc = [(name.lower(), people.owner.workspace_id)]
    asked = native.call(GET, _get(owned), headers=[*bearer(people.stranger.token), *by_grpc])
    assert asked.code == "TASK_NOT_FOUND"


@pytest.mark.parametrize("binary", ["x-workspace-id-bin", "authorization-bin"])
def test_binary_metadata(native: Grpc, people: People, owned: str, binary: str) -> None:
    """Nor does binary metadata count, which only gRPC has."""
    forged: list[tuple[str, bytes]] = [(binary, f"Bearer {people.owner.token}".encode())]
    asked = native.call(GET, _get(owned), headers=[*bearer(people.stranger.token), *forged])  # type: ignore[list-item]
    assert asked.code == "TASK_NOT_FOUND"
    assert native.call(GET, _get(owned), headers=forged).code == "TOKEN_MISSING"  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["/v1/tasks/a%0d%0aX-Injected:%20yes", "/v1/tasks/a%0aset-cookie:%20x=y", "/%0d%0a"])
def test_line_breaks_in_the_path(rest: Rest, people: People, target: str) -> None:
    """An escaped line break stays escaped: no answer has a header that the caller wrote."""
    answer = rest.http.get(target, headers=dict(bearer(people.owner.token)))
    assert answer.status_code in (400, 404)
    assert "x-injected" not in answer.headers
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("name", ["x-request-id", "traceparent", "last-event-id", "user-agent", "origin", "accept"])
@pytest.mark.parametrize(
    "text", ["a\r\nx-injected: yes", "a\nx-injected: yes", "a\rx-injected: yes", "a\0b", "a\x1b[31m"]
)
def test_line_breaks_in_headers(stack: StackInfo, people: People, name: str, text: str) -> None:
    """A header's value ends where its line does; what else would end a line in some reader is refused."""
    with Connection(stack.rest_url) as connection:
        lines = ["GET /v1/tasks/x HTTP/1.1", f"host: {connection.host}", f"authorization: Bearer {people.owner.token}"]
        lines += [f"{name}: {text}", "connection: close", "", ""]
        connection.send("\r\n".join(lines).encode("latin-1"))
        answer = connection.answer()
    if answer is not None:
        assert answer.status in (400, 404)
        assert "x-injected" not in answer.headers
        assert "\x1b" not in repr(answer.headers.values())


def test_two_lengths_are_one_request_too_many(stack: StackInfo, people: People, owned: str) -> None:
    """Request smuggling: a request that ends in two places is refused, and nothing behind it is answered."""
    hidden = f"GET /v1/tasks/{owned} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {people.owner.token}\r\n\r\n"
    framings = [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "content-length: 0\r\ncontent-length: 4",
        "content-length: 0, 4",
        "transfer-encoding: xchunked",
        "transfer-encoding : chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "content-length: +4",
        "content-length: 0x4",
    ]
    for framing in framings:
        with Connection(stack.rest_url) as connection:
            head = f"POST /v1/auth/token HTTP/1.1\r\nhost: {connection.host}\r\ncontent-type: application/json\r\n"
            connection.send(f"{head}{framing}\r\n\r\n0\r\n\r\n{hidden}".encode())
            connection.half_close()
            everything = connection.until_closed()
        assert owned.encode() not in everything, framing


def test_what_a_caller_calls_its_request(rest: Rest, people: People) -> None:
    """A request id from outside is not taken over into what others read: Envoy gives one of its own."""
    for value in ("x" * 500, "forged-id", "../../etc"):
        answer = rest.http.get("/v1/tasks/x", headers=[*bearer(people.owner.token), ("x-request-id", value)])
        assert answer.headers["x-request-id"] != value


def test_the_owner_is_still_served(rest: Rest, people: People, owned: str) -> None:
    """After all of it."""
    assert rest.call(GET, _get(owned), headers=bearer(people.owner.token)).code == OK


def _get(task_id: str) -> tasks_pb2.GetTaskRequest:
    return tasks_pb2.GetTaskRequest(task_id=task_id)
