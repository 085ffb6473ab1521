"""API8:2023 Security Misconfiguration: headers, origins, HTTP's other methods, banners, words about the inside."""

import re
import socket

import httpx
import pytest
from contract.rawhttp import exchange
from security.conftest import People
from support.doors import Grpc, Rest, bearer
from support.plain import NOBODY
from support.stack import StackInfo

INSIDE = re.compile(
    r"traceback|exception|\.py\b|/openmcp_chain|site-packages|mongodb|pymongo|motor|grpcio?\.|envoy|uvloop|python|"
    r"127\.0\.0\.1|localhost|\bat 0x|stack trace|secantus",
    re.IGNORECASE,
)
BANNERS = ("server", "x-powered-by", "via", "x-envoy-upstream-service-time", "x-envoy-decorator-operation", "x-runtime")
TARGETS = [
    ("GET", "/v1/tasks/x", 404),
    ("GET", "/v1/tasks", 200),
    ("GET", "/nowhere", 404),
    ("PUT", "/v1/tasks", 405),
    ("POST", "/v1/tasks", 400),
    ("POST", "/v1/auth/token", 400),
    ("GET", "/.well-known/jwks.json", 200),
]


@pytest.mark.parametrize(("verb", "target", "status"), TARGETS)
def test_headers_of_every_answer(rest: Rest, people: People, verb: str, target: str, status: int) -> None:
    """No answer says what made it; none is kept by a cache, nor taken for another type than it says."""
    answer = rest.http.request(
        verb, target, headers=[*bearer(people.owner.token), ("content-type", "application/json")]
    )
    assert answer.status_code == status
    assert not [name for name in BANNERS if name in answer.headers]
    assert not [name for name in answer.headers if name.startswith(("x-envoy-", "grpc-"))]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert not INSIDE.search(answer.text.replace("openmcp.chain", "")), answer.text


def test_a_refused_token_is_not_kept(rest: Rest) -> None:
    """Nor is a refusal kept, which a good token would get next."""
    answer = rest.http.get("/v1/tasks/x")
    assert (answer.status_code, answer.headers["cache-control"]) == (401, "no-store")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1", "https://a\tb"])
def test_no_other_origin(rest: Rest, people: People, origin: str) -> None:
    """A browser's page of another origin is let in by no answer, and a preflight is refused."""
    headers = [("origin", origin), ("access-control-request-method", "POST"), *bearer(people.owner.token)]
    for verb, target in (("OPTIONS", "/v1/tasks"), ("GET", "/v1/tasks"), ("GET", "/v1/tasks/x"), ("OPTIONS", "/x")):
        answer = rest.http.request(verb, target, headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert verb == "GET" or answer.status_code in (404, 405)


@pytest.mark.parametrize("verb", ["TRACE", "TRACK", "CONNECT", "DEBUG", "PROPFIND", "MKCOL", "PATCH", "DELETE", "HEAD"])
def test_other_methods(stack: StackInfo, people: People, verb: str) -> None:
    """What a path does not have is refused; nothing sends a request's own headers back."""
    for target in ("/v1/tasks", "/", "/v1/auth/token"):
        headers = [*bearer(people.owner.token), ("x-canary", "canary-value")]
        answer = exchange(stack.rest_url, verb, target if verb != "CONNECT" else "127.0.0.1:22", headers)
        assert answer.status in (400, 404, 405, 501)
        assert b"canary-value" not in answer.body
        assert people.owner.token.encode() not in answer.body


@pytest.mark.parametrize(
    "line",
    [
        "GET /v1/tasks HTTP/1.0",
        "GET http://169.254.169.254/ HTTP/1.1",
        "GET /v1/tasks HTTP/9.9",
        "PRI * HTTP/2.0",
        "\x16\x03\x01\x02\x00\x01\x00",
        "GET /v1/tasks",
        "SSH-2.0-x",
    ],
)
def test_what_is_no_request_of_ours(stack: StackInfo, line: str) -> None:
    """Other versions, other protocols, a proxy's request: refused or cut off, without a banner."""
    host, _, port = stack.rest_url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(line.encode("latin-1") + b"\r\nhost: x\r\nconnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert not re.search(rb"envoy|\r\nserver:|HTTP/1.1 200", answer, re.IGNORECASE), answer


def test_websites_of_the_inside(rest: Rest) -> None:
    """There is no page, no list of files, no documentation server, no metrics and no debugger on the public port."""
    for target in (
        "/",
        "/index.html",
        "/docs",
        "/openapi.json",
        "/swagger.json",
        "/metrics",
        "/debug/pprof",
        "/.env",
        "/.git/config",
        "/robots.txt",
        "/graphql",
        "/actuator",
        "/server-status",
        "/favicon.ico",
    ):
        assert rest.http.get(target).status_code == 404, target


def test_a_failing_call_tells_nothing_of_the_inside(native: Grpc, rest: Rest, people: People) -> None:
    """Bytes that cannot be decoded, on either way: our words, no decoder's."""
    for path in ("/openmcp.chain.v1.TaskService/SubmitTask", "/openmcp.chain.v1.WorkerService/CompleteTask"):
        for door in (native, rest.grpc):
            answer = door.send(path, [b"\xff\xff\xff"], bearer(people.owner.token))
            assert answer.code == "INVALID_ARGUMENT"
            assert not INSIDE.search(answer.message)


def test_http_goes_on_after_a_refusal(rest: Rest) -> None:
    """A refusal closes nothing that others use: the connection serves the next request."""
    with httpx.Client(base_url=str(rest.http.base_url), trust_env=False, verify=NOBODY) as client:
        assert [client.get("/nowhere").status_code for _ in range(3)] == [404] * 3
        assert client.get("/healthz").status_code == 200
