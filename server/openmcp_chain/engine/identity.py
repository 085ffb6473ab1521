"""Who is who: workspaces, operators and administrators sign in here, and their tokens are checked here."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from openmcp_chain import logs
from openmcp_chain.domain import errors, ids, workspace
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.plans import Plan, smallest
from openmcp_chain.domain.workspace import Principal, Quotas, Scope, Secret, Workspace
from openmcp_chain.engine import signins
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.groupcommit import GroupCommit
from openmcp_chain.engine.sealing import MasterKey
from openmcp_chain.engine.signins import SignIns
from openmcp_chain.engine.tokens import Issued, Tokens
from openmcp_chain.store.base import Store

RECALL_SECONDS = 3.0
"""How long a workspace's state is believed: within it, its tokens end once it is disabled or a secret revoked."""
RECALLED_WORKSPACES = 10_000
READ = 100
"""Workspaces that are read at once for those who sign in."""
GATHER_SECONDS = signins.STEP / 2
GATHERED = 4000
"""Sign-ins that are looked at together while many try wrong secrets."""
VIOLATIONS = 8
"""Of so many wrong scopes a caller is told."""


class Identity:
    """Who comes with a secret or a token."""

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
        self._gathered = GroupCommit[str, Workspace | None](self._gather, most=GATHERED)
        self._recalled: OrderedDict[str, tuple[float, Workspace | None]] = OrderedDict()

    async def authenticate(self, workspace_id: str, secret: str, scopes: Sequence[str] = ()) -> Issued:
        """A token for the workspace, which allows what it may do, or of that these scopes only.

        Raises CredentialsInvalid or TooManySignIns, whatever it is that is wrong (see `signins`); then InvalidArgument
        for a scope that it can't have: to strangers nothing is said of that.
        """
        began = asyncio.get_running_loop().time()
        if ids.is_workspace_id(workspace_id):
            logs.workspace.set(workspace_id)
        known, matched = await self._match(workspace_id, secret)
        if known is None or matched is None:
            await self._sign_ins.refuse(workspace_id if ids.is_workspace_id(workspace_id) else "", began)
        return await self._tokens.issue(known, matched.id, _narrowed(known, scopes))

    async def check(self, token: str, scope: Scope | None) -> Principal:
        """The bearer of the token, who may do what needs `scope`.

        Raises TokenInvalid, TokenExpired or ScopeMissing. A token ends with its workspace or with the secret it was got
        with.
        """
        principal = self._tokens.seen(token)
        if principal is not None and self.holds(principal):
            logs.workspace.set(principal.workspace)
        else:
            principal = await self._tokens.check(token)
            logs.workspace.set(principal.workspace)
            await self._recheck(principal)
        if scope is not None and scope not in principal.scopes:
            raise errors.ScopeMissing(scope)
        return principal

    def holds(self, principal: Principal) -> bool:
        """Whether the principal's token holds, as far as is known and believed now; if not, `recheck` makes sure."""
        return self._tokens.holds(principal) and self._is_believed(principal)

    async def recheck(self, principal: Principal) -> None:
        """Whether the principal's token still holds; for what outlives one check.

        Raises TokenExpired; TokenInvalid if the workspace, the secret or the signing key was taken back.
        """
        await self._tokens.recheck(principal)
        await self._recheck(principal)

    async def _recheck(self, principal: Principal) -> None:
        if self._is_believed(principal):
            return
        # What is remembered may also be from before the workspace was let in, or was given this secret.
        if not self._stands(principal, await self._look_up(principal.workspace)):
            raise errors.TokenInvalid

    def _is_believed(self, principal: Principal) -> bool:
        """Whether that is so by what was read within RECALL_SECONDS."""
        began, known = self._recalled.get(principal.workspace, (-math.inf, None))
        return asyncio.get_running_loop().time() - began < RECALL_SECONDS and self._stands(principal, known)

    def _stands(self, principal: Principal, known: Workspace | None) -> bool:
        """Whether the workspace may do anything, and still has the secret that the principal's token was got with."""
        return known is not None and known.active and known.secret(principal.secret_id, self._clock()) is not None

    def quotas(self, principal: Principal) -> Quotas:
        """What the principal's workspace may use, by what was last read of it, or else by its token.

        If its plan is not in the file any more, that of the smallest plan.
        """
        _, known = self._recalled.get(principal.workspace, (0.0, None))
        plan = self._plans.get(known.plan if known is not None else principal.plan)
        own = known.quotas if known is not None else Quotas()
        return own.within(plan or smallest(self._plans))

    def plan(self, principal: Principal) -> Plan:
        """The plan that limits the token's bearer, here and at Envoy; the smallest if it is in the file no more."""
        return self._plans.get(principal.plan) or smallest(self._plans)

    def weight(self, workspace_id: str) -> int:
        """How many of the workspace's tasks go out in its turn; 1 if nothing was heard of it lately.

        At once, from what is remembered of those who called: to share workers out must not wait for the database.
        """
        _, known = self._recalled.get(workspace_id, (0.0, None))
        plan = self._plans.get(known.plan) if known is not None else None
        return plan.weight if plan is not None else 1

    def forget(self, workspace_id: str) -> None:
        """The workspace is no more: what is remembered of it goes."""
        self._recalled.pop(workspace_id, None)

    async def _read(self, workspace_ids: Sequence[str]) -> Sequence[Workspace | None]:
        """Of those who sign in: however many, it is one read at a time."""
        found = await self._store.get_workspaces(set(workspace_ids))
        return [found.get(workspace_id) for workspace_id in workspace_ids]

    async def _match(self, workspace_id: str, secret: str) -> tuple[Workspace | None, Secret | None]:
        known = await self._read_for(workspace_id, secret) if ids.is_workspace_id(workspace_id) else None
        return known, workspace.matches(known, secret, self._master.pepper, self._clock())

    async def _read_for(self, workspace_id: str, secret: str) -> Workspace | None:
        """The workspace that somebody signs in to with this secret.

        Always read after the call has come: a secret that was revoked by then is, and one that was made by then is
        there. What is remembered only says who goes first. While many try wrong secrets, one that was not good lately
        waits a moment for the others of its kind, and all have one read.
        """
        began = asyncio.get_running_loop().time()
        late = self._sign_ins.crowded(workspace_id) and not self._was_good(workspace_id, secret)
        found = await (self._gathered if late else self._reads)(workspace_id)
        if found is not None:  # strangers' guesses at names are not remembered
            self._remember(workspace_id, began, found)
        return found

    def _was_good(self, workspace_id: str, secret: str) -> bool:
        """Whether the secret was one of the workspace's when that was last read."""
        _, lately = self._recalled.get(workspace_id, (0.0, None))
        return workspace.matches(lately, secret, self._master.pepper, self._clock()) is not None

    async def _gather(self, workspace_ids: Sequence[str]) -> Sequence[Workspace | None]:
        await asyncio.sleep(GATHER_SECONDS)
        return await self._read(workspace_ids)

    async def _look_up(self, workspace_id: str) -> Workspace | None:
        """The workspace as it is now, which is remembered."""
        began = asyncio.get_running_loop().time()
        found = await self._reads(workspace_id)
        self._remember(workspace_id, began, found)
        return found

    def _remember(self, workspace_id: str, began: float, found: Workspace | None) -> None:
        """`began`: when it was read, or just before."""
        self._recalled[workspace_id] = (began, found)
        self._recalled.move_to_end(workspace_id)
        if len(self._recalled) > RECALLED_WORKSPACES:
            self._recalled.popitem(last=False)


def _narrowed(known: Workspace, scopes: Sequence[str]) -> frozenset[Scope]:
    """The scopes that are asked for. Raises InvalidArgument naming those that the workspace can't have."""
    allowed = {scope.value: scope for scope in sorted(known.kind.scopes)}
    wrong = [index for index, scope in enumerate(scopes) if scope not in allowed]
    if wrong:
        told = f"must be one of {', '.join(allowed)}"
        raise errors.InvalidArgument(*(Violation(f"scopes[{index}]", told) for index in wrong[:VIOLATIONS]))
    return frozenset(allowed[scope] for scope in scopes)
