"""A server process's settings: one frozen tree, read from the environment and checked once, before anything starts."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Literal

from openmcp_chain.domain import plans, workspace
from openmcp_chain.domain.plans import Plan
from openmcp_chain.engine.sealing import MasterKey

Driver = Literal["motor", "pymongo"]
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class ConfigError(Exception):
    """A setting is missing or wrong. The message names its variable, and never repeats a secret."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Where the server's certificates are: PEM files, read again when they change."""

    certificate: Path
    """OPENMCP_TLS_CERT_FILE: the server's certificate, and those between it and an authority that clients trust."""
    key: Path
    """OPENMCP_TLS_KEY_FILE: its private key."""
    client_ca: Path | None
    """OPENMCP_TLS_CLIENT_CA_FILE: the authorities of one of which every client must have a certificate; None: it needs
    none."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a server process is told."""

    listen: str
    """OPENMCP_GRPC_LISTEN: the `host:port` to serve on; port 0 picks a free one."""
    tls: Tls | None
    """None: plain text."""
    health_listen: str
    """OPENMCP_HEALTH_LISTEN: the `host:port` where only health is told, in plain text, for probes; empty: nowhere."""
    mongodb_uri: str
    """OPENMCP_MONGODB_URI, or the file that OPENMCP_MONGODB_URI_FILE names. May hold a password: never logged."""
    mongodb_database: str
    """OPENMCP_MONGODB_DATABASE."""
    mongodb_driver: Driver
    """OPENMCP_MONGODB_DRIVER: `pymongo`, or `motor`, which came before it."""
    master: MasterKey
    """OPENMCP_MASTER_KEY, or the file that OPENMCP_MASTER_KEY_FILE names: 32 bytes in base64."""
    admin_secret: str = field(repr=False)
    """OPENMCP_ADMIN_SECRET, or the file that OPENMCP_ADMIN_SECRET_FILE names: the first administrator's, if any."""
    plans: Mapping[str, Plan]
    """OPENMCP_PLANS_FILE; by default the one that is shipped."""
    lease_duration: timedelta
    """OPENMCP_LEASE_DURATION, seconds: how long a worker may be silent."""
    retention: timedelta
    """OPENMCP_RETENTION, seconds: how long an ended task is kept."""
    lame_duck: float
    """OPENMCP_LAME_DUCK_SECONDS: how long, at most, calls are still taken on SIGTERM, after health says NOT_SERVING."""
    drain: float
    """OPENMCP_DRAIN_SECONDS: how long calls under way may take to end on SIGTERM."""
    log_level: str
    """OPENMCP_LOG_LEVEL."""


def from_environment(environment: Mapping[str, str] = os.environ) -> Config:
    """The settings. Raises ConfigError naming the variable at fault."""
    return Config(
        listen=_listen("OPENMCP_GRPC_LISTEN", environment.get("OPENMCP_GRPC_LISTEN", "127.0.0.1:50051")),
        tls=_tls(environment),
        health_listen=_health_listen(environment),
        mongodb_uri=secret(environment, "OPENMCP_MONGODB_URI"),
        mongodb_database=_database(environment.get("OPENMCP_MONGODB_DATABASE", "openmcp")),
        mongodb_driver=_driver(environment.get("OPENMCP_MONGODB_DRIVER", "pymongo")),
        master=_master(environment),
        admin_secret=_admin_secret(environment),
        plans=load_plans(environment),
        lease_duration=_seconds(environment, "OPENMCP_LEASE_DURATION", 15, least=0.5),
        retention=_seconds(environment, "OPENMCP_RETENTION", 7 * 24 * 3600, least=1),
        lame_duck=_seconds(environment, "OPENMCP_LAME_DUCK_SECONDS", 3, least=0).total_seconds(),
        drain=_seconds(environment, "OPENMCP_DRAIN_SECONDS", 10, least=0).total_seconds(),
        log_level=log_level(environment),
    )


def log_level(environment: Mapping[str, str]) -> str:
    """OPENMCP_LOG_LEVEL, which every process reads."""
    level = environment.get("OPENMCP_LOG_LEVEL", "INFO").upper()
    if level not in _LEVELS:
        raise ConfigError(f"OPENMCP_LOG_LEVEL must be one of {', '.join(_LEVELS)}")
    return level


def load_plans(environment: Mapping[str, str]) -> Mapping[str, Plan]:
    """OPENMCP_PLANS_FILE, which the server and Envoy's configuration are made from. Raises ConfigError."""
    path = environment.get("OPENMCP_PLANS_FILE", "")
    try:
        text = Path(path).read_text() if path else (resources.files(__package__) / "plans.toml").read_text()
        return plans.parse(tomllib.loads(text))
    except (OSError, ValueError) as error:
        raise ConfigError(f"OPENMCP_PLANS_FILE: {error}") from None


def secret(environment: Mapping[str, str], name: str) -> str:
    """The variable `name`, or the contents of the file that `name`_FILE names. Raises ConfigError."""
    value = _optional_secret(environment, name)
    if not value:
        raise ConfigError(f"{name} must be set")
    return value


def _optional_secret(environment: Mapping[str, str], name: str) -> str:
    """The same; empty if neither is set."""
    if path := environment.get(f"{name}_FILE"):
        try:
            value = Path(path).read_text().strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name}_FILE: cannot read {path!r}: {type(error).__name__}") from None
        if not value:
            raise ConfigError(f"{name}_FILE: {path} is empty")
        return value
    return environment.get(name, "")


def _listen(name: str, value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or re.fullmatch("[0-9]{1,5}", port) is None or int(port) > 65535:
        raise ConfigError(f"{name} must be host:port, not {value!r}")
    return value


def _health_listen(environment: Mapping[str, str]) -> str:
    value = environment.get("OPENMCP_HEALTH_LISTEN", "")
    return _listen("OPENMCP_HEALTH_LISTEN", value) if value else ""


def _tls(environment: Mapping[str, str]) -> Tls | None:
    names = ("OPENMCP_TLS_CERT_FILE", "OPENMCP_TLS_KEY_FILE", "OPENMCP_TLS_CLIENT_CA_FILE")
    certificate, key, client_ca = (environment.get(name, "") for name in names)
    if not (certificate or key or client_ca):
        return None
    for name, value in zip(names[:2], (certificate, key), strict=True):
        if not value:
            raise ConfigError(f"{name} must be set too: TLS needs a certificate and its key")
    return Tls(Path(certificate), Path(key), Path(client_ca) if client_ca else None)


def _database(value: str) -> str:
    # What MongoDB allows on every system (Naming Restrictions), and short enough for it.
    if re.fullmatch("[A-Za-z0-9_-]{1,63}", value) is None:
        raise ConfigError(f"OPENMCP_MONGODB_DATABASE must be 1 to 63 of A-Z a-z 0-9 _ -, not {value!r}")
    return value


def _driver(value: str) -> Driver:
    if value == "motor":
        return "motor"
    if value == "pymongo":
        return "pymongo"
    raise ConfigError(f"OPENMCP_MONGODB_DRIVER must be pymongo or motor, not {value!r}")


def _master(environment: Mapping[str, str]) -> MasterKey:
    try:
        return MasterKey.decode(secret(environment, "OPENMCP_MASTER_KEY"))
    except ValueError as error:
        raise ConfigError(f"OPENMCP_MASTER_KEY: {error}") from None


def _admin_secret(environment: Mapping[str, str]) -> str:
    value = _optional_secret(environment, "OPENMCP_ADMIN_SECRET")
    if value and workspace.secret_id(value) is None:
        raise ConfigError(f"OPENMCP_ADMIN_SECRET is not of the form {workspace.SECRET_FORM}")
    return value


def _seconds(environment: Mapping[str, str], name: str, default: float, *, least: float) -> timedelta:
    text = environment.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    # The comparison is false for NaN as well.
    if not least <= value <= 10 * 365 * 24 * 3600:
        raise ConfigError(f"{name} must be a number of seconds, at least {least:g}, not {text!r}")
    return timedelta(milliseconds=round(value * 1000))
