"""Several server processes on one database, with nothing between them and their callers."""

import asyncio
import base64
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from support.database import Database, running_database
from support.workspaces import Credentials

from openmcp_chain import config
from openmcp_chain.engine.administration import local_actor
from openmcp_chain.stack import administration

START_SECONDS = 90.0
PAUSE_SECONDS = 0.02
ADMIN_SECRET = f"omcp_0123abcd_{'f' * 43}"
"""The first administrator's."""
SETTINGS = {
    "OPENMCP_ADMIN_SECRET": ADMIN_SECRET,
    "OPENMCP_MASTER_KEY": base64.b64encode(b"f" * 32).decode(),
    "OPENMCP_LEASE_DURATION": "3",
    "OPENMCP_LAME_DUCK_SECONDS": "0",
}


class ServerProcess:
    """One of them; killed and started again, it listens where it did."""

    def __init__(self, mongodb_uri: str, log: Path) -> None:
        self.command: Sequence[str] = [str(Path(sys.executable).with_name("openmcp")), "server"]
        self._settings = {**SETTINGS, "OPENMCP_MONGODB_URI": mongodb_uri}
        self._log = log
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and returns when it serves."""
        listen = {"OPENMCP_GRPC_LISTEN": self.target}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self.command, env={**os.environ, **self._settings, **listen}, stderr=log)
        end = time.monotonic() + START_SECONDS
        while not (ports := re.findall('"message": ?"serving".*"port": ?([0-9]+)', self._log.read_text())):
            assert self._process.poll() is None, f"the server ended:\n{self._log.read_text()}"
            assert time.monotonic() < end, f"the server did not start:\n{self._log.read_text()}"
            time.sleep(PAUSE_SECONDS)
        self.port = int(ports[0])

    @property
    def stopped(self) -> bool:
        """Whether it has been sent SIGSTOP."""
        assert self._process, "it is not running"
        return psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED

    def go_on(self) -> None:
        """Sends SIGCONT."""
        assert self._process, "it is not running"
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL)."""
        assert self._process, "it is not running"
        assert self._process.poll() is None, f"it had ended by itself:\n{self._log.read_text()}"
        self._process.kill()
        self._process.wait()
        self._process = None


class Fleet:
    """The servers, and a workspace on them."""

    def __init__(self, database: Database, folder: Path, servers: int) -> None:
        self.database = database
        self.mongodb_uri = database.uri
        self.folder = folder
        self.servers: Sequence[ServerProcess] = [
            ServerProcess(database.uri, folder / f"server-{number}.log") for number in range(servers)
        ]

    def target(self, first: int = 0) -> str:
        """All of them as one gRPC target, beginning with this one."""
        ordered = [*self.servers[first:], *self.servers[:first]]
        return "ipv4:" + ",".join(server.target for server in ordered)

    def workspace(self) -> Credentials:
        """A new workspace."""
        return asyncio.run(self._create(()))

    def operator(self, *task_types: str) -> Credentials:
        """A new operator, whose workers take these types from every workspace."""
        return asyncio.run(self._create(task_types))

    async def _create(self, task_types: Sequence[str]) -> Credentials:
        settings = config.from_environment({**SETTINGS, "OPENMCP_MONGODB_URI": self.mongodb_uri})
        async with administration.opened(settings) as opened:
            if task_types:
                created, secret = await opened.workspaces.create_operator(local_actor(), task_types)
            else:
                created, secret = await opened.workspaces.create(local_actor(), "unlimited")
        return Credentials(created.id, secret)


@contextmanager
def running_fleet(folder: Path, servers: int) -> Iterator[Fleet]:
    """A fleet on a database of its own, for the length of the block."""
    with running_database() as database, ExitStack() as ends:
        fleet = Fleet(database, folder, servers)
        for server in fleet.servers:
            server.start()
            ends.callback(server.kill)
        yield fleet
