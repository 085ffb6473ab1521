"""Envoy at the edge: what a stranger's connections can take, and what he is told of what is behind.

docs/decisions/0009-the-edge.md lists every limit; here those are tried that a caller can run into.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import httpx
import pytest
import pytest_asyncio
from support.gateway import Gateway, running
from support.http2 import Http2

from openmcp.chain.v1 import tasks_pb2, workers_pb2, workers_pb2_grpc
from openmcp_chain.stack.authority import Authority
from openmcp_chain.stack.envoy.tls import Identity

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONNECTIONS = 40
PATIENCE = 1.0
SILENCE, STREAM_SILENCE = 2.0, 6.0
STREAMS = 100
RESETS = 600
SECONDS = 20.0
TOLD = {
    *("content-type", "content-length", "transfer-encoding", "date", "cache-control", "x-request-id", "allow"),
    *("retry-after", "www-authenticate", "strict-transport-security", "x-content-type-options", "connection"),
    *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
}
"""The headers that REST answers may have."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One that takes few connections and has little patience, and speaks TLS."""
    authority = Authority.opened(tmp_path_factory.mktemp("certificates"))
    envoy = authority.issue("envoy")
    async with running(
        tmp_path_factory.mktemp("edge"),
        ca=authority.file,
        identity=Identity(envoy.certificate, envoy.key),
        max_connections=CONNECTIONS,
        patience_seconds=PATIENCE,
        silence_seconds=SILENCE,
        stream_silence_seconds=STREAM_SILENCE,
    ) as started:
        yield started


async def connect(gateway: Gateway, *, tls: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = gateway.rest.base_url
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    return await asyncio.open_connection(url.host, url.port, ssl=trust if tls else None)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side ends the connection."""
    try:
        return await asyncio.wait_for(reader.read(), SECONDS)
    except ConnectionResetError:
        return b""


async def all_is_well(gateway: Gateway) -> None:
    assert (await gateway.rest.get("/v1/tasks/pending")).status_code == 200


def get(gateway: Gateway) -> Mapping[str, str]:
    """The fields of a good request over HTTP/2."""
    fields = {":method": "GET", ":scheme": "https", ":path": "/v1/tasks/pending", ":authority": "x"}
    return fields | {"authorization": f"Bearer {gateway.upstream.key.token()}"}


@pytest.mark.slow
async def test_connections_are_bounded(gateway: Gateway) -> None:
    """Beyond the limit a new connection is closed at once; those that are up are served, and later ones again."""
    await all_is_well(gateway)
    async with AsyncExitStack() as ends:
        served = 0
        for _ in range(2 * CONNECTIONS):
            try:
                reader, writer = await connect(gateway)
                ends.callback(writer.close)
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                served += (await asyncio.wait_for(reader.readline(), SECONDS)).startswith(b"HTTP/1.1 200 ")
            except (ConnectionError, ssl.SSLError):
                continue
        assert CONNECTIONS // 2 < served < CONNECTIONS
        await all_is_well(gateway)  # on the connection that it has
    async with asyncio.timeout(SECONDS), httpx.AsyncClient(verify=False) as fresh:  # noqa: S501 - not what is tried
        while True:
            try:
                answer = await fresh.get(f"{gateway.rest.base_url}/healthz")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                break
    assert answer.status_code == 200


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02"], ids=["silence", "half a hello"])
async def test_who_does_not_come_to_his_tls_is_let_go(gateway: Gateway, sent: bytes) -> None:
    """A connection that says nothing, or does not end its handshake, is closed."""
    reader, writer = await connect(gateway, tls=False)
    writer.write(sent)
    assert await ended(reader) == b""
    writer.close()


async def test_slow_headers(gateway: Gateway) -> None:
    """A request whose headers don't come to their end gets 408, and its connection is closed; others are served."""
    reader, writer = await connect(gateway)
    writer.write(b"GET /v1/tasks/pending HTTP/1.1\r\nhost: x\r\n")
    answer = await ended(reader)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"DEADLINE_EXCEEDED"' in answer
    await all_is_well(gateway)


async def test_slow_headers_drop_by_drop(gateway: Gateway) -> None:
    """So does one whose headers come drop by drop: it is their end that counts."""
    reader, writer = await connect(gateway)
    writer.write(b"GET /v1/tasks/pending HTTP/1.1\r\nhost: x\r\n")

    async def drip() -> None:
        while not writer.is_closing():
            writer.write(b"x: y\r\n")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    answer = await ended(reader)
    dripping.cancel()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ") or answer == b""


async def test_slow_body(gateway: Gateway) -> None:
    """A call whose body doesn't come to its end is given up when its time is over."""
    reader, writer = await connect(gateway)
    token = gateway.upstream.key.token()
    writer.write(
        f"POST /v1/tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
        "content-type: application/json\r\ncontent-length: 1000\r\n\r\n{".encode()
    )
    answer = await ended(reader)
    writer.close()
    assert answer.startswith((b"HTTP/1.1 504 ", b"HTTP/1.1 408 "))
    assert b'"code":"DEADLINE_EXCEEDED"' in answer


async def test_calls_on_a_connection_are_bounded(gateway: Gateway) -> None:
    """Of a client that heeds no limit, the call beyond the limit is refused."""
    async with tls(gateway) as connection:
        path = {":path": "/v1/tasks/silent", ":method": "GET"}
        for _ in range(STREAMS):
            connection.begin({**get(gateway), **path}.items(), b"")
        assert await connection.call(get(gateway).items(), b"") is None
    await all_is_well(gateway)


async def test_rapid_resets(gateway: Gateway) -> None:
    """A connection that begins calls only to reset them is closed after some hundreds; others do not notice."""
    async with tls(gateway) as connection:
        closed = asyncio.create_task(connection.closed())
        for _ in range(RESETS):
            connection.reset(connection.begin(get(gateway).items(), b""))
            await asyncio.sleep(0)
        await asyncio.wait_for(closed, SECONDS)
    await all_is_well(gateway)


async def test_what_nobody_reads_goes(gateway: Gateway) -> None:
    """Of streams too that the server is done with, whether Envoy has seen their end or not.

    A stream on which nothing is said meanwhile goes on.
    """
    message = tasks_pb2.StreamTaskEventsRequest(task_id="wide_25000").SerializeToString()
    path = "/openmcp.chain.v1.TaskService/StreamTaskEvents"
    grpc_type = {"content-type": "application/grpc", "te": "trailers"}
    typed = {**get(gateway), ":path": path, ":method": "POST", **grpc_type}
    work = workers_pb2_grpc.WorkerServiceStub(gateway.channel).Work(metadata=gateway.bearer)

    async def is_served() -> None:
        await work.write(workers_pb2.WorkRequest(heartbeat=workers_pb2.Heartbeat()))
        assert isinstance(await work.read(), workers_pb2.WorkResponse)

    async with tls(gateway, window=0) as connection:
        last = connection.ask(typed.items(), b"\0" + len(message).to_bytes(4, "big") + message)
        await is_served()
        paths = ("/v1/tasks/pending", "/v1/tasks/wide_10000/events", "/v1/tasks/wide_80000/events")
        await connection.dropped([connection.ask({**get(gateway), ":path": path}.items()) for path in paths])
        await is_served()
        work.cancel()
        await connection.dropped([last])
    await all_is_well(gateway)


def tls(gateway: Gateway, window: int | None = None) -> Http2:
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    trust.set_alpn_protocols(["h2"])
    url = gateway.rest.base_url
    return Http2(url.host, url.port or 0, trust, window)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/tasks/pending"),
        ("GET", "/v1/tasks/missing"),
        ("GET", "/v1/tasks/bare_13"),
        ("GET", "/healthz"),
        ("GET", "/.well-known/jwks.json"),
        ("POST", "/v1/auth/token"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/v1/tasks"),
        ("GET", "/v1/tasks/a%2Fb"),
    ],
)
async def test_no_answer_says_what_is_behind(gateway: Gateway, method: str, path: str) -> None:
    """No banner, no name, version, address or time of a server's: the headers are these and no other."""
    for client in (gateway.rest, gateway.anonymous):
        answer = await client.request(method, path, headers={"x-envoy-force-trace": "1", "origin": "https://a.example"})
        assert set(answer.headers) <= TOLD
        assert "envoy" not in answer.text.lower()
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_other_origins_are_not_let_in(gateway: Gateway) -> None:
    """CORS is closed: a browser that asks for another site's page gets no leave."""
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    answer = await gateway.anonymous.options("/v1/tasks", headers=asked)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_token_is_not_kept(gateway: Gateway) -> None:
    """No cache keeps an answer, a token least of all (RFC 6749, 5.1)."""
    answer = await gateway.anonymous.post("/v1/auth/token", json={"workspace_id": "ws-1"})
    assert answer.headers["cache-control"] == "no-store"
    assert (await gateway.rest.get("/v1/tasks/pending")).headers["cache-control"] == "no-store"
    assert (await gateway.anonymous.get("/v1/tasks/pending")).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "name",
    [
        *("x-workspace-id", "x-plan", "x-jwt-payload", "x-forwarded-client-cert", "x-forwarded-user", "x-remote-user"),
        *("x-envoy-original-path", "x-envoy-upstream-rq-timeout-ms", "x-envoy-retry-on", "x-envoy-max-retries"),
        *("forwarded", "x-real-ip", "x-original-url", "x-rewrite-url", "x-http-method-override", "via", "cookie"),
    ],
)
async def test_who_a_caller_says_he_is_goes_no_further(gateway: Gateway, name: str) -> None:
    """A header by which somebody behind could take the caller for another, or do as he says, does not get there."""
    for path in ("/v1/tasks/pending", "/v1/tasks/x/events"):
        gateway.upstream.rest.more.set()
        gateway.upstream.tasks.metadata = {}
        await gateway.rest.get(path, headers={name: "forged-value"})
        assert "forged-value" not in str(gateway.upstream.tasks.metadata)
    assert gateway.upstream.tasks.metadata == {}
    await gateway.rest.get("/v1/tasks/pending", headers={name: "forged-value"})
    assert gateway.upstream.tasks.metadata
    assert "forged-value" not in gateway.upstream.tasks.metadata.values()
