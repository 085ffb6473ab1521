"""gRPC and gRPC-Web through the port that REST has."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.gateway import BODY_LIMIT, Gateway, running
from support.http2 import Http2
from support.service import PATIENCE

from openmcp.chain.v1 import (
    auth_pb2,
    auth_pb2_grpc,
    errors_pb2,
    rest_pb2,
    rest_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
    workers_pb2,
    workers_pb2_grpc,
)
from openmcp_chain.stack.envoy import cors, routes

pytestmark = pytest.mark.asyncio(loop_scope="session")

GET_TASK = "/openmcp.chain.v1.TaskService/GetTask"


def details_of(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """The codes in Error and ErrorInfo, once the status and its details agree."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
    ours, info = errors_pb2.Error(), error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(ours)
    assert status.details[1].Unpack(info)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    assert (ours.message, info.domain) == (error.details(), "openmcp.chain")
    return ours.code, info.reason


async def call(gateway: Gateway, path: str, *, metadata: tuple[tuple[str, str], ...] = ()) -> bytes:
    """Sends an empty message to any path."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = gateway.channel.unary_unary(path)
    return await method(b"", metadata=metadata)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


async def test_unary(gateway: Gateway) -> None:
    """A call passes unchanged: gRPC keeps the enum's full names and an empty error."""
    stub = tasks_pb2_grpc.TaskServiceStub(gateway.channel)
    detail = await stub.GetTask(tasks_pb2.GetTaskRequest(task_id="pending"), metadata=gateway.bearer)
    assert (detail.task_id, detail.status, detail.error) == ("pending", tasks_pb2.TASK_STATUS_RUNNING, "")


async def test_streams(gateway: Gateway) -> None:
    """Server streams and bidirectional ones pass."""
    stub = tasks_pb2_grpc.TaskServiceStub(gateway.channel)
    events = stub.StreamTaskEvents(tasks_pb2.StreamTaskEventsRequest(task_id="x"), metadata=gateway.bearer)
    assert [event.sequence async for event in events] == [1, 2, 3]

    async def heartbeats() -> AsyncIterator[workers_pb2.WorkRequest]:
        for task in ("a", "b"):
            yield workers_pb2.WorkRequest(heartbeat=workers_pb2.Heartbeat(lease=workers_pb2.LeaseRef(task_id=task)))

    acks = workers_pb2_grpc.WorkerServiceStub(gateway.channel).Work(heartbeats(), metadata=gateway.bearer)
    assert [answer.ack.lease.task_id async for answer in acks] == ["a", "b"]


async def test_open_methods(gateway: Gateway) -> None:
    """Signing in and the health check need no token."""
    token = await auth_pb2_grpc.AuthServiceStub(gateway.channel).Authenticate(auth_pb2.AuthRequest())
    assert token.token
    answer = await health_pb2_grpc.HealthStub(gateway.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "path",
    [
        GET_TASK,
        "/openmcp.chain.v1.WorkerService/Work",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/no.such.Service/Method",
        "/v1/auth/token",
        "/v1/tasks",
    ],
)
async def test_all_others_need_a_token(gateway: Gateway, path: str) -> None:
    """Without a token any other method is UNAUTHENTICATED, with the contract's details."""
    error = await failure(call(gateway, path))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert details_of(error) == ("TOKEN_MISSING", "TOKEN_MISSING")
    assert "Bearer <token>" in (error.details() or "")


async def test_streams_that_nobody_counts_end(gateway: Gateway) -> None:
    """A watch of the health is no workspace's stream, and does not hear of its token's end: it has a call's time."""
    health = health_pb2_grpc.HealthStub(gateway.channel)
    watch: Any = health.Watch(health_pb2.HealthCheckRequest(), metadata=gateway.bearer)
    async with asyncio.timeout(PATIENCE):
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await failure(watch.read())  # ended by the gateway, or by the server at the time that the gateway gave it


async def test_an_expired_token(gateway: Gateway) -> None:
    """It says to refresh."""
    expired = (("authorization", f"Bearer {gateway.upstream.key.token(exp=1000)}"),)
    error = await failure(call(gateway, GET_TASK, metadata=expired))
    assert details_of(error) == ("TOKEN_EXPIRED", "TOKEN_EXPIRED")
    assert "Refresh" in (error.details() or "")


@pytest.mark.parametrize(("count", "size"), [(1, 9_000), (1, 17_000), (1, 60_000), (4, 60_000), (1_100, 1), (4_900, 1)])
async def test_metadata_too_large(gateway: Gateway, count: int, size: int) -> None:
    """Metadata over the limit is an error with the contract's details; a stream on the same connection goes on."""
    rest = rest_pb2_grpc.RestServiceStub(gateway.channel)
    stream: Any = rest.ServeTaskEvents(rest_pb2.ServeTaskEventsRequest(task_id="x"), metadata=gateway.bearer)
    await stream.read()
    large = (*gateway.bearer, *((f"x-large-{number}", "a" * size) for number in range(count)))
    error = await failure(call(gateway, GET_TASK, metadata=large))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(error) == ("REQUEST_TOO_LARGE", "REQUEST_TOO_LARGE")
    gateway.upstream.rest.more.set()
    assert (await stream.read()).data.endswith(b"data: last\n\n")
    gateway.upstream.rest.more.clear()


@pytest.mark.parametrize(
    ("path", "size", "field"),
    [
        ("/openmcp.chain.v1.TaskService/SubmitTask", BODY_LIMIT, "payload"),
        (GET_TASK, BODY_LIMIT, "request"),
        ("/openmcp.chain.v1.TaskService/StreamTaskEvents", BODY_LIMIT, "request"),
        ("/openmcp.chain.v1.AuthService/Authenticate", routes.SMALL_BYTES, "request"),
        ("/grpc.health.v1.Health/Check", routes.SMALL_BYTES, "request"),
    ],
)
async def test_message_too_large(gateway: Gateway, path: str, size: int, field: str) -> None:
    """A message over the limit is refused by Envoy, in the contract's words, with the field that is too large."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = gateway.channel.unary_unary(path)
    error = await failure(method(bytes(size + 1), metadata=gateway.bearer))
    assert details_of(error) == ("REQUEST_TOO_LARGE", "REQUEST_TOO_LARGE")
    assert (error.details() or "").startswith(f"{field}: the request is too large; at most {size} bytes")
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # is no message, but is read
        await method(b"\xff" * size, metadata=gateway.bearer)
    assert "REQUEST_TOO_LARGE" not in str(caught.value.trailing_metadata())


async def test_unfinished_requests_stay_at_envoy(gateway: Gateway) -> None:
    """Until a request is complete, the server hears nothing of it; when it is too large already, it is refused."""
    url = gateway.rest.base_url
    fields = [
        *((":method", "POST"), (":scheme", "http"), (":path", "/openmcp.chain.v1.AuthService/Authenticate")),
        *((":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers")),
    ]
    gateway.upstream.auth.metadata = {}
    async with Http2(url.host, url.port or 0) as connection:
        for _ in range(20):
            connection.begin(fields, b"\0" + (50_000).to_bytes(4, "big") + bytes(2000))
        reader, writer = await asyncio.open_connection(url.host, url.port)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields if name[0] != ":")
        head = f"POST /openmcp.chain.v1.AuthService/Authenticate HTTP/1.1\r\nhost: x\r\n{lines}content-length: 100000"
        writer.write(f"{head}\r\n\r\n".encode() + b"\0" + (99_995).to_bytes(4, "big") + bytes(80_000))
        assert b"\r\ngrpc-status: 3\r\n" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.close()
    assert gateway.upstream.auth.metadata == {}


async def test_too_long(gateway: Gateway) -> None:
    """A call that Envoy gives up is DEADLINE_EXCEEDED, in the contract's words."""
    stub = tasks_pb2_grpc.TaskServiceStub(gateway.channel)
    error = await failure(stub.GetTask(tasks_pb2.GetTaskRequest(task_id="silent"), metadata=gateway.bearer))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert details_of(error) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")


@pytest.mark.parametrize(("deadline", "longest"), [(0.7, 0.9), (60, 1.1), (None, 1.1)])
async def test_the_sooner_deadline_counts(gateway: Gateway, deadline: float | None, longest: float) -> None:
    """The server is told of the caller's deadline or of Envoy's (1 s), whichever comes first; gRPC rounds up."""
    stub = tasks_pb2_grpc.TaskServiceStub(gateway.channel)
    request = tasks_pb2.GetTaskRequest(task_id="deadline")
    detail = await stub.GetTask(request, metadata=gateway.bearer, timeout=deadline)
    assert 0 < float(detail.error) <= longest


async def test_a_servers_error_passes(gateway: Gateway) -> None:
    """Status, message and details of the server's are untouched."""
    stub = tasks_pb2_grpc.TaskServiceStub(gateway.channel)
    error = await failure(stub.GetTask(tasks_pb2.GetTaskRequest(task_id="missing"), metadata=gateway.bearer))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert details_of(error) == ("TASK_NOT_FOUND", "TASK_NOT_FOUND")


@pytest.mark.parametrize(
    ("bare", "code"), [(2, "INTERNAL"), (4, "DEADLINE_EXCEEDED"), (8, "REQUEST_TOO_LARGE"), (13, "INTERNAL")]
)
async def test_a_bare_status_gets_our_words(gateway: Gateway, bare: int, code: str) -> None:
    """A status without our details came out of gRPC itself: its text, which may hold anything, is not passed on."""
    stub = tasks_pb2_grpc.TaskServiceStub(gateway.channel)
    error = await failure(stub.GetTask(tasks_pb2.GetTaskRequest(task_id=f"bare_{bare}"), metadata=gateway.bearer))
    assert details_of(error) == (code, code)
    assert "S3CRET" not in str(error)


@pytest.mark.parametrize("text", [False, True])
async def test_grpc_web(gateway: Gateway, text: bool) -> None:
    """gRPC-Web gets the message, then the trailers, in the body, binary or as base64."""
    body = framed(tasks_pb2.GetTaskRequest(task_id="pending").SerializeToString())
    content_type = "application/grpc-web-text+proto" if text else "application/grpc-web+proto"
    answer = await gateway.rest.post(
        GET_TASK,
        content=base64.b64encode(body) if text else body,
        headers={"content-type": content_type, "accept": content_type},
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
    # Each flush is a base64 text of its own, perhaps with padding.
    content = b"".join(map(base64.b64decode, _padded(answer.content))) if text else answer.content
    size = int.from_bytes(content[1:5], "big")
    assert tasks_pb2.TaskDetail.FromString(content[5 : 5 + size]).task_id == "pending"
    assert content[5 + size] == 0x80
    assert b"grpc-status:0" in content[5 + size :]


def _padded(content: bytes) -> list[bytes]:
    return [content[at : at + 4] for at in range(0, len(content), 4)]


async def test_grpc_web_is_refused_in_its_way(gateway: Gateway) -> None:
    """A refusal of Envoy's is a gRPC-Web status with details, not JSON."""
    answer = await gateway.anonymous.post(
        GET_TASK, content=framed(b""), headers={"content-type": "application/grpc-web+proto"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/grpc-web+proto")
    assert answer.headers["grpc-status"] == "16"
    encoded = answer.headers["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    assert status.message == answer.headers["grpc-message"]
    assert answer.content == b""


APP = "https://app.example"


async def test_pages_of_sites_that_are_named_are_let_in(tmp_path: Path) -> None:
    """Preflights need no token and give leave for all that a page sends; answers and refusals can be read."""
    ask = {"origin": APP, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with running(tmp_path, origins=[APP, "http://localhost:3000"]) as gateway:
        for path in ("/v1/tasks", "/v1/tasks/x/events", GET_TASK):
            leave = await gateway.anonymous.options(path, headers=ask)
            assert (leave.status_code, leave.headers["access-control-allow-origin"]) == (200, APP)
            assert {"authorization", "x-grpc-web"} <= set(leave.headers["access-control-allow-headers"].split(", "))
            assert {"GET", "POST"} <= set(leave.headers["access-control-allow-methods"].split(", "))
            assert "access-control-allow-credentials" not in leave.headers
            stranger = await gateway.anonymous.options(path, headers=ask | {"origin": "https://elsewhere.example"})
            assert "access-control-allow-origin" not in stranger.headers
            assert (await gateway.anonymous.options(path)).status_code in (404, 405)
        body = framed(tasks_pb2.GetTaskRequest(task_id="pending").SerializeToString())
        web = {"origin": APP, "content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
        answers = [
            await gateway.rest.post(GET_TASK, content=body, headers=web),
            await gateway.anonymous.post(GET_TASK, content=body, headers=web),
            await gateway.rest.get("/v1/tasks/pending", headers={"origin": APP}),
            await gateway.rest.get("/v1/tasks/missing", headers={"origin": APP}),
            await gateway.anonymous.get("/v1/tasks/pending", headers={"origin": APP}),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 401]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == APP
            assert "grpc-status-details-bin" in answer.headers["access-control-expose-headers"].split(", ")


@pytest.mark.parametrize("text", ["*", "app.example", "https://app.example/", "https://App.example", "ftp://x", "null"])
async def test_an_origin_is_exact(text: str) -> None:
    """What no browser would send as an origin is refused, rather than let in nobody."""
    with pytest.raises(ValueError, match="OPENMCP_CORS_ORIGINS"):
        cors.from_environment({"OPENMCP_CORS_ORIGINS": f"{APP}, {text}"})
    assert cors.from_environment({"OPENMCP_CORS_ORIGINS": f" {APP}, http://localhost:3000"}) == [
        APP,
        "http://localhost:3000",
    ]
    assert cors.from_environment({}) == []


async def test_no_other_site_is_let_in(gateway: Gateway) -> None:
    """A browser's preflight from another origin gets no permission: CORS is closed unless origins are named."""
    origin = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    for path in ("/v1/tasks", GET_TASK):
        answer = await gateway.anonymous.options(path, headers=origin)
        assert answer.status_code in (404, 405)
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_json_to_a_grpc_path(gateway: Gateway) -> None:
    """A gRPC path has no REST of its own."""
    answer = await gateway.rest.post(GET_TASK, json={"task_id": "pending"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ROUTE_NOT_FOUND")
