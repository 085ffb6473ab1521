"""TLS on both sides of Envoy, by real certificates, which are replaced while calls run."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from support.gateway import Gateway, running
from support.hello import client_hello
from support.plain import NOBODY
from support.upstream import Upstream

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc
from openmcp_chain.stack import ports
from openmcp_chain.stack.authority import Authority
from openmcp_chain.stack.envoy import Address
from openmcp_chain.stack.envoy.tls import Identity, Servers
from openmcp_chain.transport.tls import Certificates

pytestmark = pytest.mark.asyncio(loop_scope="module")

HSTS = "strict-transport-security"
SECONDS = 10.0


@dataclass(frozen=True)
class Place:
    """A gateway that speaks TLS to both sides, and the authority of all its certificates."""

    gateway: Gateway
    authority: Authority

    @property
    def port(self) -> int:
        return self.gateway.rest.base_url.port or 0

    async def presented(self, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> tuple[int, str | None, str | None]:
        """The serial number of the certificate that a new connection is shown, its version of TLS, and its protocol."""
        context = ssl.create_default_context(cafile=self.authority.file)
        context.minimum_version = minimum
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname="localhost")
        secured: ssl.SSLObject = writer.get_extra_info("ssl_object")
        shown = secured.getpeercert(binary_form=True)
        writer.close()
        assert shown
        serial = x509.load_der_x509_certificate(shown).serial_number
        return serial, secured.version(), secured.selected_alpn_protocol()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """Mutual TLS to the server, TLS to clients."""
    authority = Authority.opened(tmp_path_factory.mktemp("certificates"))
    async with running(tmp_path_factory.mktemp("envoy"), **told(authority, name="127.0.0.1")) as gateway:
        yield Place(gateway, authority)


def told(authority: Authority, *, name: str = "localhost", ca: Path | None = None) -> dict[str, Any]:
    """What `running` is told for certificates of this authority."""
    server, envoy, client = (authority.issue(part) for part in ("server", "envoy", "client"))
    return {
        "upstream": Upstream(Certificates(server.certificate, server.key, authority.file).credentials()),
        "ca": authority.file,
        "identity": Identity(envoy.certificate, envoy.key),
        "server_tls": Servers(ca or authority.file, name, Identity(client.certificate, client.key)),
    }


async def until(passes: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await passes():  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.02)


async def test_rest_and_grpc_over_tls(place: Place) -> None:
    """Both are served with a token, whose key Envoy has read through its own TLS; HTTP/2 and HTTP/1.1 by ALPN."""
    assert (await place.gateway.rest.get("/v1/tasks/pending")).json()["task_id"] == "pending"
    stub = tasks_pb2_grpc.TaskServiceStub(place.gateway.channel)
    request = tasks_pb2.GetTaskRequest(task_id="pending")
    assert (await stub.GetTask(request, metadata=place.gateway.bearer)).task_id == "pending"
    _, version, protocol = await place.presented()
    assert (version, protocol) == ("TLSv1.3", "h2")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/tasks/pending", 200),
        ("GET", "/v1/tasks/missing", 404),
        ("GET", "/v1/tasks/bare_14", 503),
        ("GET", "/healthz", 200),
        ("GET", "/.well-known/jwks.json", 200),
        ("GET", "/nowhere", 404),
        ("HEAD", "/nowhere", 404),
        ("PUT", "/v1/tasks", 405),
        ("POST", "/v1/tasks", 415),
        ("GET", "/v1/tasks/a%2Fb", 400),
        ("GET", "/v1/tasks/x?nope=1", 400),
        ("GET", "/v1/tasks/x/events", 200),
    ],
)
async def test_every_answer_says_to_stay(place: Place, method: str, path: str, status: int) -> None:
    """Whatever the answer, and whoever makes it, it tells the client to come by HTTPS only."""
    headers = {"content-type": "text/plain"} if method == "POST" else {}
    place.gateway.upstream.rest.more.set()
    answer = await place.gateway.rest.request(method, path, headers=headers)
    assert (answer.status_code, answer.headers.get_list(HSTS)) == (status, ["max-age=31536000"])
    assert "server" not in answer.headers


async def test_refusals_say_so_too(place: Place) -> None:
    """So do those of a missing token, of too large a response, in gRPC's form, and of what is no HTTP at all."""
    assert HSTS in (await place.gateway.anonymous.get("/v1/tasks/x")).headers
    stub = tasks_pb2_grpc.TaskServiceStub(place.gateway.channel)
    call = stub.GetTask(tasks_pb2.GetTaskRequest(task_id="x"))
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    told = {**dict(await call.initial_metadata()), **dict(await call.trailing_metadata() or ())}
    assert told[HSTS] == "max-age=31536000"
    context = ssl.create_default_context(cafile=place.authority.file)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=context)
    writer.write(b"no HTTP\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), SECONDS)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\n" + HSTS.encode() + b": max-age=31536000\r\n" in answer


async def test_plain_http_is_refused(place: Place) -> None:
    """A request without TLS is told what is wrong, by REST and by gRPC, whatever it is; it reaches no server."""
    place.gateway.upstream.tasks.metadata = {}
    bearer = {"authorization": f"Bearer {place.gateway.upstream.key.token()}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{place.port}", timeout=SECONDS, verify=NOBODY) as plain:
        for method, path in (("GET", "/v1/tasks/x"), ("POST", "/v1/auth/token"), ("GET", "/healthz"), ("GET", "/")):
            answer = await plain.request(method, path, headers=bearer)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "HTTPS_REQUIRED")
            assert HSTS not in answer.headers
            assert answer.headers["connection"] == "close"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{place.port}") as channel:
        stub = tasks_pb2_grpc.TaskServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetTask(tasks_pb2.GetTaskRequest(task_id="x"), metadata=place.gateway.bearer, timeout=SECONDS)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "HTTPS only" in (refused.value.details() or "")
    assert place.gateway.upstream.tasks.metadata == {}


async def test_old_versions_of_tls_are_refused(place: Place) -> None:
    """A client that speaks nothing newer than TLS 1.1 gets no certificate to see; one of 1.2 does."""
    for version, served in ((b"\x03\x02", False), (b"\x03\x03", True)):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(client_hello(version))
        kind = await asyncio.wait_for(reader.read(1), SECONDS)
        writer.close()
        assert (kind == b"\x16") == served


async def test_certificates_are_replaced_under_calls(place: Place) -> None:
    """New connections have the new ones, and of the calls that run all the while, on any connection, none fails.

    Envoy's certificate, the server's, and the one that Envoy shows the server.
    """
    stub = tasks_pb2_grpc.TaskServiceStub(place.gateway.channel)
    request, ended = tasks_pb2.GetTaskRequest(task_id="pending"), asyncio.Event()
    calls = 0

    async def by_grpc() -> None:
        nonlocal calls
        while not ended.is_set():
            await stub.GetTask(request, metadata=place.gateway.bearer, timeout=SECONDS)
            calls += 1

    async def by_rest() -> None:
        nonlocal calls
        while not ended.is_set():
            context = ssl.create_default_context(cafile=place.authority.file)
            async with httpx.AsyncClient(base_url=place.gateway.rest.base_url, verify=context) as fresh:
                answer = await fresh.get("/v1/tasks/pending", headers=dict(place.gateway.bearer))
            assert answer.status_code == 200
            calls += 1

    load = [asyncio.create_task(one()) for one in (by_grpc, by_rest)]
    for _ in range(3):
        (old, *_), before = await place.presented(), calls
        for part in ("server", "client", "envoy"):
            place.authority.issue(part)

        async def is_new(old: int = old) -> bool:
            return (await place.presented())[0] != old

        async def went_on(before: int = before) -> bool:
            return calls > before + 5

        await until(is_new)
        await until(went_on)
    ended.set()
    await asyncio.gather(*load)


@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_server_that_is_somebody_else(tmp_path: Path, wrong: str) -> None:
    """A server whose certificate has another name, or another authority, never counts as healthy, nor gets a call."""
    stranger = Authority.opened(tmp_path)
    stranger.issue("server")
    (admin,) = ports.choose({"admin": 0})
    ours = tmp_path / "ours"
    ours.mkdir()
    changed: dict[str, Any] = {"name": "other.example"} if wrong == "name" else {"ca": stranger.file}
    parts = told(Authority.opened(ours), **changed) | {"admin": Address("127.0.0.1", admin)}
    (tmp_path / "envoy").mkdir()

    async def never_served() -> None:
        async with running(tmp_path / "envoy", **parts):
            pytest.fail("it was served")

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{admin}", verify=NOBODY) as client:

        async def statistics() -> dict[str, int]:
            try:
                text = (await client.get("/stats?filter=^cluster.server.")).text
            except httpx.TransportError:
                return {}
            pairs = (line.rpartition(": ") for line in text.splitlines())
            return {name.removeprefix("cluster.server."): int(value) for name, _, value in pairs if value.isdecimal()}

        fault = "ssl.fail_verify_san" if wrong == "name" else "ssl.fail_verify_error"

        async def refused() -> bool:
            return (await statistics()).get(fault, 0) > 1

        starting = asyncio.create_task(never_served())
        await until(refused)
        counted = await statistics()
        assert (counted["health_check.success"], counted.get("upstream_rq_200", 0)) == (0, 0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
