"""Where the server is, how to reach it, and as whom."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import openmcp_chain
from openmcp.chain.v1 import auth_pb2
from openmcp_chain.client.errors import SettingsError

OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.primary_user_agent", f"openmcp-chain-python/{openmcp_chain.__version__}"),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # What the service sends is as large as what was asked for.
    ("grpc.max_receive_message_length", -1),
    # A server that restarts is back within a second; gRPC would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Under this name gRPC keeps what one attempt to connect may take; 20 seconds otherwise.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)
_HERE = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]+)?|unix:.*")

_propagator = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who signs in."""

    workspace_id: str
    workspace_secret: str = field(repr=False)
    scopes: tuple[str, ...] = ()
    """What its tokens are to allow; empty for all that the workspace may do."""

    def request(self) -> auth_pb2.AuthRequest:
        """What they sign in with."""
        return auth_pb2.AuthRequest(
            workspace_id=self.workspace_id, workspace_secret=self.workspace_secret, scopes=self.scopes
        )


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is and how to reach it."""

    target: str
    """The gRPC target: `host:port`."""
    secure: bool | None = None
    """Whether TLS is used. By default it is, unless the target is this machine: no secret crosses a network in the
    clear but by somebody's word."""
    ca: str | Path | None = None
    """A PEM file with the certificates of the authorities to trust, in place of gRPC's own list."""
    certificate: str | Path | None = None
    """A PEM file with the certificate to show to a server that asks for one, and those between it and an authority."""
    key: str | Path | None = None
    """The PEM file with that certificate's key."""

    def credentials(self) -> grpc.ChannelCredentials | None:
        """How the channel is secured; None for plaintext. Raises SettingsError."""
        files = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        named = [name for name, file in files.items() if file is not None]
        secure = self.secure if self.secure is not None else bool(named) or not self._is_here
        if not secure:
            if named:
                raise SettingsError(f"{named[0]}: is of no use without TLS")
            return None
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("certificate, key: both are needed, or neither")
        roots, certificate, key = (_read(name, file) for name, file in files.items())
        return grpc.ssl_channel_credentials(root_certificates=roots, private_key=key, certificate_chain=certificate)

    def files(self) -> tuple[object, ...]:
        """Something that changes when a file does of which the credentials were made."""
        return tuple(_state(file) for file in (self.ca, self.certificate, self.key) if file is not None)

    def channel(self) -> grpc.aio.Channel:
        """A channel that connects with its first call. Raises SettingsError."""
        secured = self.credentials()
        if secured is None:
            return grpc.aio.insecure_channel(self.target, self.options())
        return grpc.aio.secure_channel(self.target, secured, self.options())

    def options(self) -> list[tuple[str, str | int]]:
        """Of the channel."""
        # A proxy for the way to other machines has no part in the way to this one.
        return [*OPTIONS, ("grpc.enable_http_proxy", 0)] if self._is_here else [*OPTIONS]

    @property
    def _is_here(self) -> bool:
        return _HERE.fullmatch(self.target) is not None


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    """What goes with a call: the token, and the trace that the caller is in, if it is in one."""
    carrier = {"authorization": f"Bearer {token}"} if token else {}
    _propagator.inject(carrier)
    carrier.pop("tracestate", None)
    return tuple(carrier.items())


def from_environment(environment: Mapping[str, str] = os.environ) -> tuple[Server, Credentials]:
    """What the environment says. Raises SettingsError naming the variable at fault.

    Which variables they are is told at `Base.from_environment`.
    """
    secure = environment.get("OPENMCP_SECURE", "").lower()
    if secure not in ("", "true", "false"):
        raise SettingsError("OPENMCP_SECURE: must be true or false")
    server = Server(
        _required(environment, "OPENMCP_SERVER"),
        secure == "true" if secure else None,
        environment.get("OPENMCP_CA_FILE") or None,
        environment.get("OPENMCP_CERT_FILE") or None,
        environment.get("OPENMCP_KEY_FILE") or None,
    )
    return server, Credentials(_required(environment, "OPENMCP_WORKSPACE_ID"), _secret(environment))


def read_secret(path: str | Path, name: str) -> str:
    """The secret in a file; `name` is what a SettingsError calls it."""
    try:
        secret = Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name}: cannot read {str(path)!r}: {type(error).__name__}") from None
    if not secret:
        raise SettingsError(f"{name}: {path} is empty")
    return secret


def _read(name: str, file: str | Path | None) -> bytes | None:
    try:
        return Path(file).read_bytes() if file is not None else None
    except OSError as error:
        raise SettingsError(f"{name}: cannot read {str(file)!r}: {error.strerror}") from None


def _state(file: str | Path) -> tuple[int, int, int] | None:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _secret(environment: Mapping[str, str]) -> str:
    if path := environment.get("OPENMCP_WORKSPACE_SECRET_FILE"):
        return read_secret(path, "OPENMCP_WORKSPACE_SECRET_FILE")
    return _required(environment, "OPENMCP_WORKSPACE_SECRET")


def _required(environment: Mapping[str, str], name: str) -> str:
    if value := environment.get(name):
        return value
    raise SettingsError(f"{name}: must be set")
