"""A worker's certificates: shown to a server that asks for one, and read again when they have changed."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from support.service import LOCAL, SETTINGS, serving

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.client.connection import Credentials, Server
from openmcp_chain.client.errors import SettingsError
from openmcp_chain.config import Tls
from openmcp_chain.stack import ports
from openmcp_chain.stack.authority import Authority
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.worker.connection import Connection


async def hello() -> AsyncIterator[workers_pb2.WorkRequest]:
    yield workers_pb2.WorkRequest(hello=workers_pb2.Hello(worker_name="w", task_types=["t"], max_concurrency=1))


async def is_welcome(connection: Connection) -> bool:
    """Whether a server takes the worker on."""
    try:
        stream = await connection.work(hello())
        async for answer in stream:
            stream.cancel()
            return answer.HasField("welcome")
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
    return False


async def test_certificates_are_read_again(tmp_path: Path) -> None:
    """A worker whose certificate was renewed comes back with the new one; until it was, the server does not have it.

    A file that is away meanwhile does no harm.
    """
    folders = [tmp_path / name for name in ("first", "second", "worker")]
    for folder in folders:
        folder.mkdir()
    first, second = (Authority.opened(folder) for folder in folders[:2])
    server = first.issue("server")
    shown = tmp_path / "worker" / "shown.pem", tmp_path / "worker" / "shown.key"

    def show(authority: Authority) -> None:
        issued = authority.issue("client")
        shutil.copyfile(issued.certificate, shown[0])
        shutil.copyfile(issued.key, shown[1])

    show(first)
    (port,) = ports.choose({"server": 0})
    store = MemoryStore()
    settings = [
        replace(SETTINGS, listen=f"127.0.0.1:{port}", tls=Tls(server.certificate, server.key, authority.file))
        for authority in (first, second)
    ]
    async with serving(store, settings=settings[0]) as service:
        created, secret = await service.app.administration.workspaces.create(LOCAL, "unlimited")
        to_server = Server(f"127.0.0.1:{port}", None, first.file, *shown)
        connection = Connection(to_server, Credentials(created.id, secret))
        assert await is_welcome(connection)
        moved = shown[0].rename(tmp_path / "moved")
        assert await is_welcome(connection)
        moved.rename(shown[0])
    async with serving(store, settings=settings[1]):
        assert not await is_welcome(connection)
        show(second)
        assert await is_welcome(connection)
        await connection.close()


async def test_half_of_an_identity(tmp_path: Path) -> None:
    """A certificate without its key is a mistake in the settings."""
    with pytest.raises(SettingsError, match="certificate, key: both are needed"):
        Connection(Server("chain:1", certificate=tmp_path / "c.pem"), Credentials("ws-1", "s"))
