"""Envoy's configuration, rendered from `envoy/envoy.yaml`: for the local stack, compose and Kubernetes alike.

    settings = Settings(listen=Address("127.0.0.1", 8080), server=Address("127.0.0.1", 50051), plans=plans)
    path = write(settings, folder)
    subprocess.Popen(command(path))

Envoy is ready when it accepts a real token: it starts to listen before it has fetched the key set.
"""

import base64
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmcp_chain import structs
from openmcp_chain.domain import errors
from openmcp_chain.domain.keys import CLOCK_SKEW, LIFETIME
from openmcp_chain.domain.plans import Plan
from openmcp_chain.engine import answers, tokens
from openmcp_chain.stack.envoy import cors, rates, replies, routes, tls, view
from openmcp_chain.stack.envoy.collector import PATH, Collector
from openmcp_chain.stack.envoy.rates import Rate
from openmcp_chain.stack.envoy.tls import Identity, Servers
from openmcp_chain.stack.state import write_private
from openmcp_chain.transport import status

HEADER_BYTES = 8 * 1024
"""Of all request headers, names and values, Envoy's own among them; the server reads 16 KiB of metadata."""
HEADER_COUNT = 100
"""How many headers a request may have."""
VALUES = 270_000
"""How many JSON values and names of members a request may have. A payload of 1 MiB has 262,144 at most, since each
takes 4 bytes of protobuf. 4 MiB of JSON could hold two million, which take the transcoder up to 2.7 s."""
SERVER_STREAMS = 500
"""How many calls a connection to the server carries; for more, Envoy opens another.

Half of what the server takes: near its limit it refuses a call that follows one which is not quite gone.
"""
SERVER_STREAM_WINDOW = 64 * 1024
"""How many bytes of an answer the server sends before the client has read any."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port."""

    host: str
    """An IP address, or, of another machine, a DNS name; all of its addresses are used."""
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads `host:port`. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"{text!r} is not host:port")
        return cls(host.strip("[]"), int(port))


SIGN_INS = Rate(per_second=5, burst=100)
"""From one address. A client signs in once in a quarter of an hour: a thousand of them behind one address are well
below the rate, and a hundred that start together below the burst."""

OPEN_CALLS = Rate(per_second=20, burst=200)
"""Other calls without a token from one address: health and the key set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What differs between one Envoy and another."""

    listen: Address
    """Where clients reach it; an IP address."""
    server: Address
    """Where it reaches the gRPC server."""
    plans: Mapping[str, Plan]
    identity: Identity | None = None
    """The certificate that it shows its clients; None: it speaks plain HTTP to them."""
    server_tls: Servers | None = None
    """How it speaks TLS to the servers; None: plain text."""
    peers: Sequence[Address] = ()
    """This Envoy and the others before the same servers, or a DNS name for all: each then grants its part of a limit.
    None: it grants the whole."""
    issuer: str = tokens.ISSUER
    audience: str = tokens.AUDIENCE
    otlp: Collector | None = None
    """Where spans go; None: Envoy makes none, and passes the client's trace context on."""
    admin: Address | None = None
    """Envoy's own admin interface; None: off. It can stop Envoy: give it a loopback address."""
    access_log: bool = True
    """A line of JSON on stdout for each request."""
    body_limit: int = 4 * 1024 * 1024
    """Bytes of a request, as JSON or as a message."""
    response_limit: int = 6 * answers.BYTES + 1024 * 1024
    """Bytes of a JSON response: what the fullest answer takes, every byte of it escaped."""
    unary_seconds: float = 35.0
    """Longer than the server gives a call, so that the server gets to answer."""
    silence_seconds: float = 60.0
    """How long nothing may move on a call, nor its client read what is left of the answer: longer than a unary call may
    take, and than it is from one ping of an event stream to the next."""
    stream_silence_seconds: float = (LIFETIME + 2 * CLOCK_SKEW).total_seconds()
    """The same for streams without pings: longer than a token lives, with which the server ends them, unless it is told
    the next one on the stream."""
    jwks_seconds: int = 5
    """How long a new signing key may go unnoticed."""
    patience_seconds: float = 10.0
    """How long a connection may take to come to its TLS, and a request to the end of its headers."""
    max_connections: int = 20_000
    max_workspaces: int = 100_000
    """How many workspaces' rate limits are kept apart at a time, for each plan."""
    sign_ins: Rate = SIGN_INS
    """From one address."""
    open_calls: Rate = OPEN_CALLS
    """From one address."""
    max_addresses: int = 100_000
    """How many addresses are kept apart at a time; the one unseen for longest is forgotten for the next."""
    origins: Sequence[str] = ()
    """The other sites whose pages may call, such as `https://app.example`."""
    trusted_hops: int = 0
    """How many proxies in front say in x-forwarded-for where a call comes from; 0: the connection's address counts."""
    heap_bytes: int = 768 * 1024 * 1024
    """How much memory it may take: near it, Envoy resets the calls that hold most, then refuses new ones."""

    @property
    def limits(self) -> routes.Limits:
        """What holds for each call."""
        return routes.Limits(self.body_limit, self.unary_seconds, self.stream_silence_seconds)


def write(settings: Settings, folder: Path, name: str = "envoy.yaml") -> Path:
    """Writes the configuration into the folder, beside it what it says of certificates, and says where it is.

    Only its owner may read it: what the collector of spans wants to see may be in it (`Collector.headers`).
    """
    path = folder / name
    write_private(path, render(settings, folder))
    for file, secret in tls.secrets(settings.identity, settings.server_tls).items():
        write_private(folder / file, json.dumps(secret))
    return path


def command(config: Path, *, threads: int = 2) -> list[str]:
    """The command line that runs Envoy with the configuration.

    Of its threads more than one, whatever the machine: one call can hold its thread for a second
    (docs/decisions/0002-envoy.md).

    Hot restart is off: it needs shared memory by a number that two stacks on one machine would both use. jwt_authn's
    warnings are off: while no server is up there is one for each try to fetch the keys, and the access log has these.
    """
    logs = ["--log-level", "warn", "--component-log-level", "jwt:error", "--file-flush-interval-msec", "1000"]
    return ["envoy", "-c", str(config), "--disable-hot-restart", "--concurrency", str(threads), *logs]


def render(settings: Settings, folder: Path | None = None) -> str:
    """The whole configuration in one file: descriptors and Lua are inside it.

    But where certificates are is told by files in the folder, which `write` writes. Raises ValueError without one.
    """
    methods, otlp, overloaded = view.methods(), settings.otlp, errors.Overloaded()
    if folder is None and (settings.identity or settings.server_tls):
        raise ValueError("TLS needs files of its own beside the configuration, and so a file for that")
    beside = (folder or Path()).absolute()
    values = {
        "ADDRESS_LIMITS": [
            rates.bucket([{"key": "limit", "value": name}, {"key": "masked_remote_address"}], rate)
            for name, rate in (
                (replies.TOO_MANY_SIGN_INS, settings.sign_ins),
                (replies.TOO_MANY_OPEN_CALLS, settings.open_calls),
            )
        ],
        "ADMIN": {"address": _socket(settings.admin)} if settings.admin else {},
        "ACCESS_LOG": _access_log(settings.otlp) if settings.access_log else [],
        "AUDIENCE": settings.audience,
        "BODIES_STATUS": replies.BODIES_STATUS,
        "BODY_LIMIT": settings.body_limit,
        "BODY_LIMITS": rates.of_bodies(settings.plans, settings.body_limit),
        "CLUSTER_MANAGER": {"local_cluster_name": "envoys"} if settings.peers else {},
        "CORS": cors.policy(settings.origins, methods),
        "DESCRIPTORS": base64.b64encode(view.descriptors().SerializeToString()).decode(),
        "ENVOYS": _endpoints("envoys", *settings.peers),
        "HEAP": settings.heap_bytes,
        "HEADERS": f"local HEADER_BYTES, HEADER_COUNT = {HEADER_BYTES}, {HEADER_COUNT}\n" + _source("headers.lua"),
        "HSTS": tls.TOLD,
        "INTERNAL": _literal(status.shown(errors.Internal())),
        "ISSUER": settings.issuer,
        "JWKS_REFRESH": f"{settings.jwks_seconds}s",
        "LISTENER_FILTERS": tls.inspector() if settings.identity else [],
        "LISTENER_TLS": tls.downstream(settings.identity, beside),
        "LISTEN_HOST": settings.listen.host,
        "LISTEN_PORT": settings.listen.port,
        "LUA": lua(settings),
        "MAX_ADDRESSES": settings.max_addresses,
        "MAX_CONNECTIONS": settings.max_connections,
        "MAX_WORKSPACES": settings.max_workspaces,
        "OVERLOADED": _literal(status.shown(overloaded)),
        "OVERLOADED_DETAILS": replies.details(overloaded),
        "OVERLOADED_MESSAGE": _literal(overloaded.message),
        "OVERLOADED_SECONDS": replies.retry_after(overloaded),
        "OTLP": _endpoints("otlp", *([Address(otlp.host, otlp.port)] if otlp else [])),
        "OTLP_TRANSPORT": otlp.transport_socket() if otlp else None,
        "RATE_LIMITS": rates.of_calls(settings.plans),
        "PATIENCE": f"{settings.patience_seconds}s",
        "PLAN": rates.plan_of_token(settings.plans),
        "REQUEST": request_lua(),
        "REQUEST_TIMEOUT": f"{settings.unary_seconds}s",
        "RESPONSE_LIMIT": settings.response_limit,
        "ROUTES": [*cors.preflights(settings.origins), *routes.table(methods, settings.limits)],
        "SELF": _endpoints("self", _reachable(settings.listen)),
        "SELF_TLS": tls.loopback(settings.identity),
        "SERVER": _endpoints("server", settings.server),
        "SERVER_STREAMS": SERVER_STREAMS,
        "SERVER_STREAM_WINDOW": SERVER_STREAM_WINDOW,
        "SERVER_WINDOW": SERVER_STREAM_WINDOW * SERVER_STREAMS,
        "SERVER_TLS": tls.upstream(settings.server_tls, beside),
        "SERVICES": view.services(),
        "SILENCE": f"{settings.silence_seconds}s",
        "SHARED": {} if settings.peers else None,
        "TLS_ONLY": {"transport_protocol": "tls"} if settings.identity else None,
        "TRACING": otlp.tracing() if otlp else None,
        "TRUSTED_HOPS": settings.trusted_hops,
    }
    rendered = {name: json.dumps(value) for name, value in values.items()}
    return string.Template(_source("envoy.yaml")).substitute(rendered)


def lua(settings: Settings) -> str:
    """The first Lua filter: its table of replies, what it knows of text, then its sources."""
    sizes = {routes.too_large(method, settings.limits) for method in (*view.methods(), *routes.FOREIGN)}
    table = replies.lua_table(replies.replies(sizes, HEADER_BYTES))
    waits = f"local WAITS = {{ {', '.join(map(str, replies.BODIES_SECONDS))} }}\n"
    tables = f'local HSTS = "{tls.HSTS}"\n' + table + rates.lua_table(settings.plans) + waits
    return tables + "".join(map(_source, ("text.lua", "shown.lua", "rest.lua")))


def request_lua() -> str:
    """The Lua filter before the transcoder: what it knows of the contract and of JSON, then its source."""
    fields = {
        message: ", ".join(f'["{name}"] = "{kind}"' for name, kind in kinds.items())
        for message, kinds in view.messages().items()
    }
    messages = "".join(f'  ["{message}"] = {{ {kinds} }},\n' for message, kinds in fields.items())
    tables = f"local MESSAGES = {{\n{messages}}}\nlocal LEVELS = {structs.LEVELS}\nlocal VALUES = {VALUES}\n"
    return tables + "".join(_source(name) for name in ("text.lua", "json.lua", "request.lua"))


def _literal(text: str) -> str:
    """The text as a format of Envoy's, which reads % as the beginning of a variable of its own."""
    return text.replace("%", "%%")


def _source(name: str) -> str:
    """A file of the repository's `envoy/` folder, which a wheel carries inside this package."""
    here = Path(__file__).parent
    for folder in (here / "source", here.parents[3] / "envoy"):
        if (folder / name).is_file():
            return (folder / name).read_text()
    raise FileNotFoundError(f"envoy/{name} is neither in the package nor in the repository")


def _access_log(otlp: Collector | None) -> list[dict[str, Any]]:
    """What a request was, by whom, and what became of it: nothing of it that may hold a secret, or be of any length.

    That is no query, no header and no body, but what `shown.lua` shows of them; which is nothing, if the request is
    refused before all filters. The id of a trace that Envoy begins itself is known to Envoy alone.
    """
    fields = {
        "time": "%START_TIME%",
        "request_id": "%DYNAMIC_METADATA(openmcp:request_id)%",
        "trace_id": "%TRACE_ID%" if otlp else "%DYNAMIC_METADATA(openmcp:trace_id)%",
        "workspace_id": "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:workspace_id)%",
        "method": "%DYNAMIC_METADATA(openmcp:method)%",
        "path": PATH,
        "route": "%ROUTE_NAME%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "duration_ms": "%DURATION%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "upstream": "%UPSTREAM_HOST%",
    }
    kind = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
    config = {"@type": kind, "log_format": {"json_format": fields}}
    return [{"name": "envoy.access_loggers.stdout", "typed_config": config}]


def _reachable(listen: Address) -> Address:
    """Where Envoy reaches its own listener."""
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on is the settings' choice
    return Address(own.get(listen.host, listen.host), listen.port)


def _socket(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _endpoints(cluster: str, *addresses: Address) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _socket(address)}} for address in addresses]
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]}
