"""The server's port under TLS: who gets in, and that certificates are replaced under its calls."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.hello import client_hello
from support.service import LOCAL, PATIENCE, SETTINGS, Caller, Service, serving

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc
from openmcp_chain.app import App, StartError
from openmcp_chain.client.connection import Server
from openmcp_chain.config import Config, Tls
from openmcp_chain.stack import ports
from openmcp_chain.stack.authority import Authority, Issued
from openmcp_chain.store.memory import MemoryStore


class Place:
    """A folder with an authority, a server's certificate, and a client's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.authority = Authority.opened(folder)
        self.server = self.authority.issue("server")
        self.client = self.authority.issue("client")

    def settings(self, *, mutual: bool = True) -> Config:
        tls = Tls(self.server.certificate, self.server.key, self.authority.file if mutual else None)
        return replace(SETTINGS, tls=tls)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def lists(service: Service, caller: Caller, server: Server) -> bool:
    """Whether a call gets through on a new connection."""
    options = [*server.options(), ("grpc.use_local_subchannel_pool", 1)]
    secured = server.credentials()
    if secured is None:
        channel = grpc.aio.insecure_channel(server.target, options)
    else:
        channel = grpc.aio.secure_channel(server.target, secured, options)
    async with channel:
        stub: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
        try:
            await stub.ListTasks(tasks_pb2.ListTasksRequest(), metadata=caller.metadata, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
    return True


async def caller(service: Service) -> Caller:
    """A workspace with a token, without a call."""
    created, secret = await service.app.administration.workspaces.create(LOCAL, "unlimited")
    issued = await service.app.identity.authenticate(created.id, secret)
    return Caller(created.id, secret, issued.token)


async def test_only_who_has_a_certificate_gets_in(place: Place, tmp_path: Path) -> None:
    """With an authority for clients: one with its certificate is served; one with none, another's, or no TLS is not."""
    stranger = Place(tmp_path / "elsewhere")
    async with serving(settings=place.settings()) as service:
        somebody, target, ca = await caller(service), f"127.0.0.1:{service.port}", place.authority.file
        assert await lists(service, somebody, Server(target, None, ca, place.client.certificate, place.client.key))
        for server in (
            Server(target, None, ca),
            Server(target, None, ca, stranger.client.certificate, stranger.client.key),
            Server(target, secure=False),
            Server(target, None, stranger.authority.file, place.client.certificate, place.client.key),
        ):
            assert not await lists(service, somebody, server)


async def test_without_an_authority_for_clients_anybody_gets_in(place: Place) -> None:
    """TLS alone asks for no certificate; who trusts another authority, or none, sends nothing."""
    async with serving(settings=place.settings(mutual=False)) as service:
        somebody, target = await caller(service), f"127.0.0.1:{service.port}"
        assert await lists(service, somebody, Server(target, None, place.authority.file))
        assert not await lists(service, somebody, Server(target, secure=True))


async def test_old_versions_of_tls_are_refused(place: Place) -> None:
    """A client that speaks nothing newer than TLS 1.1 is turned away; TLS 1.2 and 1.3 are spoken."""
    async with serving(settings=place.settings(mutual=False)) as service:
        for version, served in ((b"\x03\x02", False), (b"\x03\x03", True)):
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(client_hello(version))
            kind = await asyncio.wait_for(reader.read(1), PATIENCE)
            writer.close()
            assert (kind == b"\x16") == served  # a handshake message, or an alert or the end
        for modern in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert await asyncio.to_thread(presented, service.port, place.authority.file, modern)


def presented(port: int, ca: Path, version: ssl.TLSVersion | None = None, client: Issued | None = None) -> int:
    """The serial number of the certificate that the server shows."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
        assert shown
        return x509.load_der_x509_certificate(shown).serial_number


async def test_certificates_are_replaced_under_calls(place: Place) -> None:
    """New certificates count for the next connection, and no call fails meanwhile, on old or new connections."""
    async with serving(settings=place.settings()) as service:
        somebody, target = await caller(service), f"127.0.0.1:{service.port}"
        server = Server(target, None, place.authority.file, place.client.certificate, place.client.key)
        async with server.channel() as channel:
            stub: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
            calls, replaced = 0, asyncio.Event()

            async def call() -> None:
                nonlocal calls
                while not replaced.is_set():
                    await stub.ListTasks(tasks_pb2.ListTasksRequest(), metadata=somebody.metadata, timeout=PATIENCE)
                    calls += 1

            load = [asyncio.create_task(call()) for _ in range(3)]
            serials = set()
            for _ in range(5):
                old = await asyncio.to_thread(presented, service.port, place.authority.file, None, place.client)
                serials.add(old)
                place.authority.issue("server")
                assert await lists(service, somebody, server)
            replaced.set()
            await asyncio.gather(*load)
        assert len(serials) == 5
        assert calls


async def test_another_authority_for_clients(place: Place, tmp_path: Path) -> None:
    """When the authority for clients is replaced, its own clients get in, and those of the old one no more."""
    other = Place(tmp_path / "other")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(place.authority.file.read_bytes())
    tls = Tls(place.server.certificate, place.server.key, trusted)
    async with serving(settings=replace(SETTINGS, tls=tls)) as service:
        somebody = await caller(service)
        servers = [
            Server(f"127.0.0.1:{service.port}", None, place.authority.file, one.client.certificate, one.client.key)
            for one in (place, other)
        ]
        assert [await lists(service, somebody, server) for server in servers] == [True, False]
        trusted.write_bytes(other.authority.file.read_bytes())
        assert [await lists(service, somebody, server) for server in servers] == [False, True]


async def test_what_does_not_fit_is_not_taken(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate whose key is not there yet changes nothing, and is told once; it is taken when it fits."""
    async with serving(settings=place.settings(mutual=False)) as service:
        ca = place.authority.file
        first = await asyncio.to_thread(presented, service.port, ca)
        key, certificate = place.server.key, place.server.certificate
        old = key.read_bytes()
        place.authority.issue("server")
        fits = key.read_bytes()
        with caplog.at_level(logging.INFO, "openmcp_chain.transport.tls"):
            for unfit in (old, b"no key"):
                key.write_bytes(unfit)
                for _ in range(2):
                    assert await asyncio.to_thread(presented, service.port, ca) == first
            key.unlink()
            assert await asyncio.to_thread(presented, service.port, ca) == first
            key.write_bytes(fits)
            renewed = await asyncio.to_thread(presented, service.port, ca)
        assert renewed == x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number != first
    told = [record.message for record in caplog.records]
    assert told == ["certificates not replaced"] * 3 + ["certificates replaced"]


@pytest.mark.parametrize("fault", ["certificate", "key", "client_ca", "pair", "garbage"])
async def test_files_that_can_not_be_used(place: Place, fault: str) -> None:
    """A server that can't use its files does not start, and says which one it is."""
    named = {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"}.get(fault, "server.key")
    settings = place.settings()
    if fault == "pair":
        place.server.key.write_bytes(place.client.key.read_bytes())
    elif fault == "garbage":
        place.server.key.write_text("no key")
    else:
        (place.folder / named).unlink()
    app = App(settings, MemoryStore())
    with pytest.raises(StartError, match=named):
        await app.start()
    await app.stop()


@contextlib.asynccontextmanager
async def probe(port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


async def test_probes_need_no_certificate(place: Place) -> None:
    """Beside mutual TLS, a port for probes tells of health in plain text, and serves nothing else."""
    (port,) = ports.choose({"probes": 0})
    async with serving(settings=replace(place.settings(), health_listen=f"127.0.0.1:{port}")) as service:
        somebody = await caller(service)
        async with probe(port) as channel:
            health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
            for name in ("", "liveness"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            tasks: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await tasks.ListTasks(tasks_pb2.ListTasksRequest(), metadata=somebody.metadata, timeout=PATIENCE)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
            await service.app.server.announce_shutdown()
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
