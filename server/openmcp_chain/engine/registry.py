"""The one way to change workspaces: guarded, and written to the audit log before it is done.

What is refused, or would change nothing, is not written there.

A token changes little of administrators. Tokens are stolen, and end in a quarter of an hour; so by a token nobody gets
what lasts longer, a secret of an administrator or a disabled one let in again, and nobody takes for good what only a
command gives back. What stays is to shut another one out, whose secret was found somewhere. All else takes the
database and the master key. Left out: to let a token rotate with proof of the present secret; that would be one more
call with a secret in it, for what the command does as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from openmcp_chain.domain import errors, ids
from openmcp_chain.domain.audit import Action, Actor
from openmcp_chain.domain.workspace import Kind, State, Workspace
from openmcp_chain.engine.auditing import AuditLog
from openmcp_chain.engine.clock import Clock
from openmcp_chain.store.base import Store

AGAIN = 10
"""How often a change is tried when others come first."""
BRAKES = frozenset({Action.WORKSPACE_DISABLE, Action.SECRET_REVOKE})
"""What an administrator's token does to another administrator."""


class Registry:
    """Workspaces, operators and administrators by id."""

    def __init__(self, store: Store, log: AuditLog, clock: Clock) -> None:
        self._store = store
        self._log = log
        self._clock = clock

    async def get(self, workspace_id: str) -> Workspace:
        """The workspace. Raises WorkspaceNotFound."""
        known = await self._store.get_workspace(workspace_id) if ids.is_workspace_id(workspace_id) else None
        if known is None:
            raise errors.WorkspaceNotFound(workspace_id)
        return known

    async def add(self, actor: Actor, new: Workspace, details: Mapping[str, str]) -> None:
        """Adds a workspace. Raises WorkspaceExists."""
        if await self._store.get_workspace(new.id) is None:
            await self._log.write(actor, Action.WORKSPACE_CREATE, new.id, details)
            if await self._store.put_workspace(new):
                return
        raise errors.WorkspaceExists(new.id)

    async def change(
        self,
        actor: Actor,
        action: Action,
        workspace_id: str,
        decide: Callable[[Workspace], Workspace],
        details: Mapping[str, str] | None = None,
    ) -> Workspace:
        """Changes a workspace as `decide` says; if another change came first, reads it again and decides again.

        `decide` returns what is to be (the same: nothing to do), or raises. Raises WorkspaceNotFound, WorkspaceDeleting
        for a change of what is being deleted, Aborted if others keep coming first; AdministratorProtected, OwnWorkspace
        for what no token does.
        """
        written = False
        for _ in range(AGAIN):
            known = await self.get(workspace_id)
            _permit(actor, action, known)
            wanted = decide(known)
            if wanted == known:
                return known
            if known.state is State.DELETING:
                raise errors.WorkspaceDeleting
            if not written:
                await self._log.write(actor, action, workspace_id, details)
                written = True
            changed = replace(wanted, updated_at=self._clock(), version=known.version + 1)
            if await self._store.put_workspace(changed):
                return changed
        raise errors.Aborted


def _permit(actor: Actor, action: Action, known: Workspace) -> None:
    if actor.local or known.kind is not Kind.ADMINISTRATOR:
        return
    if action not in BRAKES:
        raise errors.AdministratorProtected
    if known.id == actor.name:
        raise errors.OwnWorkspace
