"""Secrets of workspaces: made here, told once, rotated with an overlap, revoked."""

import logging
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

log = logging.getLogger(__name__)

OVERLAP = timedelta(days=1)
"""How long the secrets of before stay valid, unless it is said."""
PART = 100
"""How many audit events are read at once."""


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

        Those of before end after `overlap`; of more than `workspace.SECRETS`, the oldest at once. Raises
        WorkspaceDeleting, Aborted.
        """
        kept, told = self.new()
        await self._add(actor, workspace_id, kept, overlap)
        return kept, told

    async def revoke(self, actor: Actor, workspace_id: str, secret_id: str, own: str = "") -> None:
        """Ends a secret at once. `own`: the one that the actor itself came with.

        Raises OwnWorkspace for that, SecretNotFound, WorkspaceDeleting, Aborted.
        """
        if (workspace_id, secret_id) == (actor.name, own):
            raise errors.OwnWorkspace

        def decide(known: Workspace) -> Workspace:
            if known.secret(secret_id, self._clock()) is None:
                raise errors.SecretNotFound(secret_id)
            return known.without_secret(secret_id)

        await self._registry.change(actor, Action.SECRET_REVOKE, workspace_id, decide, {"secret_id": secret_id})

    async def admit(self, actor: Actor, workspace_id: str, told: str) -> None:
        """Makes sure that a workspace takes this secret, which somebody else has made.

        But one that it had before, and that has ended, was ended by somebody: it does not come back, and the log says
        so. Raises ValueError for what is no secret.
        """
        kept = self.keep(told)
        known = await self._registry.get(workspace_id)
        if known.secret(kept.id, self._clock()) is not None:
            return
        if await self._had(workspace_id, kept.id):
            log.warning("a secret that was given has ended before", extra={"workspace": workspace_id})
            return
        await self._add(actor, workspace_id, kept, OVERLAP)

    async def _add(self, actor: Actor, workspace_id: str, new: Secret, overlap: timedelta) -> None:
        def decide(known: Workspace) -> Workspace:
            return known.with_secret(new, overlap)

        details = {"secret_id": new.id, "overlap": f"{overlap.total_seconds():g}s"}
        await self._registry.change(actor, Action.SECRET_CREATE, workspace_id, decide, details)

    async def _had(self, workspace_id: str, secret_id: str) -> bool:
        """Whether the audit log has it that the workspace got this secret."""
        token = ""
        while True:
            page = await self._audit.list(workspace_id, PART, token)
            if any(event.details.get("secret_id") == secret_id for event in page.events):
                return True
            if not page.next_page_token:
                return False
            token = page.next_page_token
