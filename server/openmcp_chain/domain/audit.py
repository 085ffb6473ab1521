"""Who did what to workspaces, secrets and signing keys."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

LOCAL = "local:"
"""No workspace's id has a colon."""


class Action(enum.StrEnum):
    """What was done."""

    WORKSPACE_CREATE = "workspace.create"
    WORKSPACE_UPDATE = "workspace.update"
    WORKSPACE_DISABLE = "workspace.disable"
    WORKSPACE_ENABLE = "workspace.enable"
    WORKSPACE_DELETE = "workspace.delete"
    SECRET_CREATE = "secret.create"  # noqa: S105 - the name of a deed
    SECRET_REVOKE = "secret.revoke"  # noqa: S105 - as above
    KEY_ROTATE = "key.rotate"
    KEY_REVOKE = "key.revoke"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something."""

    name: str
    """An administrator's workspace id; `local:` and a user's name for a command on the server's own machine."""
    request_id: str = ""
    """Of the call; empty for a command."""

    @property
    def local(self) -> bool:
        """Whether it comes with the database and the master key, and not with a token."""
        return self.name.startswith(LOCAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that was done. Written before it is done, so that nothing is done unwritten."""

    id: str
    """A UUIDv7: later events have greater ones."""
    at: datetime
    actor: Actor
    action: Action
    workspace: str
    """To which workspace; empty for what concerns none."""
    details: Mapping[str, str] = field(default_factory=dict)
    """What there is to know besides; never a secret."""
