"""What no HTTP client sends, on Envoy's port and the server's own: bytes that are no request, or never become one."""

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from contract.errorshape import rest_error
from contract.rawhttp import SECONDS, Connection, request
from support.rest import Rest
from support.stack import StackInfo

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
SEEDS = range(20)


@pytest.fixture(autouse=True)
def healthy(rest: Rest, stack: StackInfo) -> Iterator[None]:
    """After each test, the service answers as if nothing had been, by the same processes."""
    before = stack.pids
    yield
    assert rest.ended(rest.submit("echo", {"still": "here"}))["result"] == {"still": "here"}
    assert stack.pids == before


@pytest.fixture
def good(rest: Rest) -> bytes:
    """A whole, valid request."""
    headers = [("authorization", f"Bearer {rest.token}"), ("content-type", "application/json")]
    return request("x", "POST", "/v1/tasks", headers, b'{"type":"nobody_takes_this","payload":{"a":[1,2,3]}}')


def test_truncated_requests(stack: StackInfo, good: bytes) -> None:
    """A request that breaks off anywhere gets an error or silence, never a success, and never holds anything up."""
    for at in range(0, len(good), 37):
        with Connection(stack.rest_url) as connection:
            connection.send(good[:at])
            connection.half_close()
            answer = connection.answer("POST")
            if answer is not None:
                assert 400 <= answer.status < 500, answer
                rest_error(answer.status, answer.headers["content-type"], answer.body)


def test_requests_in_bytes(stack: StackInfo, good: bytes) -> None:
    """A request that comes byte by byte is as good as any."""
    with Connection(stack.rest_url) as connection:
        for at in range(len(good)):
            connection.send(good[at : at + 1])
        answer = connection.answer("POST")
    assert answer
    assert answer.status == 200, answer


def test_slow_requests_hold_up_nobody(stack: StackInfo, rest: Rest, good: bytes) -> None:
    """Two hundred clients that have begun a request and send no more: others are served at once."""
    with ExitStack() as stalled:
        for number in range(200):
            stalled.enter_context(Connection(stack.rest_url)).send(good[: 20 + number])
        for _ in range(5):
            assert rest.http.get("/v1/tasks/task-1f7f", timeout=SECONDS).status_code == 404


def test_headers_that_never_end(stack: StackInfo) -> None:
    """A client that sends headers without end is cut off, with 431 if it still listens."""
    with Connection(stack.rest_url) as connection:
        connection.send(b"GET /v1/tasks/x HTTP/1.1\r\nhost: x\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(60_000)))
        answer = connection.answer()
    if answer is not None:
        assert answer.status == 431
        rest_error(answer.status, answer.headers["content-type"], answer.body)


BAD = {
    "no version": b"GET /\r\n\r\n",
    "HTTP/0.9": b"GET /v1/tasks/x\r\n",
    "HTTP/3.7": b"GET / HTTP/3.7\r\nhost: x\r\n\r\n",
    "two lengths": b"POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "length and chunks": b"POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"POST /v1/tasks HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "other coding": b"GET /v1/tasks/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
    "space before colon": b"GET /v1/tasks/x HTTP/1.1\r\nhost : x\r\n\r\n",
    "folded header": b"GET /v1/tasks/x HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n",
    "bare line feeds": b"GET /v1/tasks/x HTTP/1.1\nhost: x\n\n",
    "NUL in a header": b"GET /v1/tasks/x HTTP/1.1\r\nhost: x\r\na: \0\r\n\r\n",
    "no host": b"GET /v1/tasks/x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/tasks/x HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "absolute target": b"GET http://y/v1/tasks/x HTTP/1.1\r\nhost: x\r\n\r\n",
    "target without slash": b"GET v1 HTTP/1.1\r\nhost: x\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
}


@pytest.mark.parametrize("name", BAD)
def test_requests_that_are_none(stack: StackInfo, name: str) -> None:
    """Malformed HTTP/1.1 gets a 4xx in the one shape, or the connection is closed."""
    with Connection(stack.rest_url) as connection:
        connection.send(BAD[name])
        connection.half_close()
        answer = connection.answer()
    if answer is not None:
        assert 400 <= answer.status < 500, answer
        assert answer.status == 404 or answer.body, answer
        rest_error(answer.status, answer.headers["content-type"], answer.body)


@pytest.mark.parametrize("port", ["rest", "grpc"])
def test_garbage(stack: StackInfo, port: str) -> None:
    """Random bytes, alone or behind HTTP/2's preface: the connection ends, and that is all."""
    target = stack.envoy_grpc_target if port == "rest" else stack.grpc_target
    for seed in SEEDS:
        chance = random.Random(seed)  # noqa: S311 - a seed to repeat it by
        opening = (b"", PREFACE, PREFACE + SETTINGS)[seed % 3]
        with Connection(f"http://{target}") as connection:
            connection.send(opening + chance.randbytes(chance.randrange(1, 4000)))
            connection.half_close()
            answer = connection.until_closed()
        assert not answer.startswith(b"HTTP/1.1 5"), (seed, answer)


@pytest.mark.parametrize("port", ["rest", "grpc"])
def test_connections_that_say_nothing(stack: StackInfo, rest: Rest, port: str) -> None:
    """Three hundred silent connections, then cut without a word: nobody notices."""
    host, _, number = (stack.envoy_grpc_target if port == "rest" else stack.grpc_target).partition(":")
    with ExitStack() as silent:
        for _ in range(300):
            silent.enter_context(socket.create_connection((host, int(number)), SECONDS))
        assert rest.http.get("/v1/tasks/task-1f7f", timeout=SECONDS).status_code == 404


def test_body_that_never_comes(stack: StackInfo, rest: Rest) -> None:
    """A request whose body stays away is given up with its connection; nothing of it is kept."""
    headers = [("authorization", f"Bearer {rest.token}"), ("content-type", "application/json")]
    headers.append(("content-length", "1000000"))
    for _ in range(50):
        with Connection(stack.rest_url) as connection:
            connection.send(request(connection.host, "POST", "/v1/tasks", headers) + b'{"type":"echo",')
