"""Who may call: workspaces, operators, their secrets, and what a token says of its bearer."""

import enum
import hashlib
import hmac
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from openmcp_chain.domain.errors import TooManySecrets
from openmcp_chain.domain.plans import Plan

SECRET_PREFIX = "omcp_"  # noqa: S105 - a mark by which scanners find leaked secrets, not a secret
SECRET_FORM = "omcp_, 8 of 0-9 a-f, _, 43 of A-Z a-z 0-9 - _"  # noqa: S105 - as above
SECRETS = 2
"""How many secrets a workspace may have at once: the old and the new one of a rotation."""

_SECRET = re.compile(rf"{SECRET_PREFIX}([0-9a-f]{{8}})_([A-Za-z0-9_-]{{43}})")


class Scope(enum.StrEnum):
    """What a token allows."""

    TASKS_READ = "tasks:read"
    TASKS_WRITE = "tasks:write"
    WORKER = "worker"
    """Take and report on tasks: a workspace's own, or an operator's types in every workspace."""
    ADMIN = "admin"
    """Manage workspaces."""


class Kind(enum.StrEnum):
    """What a workspace is for, and so what it may do at all."""

    TENANT = "tenant"
    """Has tasks of its own."""
    OPERATOR = "operator"
    """Works on task types for every workspace; has no tasks."""
    ADMINISTRATOR = "administrator"
    """Manages workspaces; has no tasks."""

    @property
    def scopes(self) -> frozenset[Scope]:
        return _SCOPES[self]


_SCOPES = {
    Kind.TENANT: frozenset({Scope.TASKS_READ, Scope.TASKS_WRITE, Scope.WORKER}),
    Kind.OPERATOR: frozenset({Scope.WORKER}),
    Kind.ADMINISTRATOR: frozenset({Scope.ADMIN}),
}


class State(enum.StrEnum):
    """Whether a workspace may do anything."""

    ACTIVE = "active"
    DISABLED = "disabled"
    """Shut out; can be let in again."""
    DELETING = "deleting"
    """Shut out for good; its tasks are being deleted."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret as it is kept: enough to recognise it, not to tell it."""

    id: str
    """Eight hexadecimal digits, part of the secret itself; harmless to show."""
    salt: bytes
    digest: bytes
    created_at: datetime
    expires_at: datetime | None = None
    """From when it is no longer valid; None: until it is revoked."""

    def valid(self, now: datetime) -> bool:
        """Whether it may still be used."""
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a workspace may use, where that differs from its plan."""

    pending_tasks: int = 0
    """How many tasks may wait at a time; 0: the plan's number."""
    streams: int = 0
    """How many streams may be open at a time, in one server process; 0: the plan's number."""

    def within(self, plan: Plan) -> "Quotas":
        """What a workspace of this plan may use."""
        return Quotas(self.pending_tasks or plan.pending_tasks, self.streams or plan.streams)


AS_PLANNED = Quotas()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Who may sign in: a tenant, an operator or an administrator."""

    id: str
    kind: Kind = Kind.TENANT
    state: State = State.ACTIVE
    plan: str
    """A name in the plans file."""
    quotas: Quotas = AS_PLANNED
    worker_types: frozenset[str] = frozenset()
    """An operator's: the task types that it may take from every workspace."""
    secrets: tuple[Secret, ...]
    """The oldest first; two may be valid during a rotation."""
    created_at: datetime
    updated_at: datetime
    version: int

    @property
    def active(self) -> bool:
        return self.state is State.ACTIVE

    def secret(self, secret_id: str, now: datetime) -> Secret | None:
        """The secret with this id, if it is valid."""
        return next((s for s in self.secrets if s.id == secret_id and s.valid(now)), None)

    def with_secret(self, new: Secret, overlap: timedelta) -> "Workspace":
        """The workspace with a new secret; those of before end after `overlap`, if not sooner.

        Raises TooManySecrets if there are `SECRETS` of them, and the overlap leaves them valid: which of them is in use
        is not known here, so that none makes room.
        """
        now, end = new.created_at, new.created_at + overlap
        ending = (replace(s, expires_at=min(s.expires_at or end, end)) for s in self.secrets)
        kept = tuple(s for s in ending if s.valid(now))
        if len(kept) >= SECRETS:
            raise TooManySecrets([s.id for s in kept])
        return replace(self, secrets=(*kept, new))

    def without_secret(self, secret_id: str) -> "Workspace":
        """The workspace without this secret."""
        return replace(self, secrets=tuple(s for s in self.secrets if s.id != secret_id))


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
    key_id: str
    """The key that the token was signed with; the token ends with it."""
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair that tokens are signed with; see `domain.keys`."""

    kid: str
    private_pem: bytes
    """PKCS #8, encrypted with the deployment's master key."""
    public_jwk: dict[str, str]
    signs_from: datetime
    """Published before it signs, so that every verifier knows it by then."""


def secret_id(presented: str) -> str | None:
    """The id that is part of a secret; None for what has not the form of one."""
    shape = _SECRET.fullmatch(presented)
    return shape.group(1) if shape else None


def digest(pepper: bytes, salt: bytes, secret: str) -> bytes:
    """What is kept of a secret: HMAC-SHA-256 under a key that the database does not hold.

    A secret is 256 random bits, so a slow password hash would protect nothing, and stall the server.
    """
    return hmac.digest(pepper, salt + secret.encode(), hashlib.sha256)


def matches(workspace: Workspace | None, presented: str, pepper: bytes, now: datetime) -> Secret | None:
    """The workspace's secret that `presented` is, if it may sign in with it.

    Takes the same steps for an unknown workspace, a disabled one and a wrong secret, so that neither answer nor time
    tells them apart.
    """
    found = workspace.secret(secret_id(presented) or "", now) if workspace else None
    kept = found or _NOBODY
    equal = hmac.compare_digest(digest(pepper, kept.salt, presented[:256]), kept.digest)
    return found if equal and workspace and workspace.active else None


_NOBODY = Secret("", b"\0" * 16, b"\0" * 32, datetime.min)  # noqa: DTZ901 - stands for no time
