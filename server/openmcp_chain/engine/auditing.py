"""The audit log: who did what to workspaces, secrets and signing keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import uuid_utils

from openmcp_chain.domain.audit import Action, Actor, Event
from openmcp_chain.engine import pages
from openmcp_chain.engine.clock import Clock
from openmcp_chain.store.base import Store


@dataclass(frozen=True, slots=True)
class Logged:
    """A page of the log, the newest first, and the token of the next one; empty if this is the last."""

    events: Sequence[Event]
    next_page_token: str


class AuditLog:
    """Written to before anything is done."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def write(
        self, actor: Actor, action: Action, workspace_id: str = "", details: Mapping[str, str] | None = None
    ) -> None:
        """Says, durably, that the actor is about to do this. Only then may it be done."""
        event = Event(
            id=str(uuid_utils.uuid7()),
            at=self._clock(),
            actor=actor,
            action=action,
            workspace=workspace_id,
            details=details or {},
        )
        await self._store.add_audit_event(event)

    async def list(self, workspace_id: str, size: int, page_token: str = "") -> Logged:
        """A page of up to `size` of what was done to a workspace, or to anything if that is empty; the newest first.

        A workspace that is no more has its events still. Raises InvalidArgument for a token that is not of this very
        list.
        """
        mark = pages.mark("audit", workspace_id)
        before = str(pages.decode(mark, page_token, 1)[0]) if page_token else ""
        found = await self._store.list_audit_events(workspace_id, before, size + 1)
        page = found[:size]
        return Logged(page, pages.encode(mark, page[-1].id) if len(found) > size else "")
