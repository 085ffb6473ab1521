"""What administrators do with workspaces: make them, change them, shut them out, delete them.

A change of state is written first on the workspace itself, then on its queues: what a process leaves undone, because it
died in between, `eviction` does.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import uuid_utils

from openmcp_chain.domain import errors, ids
from openmcp_chain.domain.audit import Action, Actor
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.plans import Plan, largest
from openmcp_chain.domain.workspace import AS_PLANNED, Kind, Quotas, Secret, State, Workspace
from openmcp_chain.engine import identity, pages, queues
from openmcp_chain.engine.queues import Queues
from openmcp_chain.engine.registry import Registry
from openmcp_chain.engine.secrets import Secrets
from openmcp_chain.store.base import Store

log = logging.getLogger(__name__)

FIRST = "admin"
"""The id of the first administrator, which nobody else gets: a server that is to make it would not start."""

REASON_CHARACTERS = 512
WORKER_TYPES = 64
"""How many task types an operator may have."""
WORKER_TYPE_CHARACTERS = 2048
"""How long they may be together: each of its tokens names them all, and goes with each of its calls."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of workspaces, and the token of the next one; empty if this is the last."""

    workspaces: Sequence[Workspace]
    next_page_token: str


class Workspaces:
    """All workspaces, operators and administrators. An unknown one: WorkspaceNotFound."""

    def __init__(
        self, store: Store, registry: Registry, secrets: Secrets, queues: Queues, plans: Mapping[str, Plan]
    ) -> None:
        self._store = store
        self._registry = registry
        self._secrets = secrets
        self._queues = queues
        self._plans = plans

    async def get(self, workspace_id: str) -> Workspace:
        """The workspace as it is now."""
        return await self._registry.get(workspace_id)

    async def list(self, size: int, page_token: str = "") -> Listed:
        """A page of up to `size`, by id. Raises InvalidArgument for a token that is not of this list."""
        mark = pages.mark("workspaces")
        after = str(pages.decode(mark, page_token, 1)[0]) if page_token else ""
        found = await self._store.list_workspaces(after, size + 1)
        page = found[:size]
        return Listed(page, pages.encode(mark, page[-1].id) if len(found) > size else "")

    async def create(
        self, actor: Actor, plan: str, workspace_id: str = "", quotas: Quotas = AS_PLANNED
    ) -> tuple[Workspace, str]:
        """A new workspace, and its secret, which is told here and never again.

        Raises InvalidArgument for a bad plan or id, WorkspaceExists.
        """
        kept, told = self._secrets.new()
        return await self._create(actor, Kind.TENANT, plan, workspace_id, kept, quotas), told

    async def create_operator(
        self,
        actor: Actor,
        worker_types: Sequence[str],
        operator_id: str = "",
        plan: str = "",
        quotas: Quotas = AS_PLANNED,
    ) -> tuple[Workspace, str]:
        """A new operator, whose workers take these task types from every workspace, and its secret.

        Without a plan it gets the one that allows most: it works for all of them. Raises as above, and InvalidArgument
        for types that are none, or too many or too long together.
        """
        if violations := _wrong_types(worker_types):
            raise errors.InvalidArgument(*violations)
        kept, told = self._secrets.new()
        plan, types = plan or largest(self._plans).name, frozenset(worker_types)
        return await self._create(actor, Kind.OPERATOR, plan, operator_id, kept, quotas, types), told

    async def create_administrator(self, actor: Actor, administrator_id: str = "") -> tuple[Workspace, str]:
        """A new administrator, and its secret. Raises as above."""
        kept, told = self._secrets.new()
        plan = largest(self._plans).name
        return await self._create(actor, Kind.ADMINISTRATOR, plan, administrator_id, kept), told

    async def admit_administrator(self, actor: Actor, administrator_id: str, secret: str) -> None:
        """Makes sure that there is this administrator, and that it can sign in with this secret.

        But one that it had before, and that has ended, was ended by somebody: it does not come back. Nor does a new one
        come beside as many as there may be. The log says so. Raises ValueError for what is no secret, or if the id is
        that of another kind; WorkspaceDeleting, Aborted.
        """
        kept, plan = self._secrets.keep(secret), largest(self._plans).name
        known = await self._store.get_workspace(administrator_id)
        if known is not None and known.kind is not Kind.ADMINISTRATOR:
            raise ValueError(f"{administrator_id} is no administrator")
        if known is not None and known.secret(kept.id, kept.created_at) is not None:
            return
        if await self._secrets.ended(administrator_id, kept.id):
            log.warning("a secret that was given has ended before", extra={"workspace": administrator_id})
            return
        try:
            await self._create(actor, Kind.ADMINISTRATOR, plan, administrator_id, kept)
        except errors.WorkspaceExists:
            await self._admit(actor, administrator_id, kept)

    async def _admit(self, actor: Actor, administrator_id: str, kept: Secret) -> None:
        try:
            await self._secrets.admit(actor, administrator_id, kept)
        except errors.TooManySecrets:
            told = "a secret that was given is not taken beside two others: revoke one, then start again"
            log.warning(told, extra={"workspace": administrator_id})

    async def update(self, actor: Actor, workspace_id: str, plan: str = "", quotas: Quotas | None = None) -> Workspace:
        """Gives it another plan or other quotas; empty, None: the same as before.

        Raises InvalidArgument for a bad plan, AdministratorProtected, WorkspaceDeleting, Aborted if others keep
        changing it.
        """
        if plan:
            self._check_plan(plan)

        def decide(known: Workspace) -> Workspace:
            return replace(known, plan=plan or known.plan, quotas=known.quotas if quotas is None else quotas)

        details = ({"plan": plan} if plan else {}) | (_told(quotas) if quotas is not None else {})
        return await self._registry.change(actor, Action.WORKSPACE_UPDATE, workspace_id, decide, details)

    async def disable(self, actor: Actor, workspace_id: str, reason: str = "") -> Workspace:
        """Shuts it out; returns when no token of it is taken any more, and no waiting task of it given out.

        Raises InvalidArgument for a reason too long to be logged, OwnWorkspace, WorkspaceDeleting, Aborted.
        """
        if len(reason) > REASON_CHARACTERS:
            told = f"has {len(reason)} characters; at most {REASON_CHARACTERS} are allowed"
            raise errors.InvalidArgument(Violation("reason", told))
        details = {"reason": reason} if reason else {}
        return await self._shut_out(actor, Action.WORKSPACE_DISABLE, workspace_id, State.DISABLED, details)

    async def enable(self, actor: Actor, workspace_id: str) -> Workspace:
        """Lets it in again. Raises AdministratorProtected, WorkspaceDeleting, Aborted."""

        def decide(known: Workspace) -> Workspace:
            return replace(known, state=State.ACTIVE)

        enabled = await self._registry.change(actor, Action.WORKSPACE_ENABLE, workspace_id, decide)
        await self._queues.align(workspace_id)
        return enabled

    async def delete(self, actor: Actor, workspace_id: str) -> Workspace:
        """Shuts it out as `disable` does, for good: `eviction` deletes its tasks, then itself.

        The same again changes nothing. Raises AdministratorProtected, Aborted.
        """
        return await self._shut_out(actor, Action.WORKSPACE_DELETE, workspace_id, State.DELETING, {})

    async def _shut_out(
        self, actor: Actor, action: Action, workspace_id: str, state: State, details: Mapping[str, str]
    ) -> Workspace:
        def decide(known: Workspace) -> Workspace:
            return replace(known, state=state)

        shut = await self._registry.change(actor, action, workspace_id, decide, details)
        await self._queues.align(workspace_id)
        await asyncio.sleep(max(identity.RECALL_SECONDS, queues.VALID_SECONDS))
        return shut

    async def _create(
        self,
        actor: Actor,
        kind: Kind,
        plan: str,
        workspace_id: str,
        secret: Secret,
        quotas: Quotas = AS_PLANNED,
        worker_types: frozenset[str] = frozenset(),
    ) -> Workspace:
        self._check_plan(plan)
        workspace_id = workspace_id or str(uuid_utils.uuid7())
        if not ids.is_workspace_id(workspace_id):
            rule = "must be 1 to 64 of a-z, 0-9 and -, beginning and ending with a letter or digit"
            raise errors.InvalidArgument(Violation("workspace_id", rule))
        if workspace_id == FIRST and kind is not Kind.ADMINISTRATOR:
            raise errors.InvalidArgument(Violation("workspace_id", f"`{FIRST}` is kept for the first administrator"))
        created = Workspace(
            id=workspace_id,
            kind=kind,
            plan=plan,
            quotas=quotas,
            worker_types=worker_types,
            secrets=(secret,),
            created_at=secret.created_at,
            updated_at=secret.created_at,
            version=1,
        )
        details = {"kind": kind.value, "plan": plan, "secret_id": secret.id}
        if worker_types:
            details["worker_types"] = " ".join(sorted(worker_types))
        await self._registry.add(actor, created, details | (_told(quotas) if quotas != AS_PLANNED else {}))
        return created

    def _check_plan(self, plan: str) -> None:
        if plan not in self._plans:
            raise errors.InvalidArgument(Violation("plan", f"must be one of {', '.join(sorted(self._plans))}"))


def _wrong_types(worker_types: Sequence[str]) -> Sequence[Violation]:
    """What is wrong with them as an operator's."""
    if not worker_types:
        return [Violation("worker_types", "names no task type")]
    count, characters = len(worker_types), sum(map(len, worker_types))
    if count > WORKER_TYPES:
        return [Violation("worker_types", f"has {count} entries; at most {WORKER_TYPES} are allowed")]
    wrong = [index for index, name in enumerate(worker_types) if not ids.is_task_type(name)]
    if wrong:
        return [Violation(f"worker_types[{index}]", ids.TASK_TYPE_RULE) for index in wrong]
    if characters > WORKER_TYPE_CHARACTERS:
        told = f"has {characters} characters together; at most {WORKER_TYPE_CHARACTERS} are allowed"
        return [Violation("worker_types", told)]
    return []


def _told(quotas: Quotas) -> dict[str, str]:
    return {"pending_tasks": str(quotas.pending_tasks), "streams": str(quotas.streams)}
