"""Who may call: workspaces, operators, their secrets, and what a token says of its bearer."""

import enum
import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime

SECRET_PREFIX = "omcp_"  # noqa: S105 - a mark by which scanners find leaked secrets, not a secret
_SECRET = re.compile(rf"{SECRET_PREFIX}([0-9a-f]{{8}})_([A-Za-z0-9_-]{{43}})")


class Scope(enum.StrEnum):
    """What a token allows."""

    TASKS_READ = "tasks:read"
    TASKS_WRITE = "tasks:write"
    WORKER = "worker"
    """Take and report on tasks: a workspace's own, or an operator's types in every workspace."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret as it is kept: enough to recognise it, not to tell it."""

    id: str
    """Eight hexadecimal digits, part of the secret itself; harmless to show."""
    salt: bytes
    digest: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A tenant; or an operator, which owns no tasks but may work for all tenants."""

    id: str
    plan: str
    """A name in the plans file."""
    worker_types: frozenset[str]
    """Empty for a tenant. An operator's: the task types that it may take from every workspace."""
    disabled: bool
    secrets: tuple[Secret, ...]
    """Those that are valid; two during a rotation."""
    created_at: datetime
    version: int

    @property
    def is_operator(self) -> bool:
        return bool(self.worker_types)

    @property
    def scopes(self) -> frozenset[Scope]:
        return frozenset({Scope.WORKER}) if self.is_operator else frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Principal:
    """The bearer of a valid token."""

    workspace: str
    plan: str
    scopes: frozenset[Scope]
    worker_types: frozenset[str]
    """As in `Workspace`."""
    secret_id: str
    """The secret that the token was got with; the token ends with it."""
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair that tokens are signed with."""

    kid: str
    private_pem: bytes
    """PKCS #8, encrypted with the deployment's master key."""
    public_jwk: dict[str, str]
    signs_from: datetime
    """Published before it signs, so that every verifier knows it by then."""


def digest(pepper: bytes, salt: bytes, secret: str) -> bytes:
    """What is kept of a secret: HMAC-SHA-256 under a key that the database does not hold.

    A secret is 256 random bits, so a slow password hash would protect nothing, and stall the server.
    """
    return hmac.digest(pepper, salt + secret.encode(), hashlib.sha256)


def matches(workspace: Workspace | None, presented: str, pepper: bytes) -> Secret | None:
    """The workspace's secret that `presented` is, if it may sign in with it.

    Takes the same steps for an unknown workspace, a disabled one and a wrong secret, so that neither answer nor time
    tells them apart.
    """
    shape = _SECRET.fullmatch(presented)
    wanted = shape.group(1) if shape else ""
    found = next((s for s in workspace.secrets if s.id == wanted), None) if workspace else None
    kept = found or _NOBODY
    equal = hmac.compare_digest(digest(pepper, kept.salt, presented[:256]), kept.digest)
    return found if equal and workspace and not workspace.disabled else None


_NOBODY = Secret("", b"\0" * 16, b"\0" * 32, datetime.min)  # noqa: DTZ901 - stands for no time
