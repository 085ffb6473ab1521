"""Who is who: workspaces and operators are made here, sign in here, and their tokens are checked here."""

import asyncio
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import uuid_utils

from openmcp_chain.domain import errors, ids, workspace
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.plans import Plan, largest
from openmcp_chain.domain.workspace import SECRET_PREFIX, Kind, Principal, Quotas, Scope, Secret, Workspace
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.groupcommit import GroupCommit
from openmcp_chain.engine.keys import Keys
from openmcp_chain.engine.sealing import MasterKey
from openmcp_chain.engine.signins import SignIns
from openmcp_chain.engine.tokens import Issued, Tokens
from openmcp_chain.store.base import Store

RECALL_SECONDS = 3.0
"""How long a workspace's state is believed: within it, its tokens end once it is disabled or a secret revoked."""
RECALLED_WORKSPACES = 10_000
READ = 100
"""Workspaces that are read at once for those who sign in."""
VIOLATIONS = 8
"""Of so many wrong scopes a caller is told."""
SECRETS = 2
"""How many secrets a workspace may have at once: the old and the new one of a rotation."""


class Identity:
    """Workspaces, their secrets and their tokens."""

    def __init__(
        self, store: Store, master: MasterKey, tokens: Tokens, plans: Mapping[str, Plan], clock: Clock
    ) -> None:
        self._store = store
        self._master = master
        self._tokens = tokens
        self._plans = plans
        self._clock = clock
        self._sign_ins = SignIns()
        self._reads = GroupCommit[str, Workspace | None](self._read, most=READ)
        self._recalled: OrderedDict[str, tuple[float, Workspace | None]] = OrderedDict()

    @property
    def keys(self) -> Keys:
        """What tokens are signed with."""
        return self._tokens.keys

    async def authenticate(self, workspace_id: str, secret: str, scopes: Sequence[str] = ()) -> Issued:
        """A token for the workspace, which allows what it may do, or of that these scopes only.

        Raises CredentialsInvalid or TooManySignIns, whatever it is that is wrong (see `signins`); then InvalidArgument
        for a scope that it can't have: to strangers nothing is said of that.
        """
        began = asyncio.get_running_loop().time()
        known, matched = await self._match(workspace_id, secret)
        if known is None or matched is None:
            await self._sign_ins.refuse(workspace_id if ids.is_workspace_id(workspace_id) else "", began)
        return await self._tokens.issue(known, matched.id, _narrowed(known, scopes))

    async def accepts(self, workspace_id: str, secret: str) -> bool:
        """Whether the workspace could sign in with this secret."""
        return (await self._match(workspace_id, secret))[1] is not None

    async def check(self, token: str, scope: Scope | None) -> Principal:
        """The bearer of the token, who may do what needs `scope`.

        Raises TokenInvalid, TokenExpired or ScopeMissing. A token ends with its workspace or with the secret it was got
        with.
        """
        principal = await self._tokens.check(token)
        await self._recheck(principal)
        if scope is not None and scope not in principal.scopes:
            raise errors.ScopeMissing(scope)
        return principal

    async def recheck(self, principal: Principal) -> None:
        """Whether the principal's token still holds; for what outlives one check.

        Raises TokenExpired; TokenInvalid if the workspace, the secret or the signing key was taken back.
        """
        await self._tokens.recheck(principal)
        await self._recheck(principal)

    async def _recheck(self, principal: Principal) -> None:
        known = await self._recall(principal.workspace)
        if known is None or not known.active or known.secret(principal.secret_id, self._clock()) is None:
            raise errors.TokenInvalid

    def quotas(self, principal: Principal) -> Quotas:
        """What the principal's workspace may use, by what was last read of it, or else by its token.

        If its plan is not in the file any more, that of the smallest plan.
        """
        _, known = self._recalled.get(principal.workspace, (0.0, None))
        plan = self._plans.get(known.plan if known is not None else principal.plan)
        own = known.quotas if known is not None else Quotas()
        return own.within(plan or min(self._plans.values(), key=lambda plan: plan.streams))

    def weight(self, workspace_id: str) -> int:
        """How many of the workspace's tasks go out in its turn; 1 if nothing was heard of it lately.

        At once, from what is remembered of those who called: to share workers out must not wait for the database.
        """
        _, known = self._recalled.get(workspace_id, (0.0, None))
        plan = self._plans.get(known.plan) if known is not None else None
        return plan.weight if plan is not None else 1

    async def create_workspace(self, plan: str, workspace_id: str = "") -> tuple[Workspace, str]:
        """A new workspace, and its secret, which is told here and never again.

        Raises InvalidArgument for a bad plan or id, WorkspaceExists.
        """
        return await self._create(Kind.TENANT, plan, workspace_id)

    async def create_operator(self, worker_types: Collection[str], operator_id: str = "") -> tuple[Workspace, str]:
        """A new operator, whose workers take these task types from every workspace, and its secret. Raises as above.

        It gets the plan that allows most: it works for all of them.
        """
        if not worker_types:
            raise errors.InvalidArgument(Violation("worker_types", "names no task type"))
        return await self._create(Kind.OPERATOR, largest(self._plans).name, operator_id, frozenset(worker_types))

    async def add_secret(self, workspace_id: str) -> str:
        """A new secret for the workspace, told here and never again; the oldest goes if there are `SECRETS` already.

        Raises InvalidArgument if there is no such workspace, Aborted if others keep changing it.
        """
        kept, secret = self._new_secret()
        await self._change(workspace_id, lambda known: replace(known, secrets=(*known.secrets[-(SECRETS - 1) :], kept)))
        return secret

    async def change_plan(self, workspace_id: str, plan: str) -> None:
        """Gives the workspace another plan, which its next token carries.

        Raises InvalidArgument if there is no such plan or workspace, Aborted if others keep changing it.
        """
        self._check_plan(plan)
        await self._change(workspace_id, lambda known: replace(known, plan=plan))

    async def list_workspaces(self) -> Sequence[Workspace]:
        """All workspaces and operators, by id."""
        return await self._store.list_workspaces()

    async def _create(
        self, kind: Kind, plan: str, workspace_id: str, worker_types: frozenset[str] = frozenset()
    ) -> tuple[Workspace, str]:
        self._check_plan(plan)
        workspace_id = workspace_id or str(uuid_utils.uuid7())
        if not ids.is_workspace_id(workspace_id):
            raise errors.InvalidArgument(
                Violation("id", "must be 1 to 64 of a-z, 0-9 and -, beginning and ending with a letter or digit")
            )
        kept, secret = self._new_secret()
        created = Workspace(
            id=workspace_id,
            kind=kind,
            plan=plan,
            worker_types=worker_types,
            secrets=(kept,),
            created_at=kept.created_at,
            updated_at=kept.created_at,
            version=1,
        )
        if not await self._store.put_workspace(created):
            raise errors.WorkspaceExists(workspace_id)
        return created, secret

    async def _change(self, workspace_id: str, change: Callable[[Workspace], Workspace]) -> None:
        for _ in range(10):
            known = await self._store.get_workspace(workspace_id)
            if known is None:
                raise errors.InvalidArgument(Violation("workspace_id", "names no workspace"))
            changed = replace(change(known), updated_at=self._clock(), version=known.version + 1)
            if await self._store.put_workspace(changed):
                return
        raise errors.Aborted

    async def _read(self, workspace_ids: Sequence[str]) -> Sequence[Workspace | None]:
        """Of those who sign in: however many, it is one read at a time."""
        found = await self._store.get_workspaces(set(workspace_ids))
        return [found.get(workspace_id) for workspace_id in workspace_ids]

    async def _match(self, workspace_id: str, secret: str) -> tuple[Workspace | None, Secret | None]:
        # Read after the call has come: a secret that was revoked by then is, and one that was made by then is there.
        known = await self._reads(workspace_id) if ids.is_workspace_id(workspace_id) else None
        return known, workspace.matches(known, secret, self._master.pepper, self._clock())

    def _check_plan(self, plan: str) -> None:
        if plan not in self._plans:
            raise errors.InvalidArgument(Violation("plan", f"must be one of {', '.join(sorted(self._plans))}"))

    def _new_secret(self) -> tuple[Secret, str]:
        secret_id = secrets.token_hex(4)
        secret = f"{SECRET_PREFIX}{secret_id}_{secrets.token_urlsafe(32)}"
        salt = os.urandom(16)
        return Secret(secret_id, salt, workspace.digest(self._master.pepper, salt, secret), self._clock()), secret

    async def _recall(self, workspace_id: str) -> Workspace | None:
        now = asyncio.get_running_loop().time()
        known = self._recalled.get(workspace_id)
        if known is not None and now - known[0] < RECALL_SECONDS:
            return known[1]
        found = await self._store.get_workspace(workspace_id)
        self._recalled[workspace_id] = (now, found)
        self._recalled.move_to_end(workspace_id)
        if len(self._recalled) > RECALLED_WORKSPACES:
            self._recalled.popitem(last=False)
        return found


def _narrowed(known: Workspace, scopes: Sequence[str]) -> frozenset[Scope]:
    """The scopes that are asked for. Raises InvalidArgument naming those that the workspace can't have."""
    allowed = {scope.value: scope for scope in sorted(known.kind.scopes)}
    wrong = [index for index, scope in enumerate(scopes) if scope not in allowed]
    if wrong:
        told = f"must be one of {', '.join(allowed)}"
        raise errors.InvalidArgument(*(Violation(f"scopes[{index}]", told) for index in wrong[:VIOLATIONS]))
    return frozenset(allowed[scope] for scope in scopes)
