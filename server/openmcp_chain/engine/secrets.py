"""Secrets of workspaces: made here, told once, rotated with an overlap, revoked."""

import os
import secrets
from collections.abc import Sequence
from datetime import timedelta

from openmcp_chain.domain import errors, workspace
from openmcp_chain.domain.audit import Action, Actor
from openmcp_chain.domain.workspace import SECRET_PREFIX, Secret, Workspace
from openmcp_chain.engine.auditing import AuditLog
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.registry import Registry
from openmcp_chain.engine.sealing import MasterKey

OVERLAP = timedelta(days=1)
"""How long the secrets of before stay valid, unless it is said."""
PART = 100
"""How many audit events are read at once."""
_ENDING = frozenset({Action.SECRET_CREATE, Action.WORKSPACE_CREATE, Action.WORKSPACE_DELETE})
"""What may end the secrets of before."""


class Secrets:
    """What a workspace signs in with. An unknown workspace: WorkspaceNotFound."""

    def __init__(self, registry: Registry, audit: AuditLog, master: MasterKey, clock: Clock) -> None:
        self._registry = registry
        self._audit = audit
        self._master = master
        self._clock = clock

    def new(self) -> tuple[Secret, str]:
        """A new one, as it is kept, and as it is told once."""
        told = f"{SECRET_PREFIX}{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
        return self.keep(told), told

    def keep(self, told: str) -> Secret:
        """A secret as it is kept. Raises ValueError, which does not repeat it, for what has not the form of one."""
        secret_id = workspace.secret_id(told)
        if secret_id is None:
            raise ValueError(f"not of the form {workspace.SECRET_FORM}")
        salt = os.urandom(16)
        return Secret(secret_id, salt, workspace.digest(self._master.pepper, salt, told), self._clock())

    async def list(self, workspace_id: str) -> Sequence[Secret]:
        """Those that are valid, the oldest first."""
        known, now = await self._registry.get(workspace_id), self._clock()
        return [secret for secret in known.secrets if secret.valid(now)]

    async def accepts(self, workspace_id: str, told: str) -> bool:
        """Whether the workspace can sign in with this secret."""
        known = await self._registry.get(workspace_id)
        return workspace.matches(known, told, self._master.pepper, self._clock()) is not None

    async def rotate(self, actor: Actor, workspace_id: str, overlap: timedelta = OVERLAP) -> tuple[Secret, str]:
        """A new secret, as it is kept, and as it is told here and never again.

        Those of before end after `overlap`. Raises TooManySecrets, AdministratorProtected, WorkspaceDeleting, Aborted.
        """
        kept, told = self.new()
        await self._add(actor, workspace_id, kept, overlap)
        return kept, told

    async def revoke(self, actor: Actor, workspace_id: str, secret_id: str) -> None:
        """Ends a secret at once. Raises OwnWorkspace, SecretNotFound, WorkspaceDeleting, Aborted."""

        def decide(known: Workspace) -> Workspace:
            if known.secret(secret_id, self._clock()) is None:
                raise errors.SecretNotFound(secret_id)
            return known.without_secret(secret_id)

        await self._registry.change(actor, Action.SECRET_REVOKE, workspace_id, decide, {"secret_id": secret_id})

    async def admit(self, actor: Actor, workspace_id: str, kept: Secret) -> None:
        """Makes sure that a workspace takes this secret, which somebody else has made. Raises as `rotate` does."""
        await self._add(actor, workspace_id, kept, OVERLAP)

    async def ended(self, workspace_id: str, secret_id: str) -> bool:
        """Whether by the audit log the workspace had this secret, and something was done that may have ended it.

        An event is written before its deed: that a secret was to be made does not say that it was. If nothing followed
        it never was there, or is there still.
        """
        token, followed, ended = "", False, False
        while True:
            page = await self._audit.list(workspace_id, PART, token)
            for event in page.events:
                if event.details.get("secret_id") != secret_id:
                    followed = followed or event.action in _ENDING
                elif event.action is Action.SECRET_REVOKE:
                    return True
                else:
                    ended = followed
            if not page.next_page_token:
                return ended
            token = page.next_page_token

    async def _add(self, actor: Actor, workspace_id: str, new: Secret, overlap: timedelta) -> None:
        def decide(known: Workspace) -> Workspace:
            # Another process may have been given the same one.
            there = known.secret(new.id, new.created_at) is not None
            return known if there else known.with_secret(new, overlap)

        details = {"secret_id": new.id, "overlap": f"{overlap.total_seconds():g}s"}
        await self._registry.change(actor, Action.SECRET_CREATE, workspace_id, decide, details)
