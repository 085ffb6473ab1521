"""Which headers reach the server: nothing that a caller sends may spoil a connection that all callers share."""

import asyncio
from collections.abc import Mapping

import httpx
import pytest
from support.gateway import Gateway
from support.http2 import Http2

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="session")

GET_TASK = "/openmcp.chain.v1.TaskService/GetTask"
EVENTS = "/openmcp.chain.v1.TaskService/StreamTaskEvents"
SIGN_IN = "/openmcp.chain.v1.AuthService/Authenticate"
WORK = "/openmcp.chain.v1.WorkerService/Work"
PENDING = tasks_pb2.GetTaskRequest(task_id="pending")
FRAME = b"\0" + len(PENDING.SerializeToString()).to_bytes(4, "big") + PENDING.SerializeToString()
PASSED = {"authorization", "content-length", "last-event-id", "traceparent", "x-forwarded-proto", "x-request-id"}
PARSED_BY_GRPC = (
    "endpoint-load-metrics-bin",
    "grpc-accept-encoding",
    "grpc-internal-encoding-request",
    "grpc-message",
    "grpc-previous-rpc-attempts",
    "grpc-retry-pushback-ms",
    "grpc-server-stats-bin",
    "grpc-status",
    "grpc-status-details-bin",
    "grpc-tags-bin",
    "grpc-trace-bin",
    "host",
    "lb-cost-bin",
    "lb-token",
    "te",
    "tracestate",
    "user-agent",
    "x-any-bin",
    "x-envoy-peer-metadata",
    "x-forwarded-for",
    "x-forwarded-proto",
)
"""What gRPC's core looks into (src/core/call/metadata_batch.h), and what others may."""
REFUSED = [
    *(("grpc-timeout", value) for value in ("zz", "", "1", "S", "-1S", "1s", "1 S", "1S,2S", "123456789S", "1.5S")),
    *(("grpc-encoding", value) for value in ("zz", "", "gzip", "deflate", "identity, gzip", "snappy")),
]


def headers_of(gateway: Gateway, name: str, value: str, content_type: str = "application/grpc") -> dict[str, str]:
    return {
        "content-type": content_type,
        "te": "trailers",
        "authorization": f"Bearer {gateway.upstream.key.token()}",
        name: value,
    }


async def post(gateway: Gateway, path: str, headers: Mapping[str, str]) -> httpx.Response:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return await gateway.anonymous.post(path, content=FRAME, headers=raw)


async def all_is_well(gateway: Gateway) -> None:
    """Calls of another caller's, with the headers that gRPC's own clients send."""
    stub = tasks_pb2_grpc.TaskServiceStub(gateway.channel)
    assert (await stub.GetTask(PENDING, metadata=gateway.bearer, timeout=10)).task_id == "pending"
    for seconds in (7, 8):
        request = tasks_pb2.StreamTaskEventsRequest(task_id="x")
        events = stub.StreamTaskEvents(request, metadata=gateway.bearer, timeout=seconds)
        assert [event.sequence async for event in events] == [1, 2, 3]
    assert (await gateway.rest.get("/v1/tasks/pending")).status_code == 200


@pytest.mark.parametrize("name", PARSED_BY_GRPC)
async def test_others_are_dropped(gateway: Gateway, name: str) -> None:
    """A header that the server has no use for doesn't reach it, so that what is in it can't be a fault."""
    for content_type in ("application/grpc", "application/grpc-web+proto"):
        for path in (GET_TASK, EVENTS, SIGN_IN):
            answer = await post(gateway, path, headers_of(gateway, name, "zz", content_type))
            assert answer.headers.get("grpc-status", "0") == "0"
            seen = gateway.upstream.auth.metadata if path == SIGN_IN else gateway.upstream.tasks.metadata
            assert set(seen) <= PASSED
    answer = await gateway.rest.get("/v1/tasks/pending", headers={name: "zz"})
    assert answer.status_code == 200
    assert set(gateway.upstream.tasks.metadata) <= PASSED | {"x-envoy-original-method", "x-envoy-original-path"}
    await all_is_well(gateway)


@pytest.mark.parametrize(("name", "value"), REFUSED)
async def test_malformed_ones_are_refused(gateway: Gateway, name: str, value: str) -> None:
    """A deadline or compression that gRPC does not know is refused by name, before the server sees it.

    But for a unary call's deadline: Envoy puts its own in place of it.
    """
    unary = (GET_TASK, SIGN_IN, "/grpc.health.v1.Health/Check")
    for path in (EVENTS, WORK) if name == "grpc-timeout" else (EVENTS, WORK, *unary):
        answer = await post(gateway, path, headers_of(gateway, name, value))
        assert answer.headers["grpc-status"] == "3"
        assert answer.headers["grpc-message"].startswith(f"{name}: must be ")
    await all_is_well(gateway)


@pytest.mark.parametrize("value", ["1H", "99999999H", "60M", "1S", "900m", "99999999n", "00000001S"])
async def test_deadlines_of_every_form(gateway: Gateway, value: str) -> None:
    """Whatever the grammar of gRPC over HTTP/2 allows as a deadline is passed on."""
    for path in (GET_TASK, EVENTS):
        answer = await post(gateway, path, headers_of(gateway, "grpc-timeout", value))
        assert answer.headers.get("grpc-status", "0") in ("0", "4")
    await all_is_well(gateway)


async def test_rest_has_no_deadline_or_compression(gateway: Gateway) -> None:
    """To REST these headers mean nothing: neither their contents nor their faults have an effect."""
    for name, value in (("grpc-timeout", "1n"), *REFUSED):
        assert (await gateway.rest.get("/v1/tasks/pending", headers={name: value})).status_code == 200


@pytest.mark.parametrize("name", ["authorization", "last-event-id", "traceparent", "x-any", "cookie"])
@pytest.mark.parametrize("value", ["\xff\xfe", "Bearer \xe9"])
async def test_headers_are_ascii(gateway: Gateway, name: str, value: str) -> None:
    """Bytes beyond ASCII are refused in any header that could go on: gRPC would log the header whole."""
    for path in (GET_TASK, SIGN_IN):
        answer = await post(gateway, path, headers_of(gateway, name, value))
        assert answer.headers["grpc-status"] == "3"
        assert "not well-formed" in answer.headers["grpc-message"]
    answer = await gateway.rest.get("/v1/tasks/pending", headers={name.encode(): value.encode("latin-1")})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "MALFORMED_REQUEST")


@pytest.mark.parametrize("name", ["traceparent", "last-event-id", "host", "grpc-timeout", "grpc-encoding"])
async def test_a_header_that_counts_comes_once(gateway: Gateway, name: str) -> None:
    """Two of a kind, which two readers could choose between differently, are refused."""
    url = gateway.rest.base_url
    headers = [*headers_of(gateway, name, "1S").items(), (name, "2S")]
    if name != "host":
        headers.append(("host", "x"))
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"POST {EVENTS} HTTP/1.1\r\n{lines}connection: close\r\ncontent-length: 0\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert b"\r\ngrpc-status: 3\r\n" in answer


@pytest.mark.parametrize(
    "changed",
    [
        {"te": None},
        {":scheme": "ftp"},
        {":authority": "any.example:1"},
        {"grpc-accept-encoding": "zz"},
        {"user-agent": ""},
        {"cookie": "a=b"},
    ],
)
async def test_http2_as_nobody_sends_it(gateway: Gateway, changed: Mapping[str, str | None]) -> None:
    """A gRPC call that lacks `te`, or has another scheme or authority, is served; no other call has harm of it."""
    fields: dict[str, str | None] = {":method": "POST", ":scheme": "http", ":path": GET_TASK, ":authority": "x"}
    fields = {**fields, **headers_of(gateway, "grpc-timeout", "5S"), **changed}
    url = gateway.rest.base_url
    async with Http2(url.host, url.port or 0) as connection:
        answer = await connection.call([(name, value) for name, value in fields.items() if value is not None], FRAME)
    assert answer is not None
    assert b"pending" in answer
    await all_is_well(gateway)


@pytest.mark.parametrize("path", [GET_TASK, SIGN_IN, WORK])
async def test_trailers_are_dropped(gateway: Gateway, path: str) -> None:
    """No call of ours has trailers; what a caller puts there never reaches the server."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    fields |= headers_of(gateway, "accept", "x")
    trailers = [("grpc-timeout", "zz"), ("grpc-encoding", "zz"), ("grpc-status", "zz"), ("x-bin", "!"), ("x", "\xff")]
    url = gateway.rest.base_url
    async with Http2(url.host, url.port or 0) as connection:
        answer = await connection.call(list(fields.items()), FRAME if path != WORK else b"", trailers)
    assert answer is not None
    assert answer or path == WORK
    await all_is_well(gateway)


@pytest.mark.parametrize(
    "content_type",
    ["application/grpcx", "application/grpc; foo", "application/grpc+json", "application/grpc-web+json"],
)
async def test_almost_grpc(gateway: Gateway, content_type: str) -> None:
    """What merely begins like gRPC's media type is neither gRPC nor JSON: 415, or as much in gRPC's own form."""
    for path in ("/v1/tasks", "/v1/auth/token", GET_TASK, "/nowhere"):
        answer = await gateway.rest.post(path, content=FRAME, headers={"content-type": content_type})
        if content_type == "application/grpc+json":
            assert answer.headers["grpc-status"] == "3"
            assert answer.headers["grpc-message"].startswith("content-type: must be application/grpc")
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc-web"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_a_post_can_be_grpc(gateway: Gateway, method: str, content_type: str) -> None:
    """Any other method with gRPC's media type is refused as REST refuses, on every path, before the server sees it."""
    for path in ("/v1/tasks/pending", "/v1/tasks", "/.well-known/jwks.json", GET_TASK, "/nowhere"):
        gateway.upstream.tasks.metadata = {}
        answer = await gateway.rest.request(method, path, headers={"content-type": content_type})
        assert (answer.status_code, answer.headers["content-type"]) == (415, "application/json")
        assert not [name for name in answer.headers if name.startswith(("grpc-", "x-openmcp"))]
        if method != "HEAD":
            assert answer.json()["error"]["code"] == "UNSUPPORTED_MEDIA_TYPE"
        assert gateway.upstream.tasks.metadata == {}


@pytest.mark.parametrize(("flag", "encoding"), [(1, None), (1, "identity")])
async def test_bad_compression(gateway: Gateway, flag: int, encoding: str | None) -> None:
    """A message that is not compressed as its call says is the caller's fault, and told so."""
    headers = headers_of(gateway, "accept", "x") | ({"grpc-encoding": encoding} if encoding else {})
    answer = await gateway.anonymous.post(GET_TASK, content=bytes((flag,)) + FRAME[1:], headers=headers)
    assert answer.headers["grpc-status"] == "3"
    assert answer.headers["grpc-message"].startswith("request: is not compressed")
