"""The stack's database: a given one, else `mongod` if there is one, else the embedded SecantusDB."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from openmcp_chain.stack import ports
from openmcp_chain.stack.children import Program
from openmcp_chain.stack.failure import StackError

REPLICA_SET = "openmcp"
EMBEDDED_BEFORE = (3, 14)
"""The first Python that SecantusDB has no wheels for; the `stack` extra leaves it out there."""


@dataclass(frozen=True, slots=True)
class Database:
    """Where the database is, and what to run for it."""

    kind: str
    """Its name, for people."""
    uri: str
    program: Program | None
    """None if somebody else runs it."""

    @property
    def address(self) -> str:
        """`host:port`, without the credentials that a given URI may hold."""
        return self.uri.rpartition("://")[2].partition("/")[0].rpartition("@")[2]


def choose(given: str, folder: Path) -> Database:
    """The database to use: `given` (a MongoDB URI) if not empty; else one of our own, with its data in `folder`.

    Raises StackError if there is nothing to run.
    """
    if given:
        return Database("MongoDB", given, None)
    (port,) = ports.choose({"the database's port": 0})
    if mongod := find("mongod"):
        argv = [mongod, "--dbpath", str(folder), "--bind_ip", ports.HOST, "--port", str(port)]
        argv += ["--replSet", REPLICA_SET, "--nounixsocket"]
        uri = f"mongodb://{ports.HOST}:{port}/?directConnection=true"
        return Database("mongod", uri, Program("database", argv, cwd=folder, grace=6))
    if secantus := find("secantusd-py"):
        # Told of no configuration, it would read whatever secantusd.toml it finds in the working or home folder.
        config = folder / "secantusd.toml"
        config.touch()
        argv = [secantus, "--config", str(config), "--host", ports.HOST, "--port", str(port)]
        argv += ["--storage-path", str(folder)]
        # Without this setting, kill -9 loses acknowledged writes.
        env = {"WIREDTIGER_CONFIG": "transaction_sync=(enabled=true,method=none)"}
        # Its list of retryable writes makes every write slower than the one before.
        uri = f"mongodb://{ports.HOST}:{port}/?directConnection=true&retryWrites=false"
        return Database("SecantusDB", uri, Program("database", argv, env=env, cwd=folder, grace=6))
    if sys.version_info >= EMBEDDED_BEFORE:
        others = "use Python 3.11 to 3.13, for which there is an embedded one"
    else:
        others = "install the `stack` extra (pip install 'openmcp-chain[stack]')"
    raise StackError(f"no database to run: put mongod on the PATH, give --mongodb-uri, or {others}")


def find(command: str) -> str | None:
    """The path of a command: one installed beside this Python first, whether or not its environment is activated."""
    return shutil.which(command, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
