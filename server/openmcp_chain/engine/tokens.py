"""Bearer tokens: JSON Web Tokens signed with ES256 (RFC 7519, RFC 7518, 3.4)."""

import uuid
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import jwt

from openmcp_chain.domain import errors
from openmcp_chain.domain.keys import CLOCK_SKEW, LIFETIME
from openmcp_chain.domain.workspace import Principal, Scope, Workspace
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.keys import ALGORITHM, Keys
from openmcp_chain.engine.sealing import MasterKey
from openmcp_chain.store.base import Store

ISSUER = "openmcp-chain"
AUDIENCE = "openmcp-chain"
TOKEN_CHARACTERS = 4096
CACHED_TOKENS = 10_000
_HEADER = {"alg", "kid", "typ"}
"""All that the header of a token of ours says. One that brings a key (`jwk`), says where one is (`jku`, `x5u`), or asks
for what we might not know (`crit`) is not ours, whatever its signature."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, as it is given to its bearer."""

    token: str
    expires_at: datetime


class Tokens:
    """Issues and checks tokens."""

    def __init__(self, store: Store, master: MasterKey, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, Principal] = OrderedDict()
        self.keys = Keys(store, master, clock)
        """What they are signed with."""

    async def issue(self, workspace: Workspace, secret_id: str, scopes: Collection[Scope] = ()) -> Issued:
        """A token for the workspace, got with this secret; with these scopes, or all that the workspace may have."""
        kid, key = await self.keys.signer()
        now = self._clock().replace(microsecond=0)
        expires_at = now + LIFETIME
        allowed = frozenset(scopes) or workspace.kind.scopes
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": workspace.id,
            "workspace_id": workspace.id,
            "plan": workspace.plan,
            "scope": " ".join(sorted(allowed)),
            "types": sorted(workspace.worker_types),
            "sid": secret_id,
            "iat": now,
            "exp": expires_at,
            "jti": str(uuid.uuid4()),
        }
        return Issued(jwt.encode(claims, key, ALGORITHM, headers={"kid": kid}), expires_at)

    def seen(self, token: str) -> Principal | None:
        """Who bears the token, if it was checked before; whether it is good still is another matter (`holds`)."""
        return self._seen.get(token)

    async def check(self, token: str) -> Principal:
        """Who bears the token. Raises TokenInvalid or TokenExpired.

        What was checked once is remembered, since checking a signature costs more than all else in a call.
        """
        principal = self._seen.get(token)
        if principal is None:
            principal = await self._verify(token)
            self._seen[token] = principal
            if len(self._seen) > CACHED_TOKENS:
                self._seen.popitem(last=False)
        try:
            await self.recheck(principal)
        except errors.Error:
            self._seen.pop(token, None)
            raise
        return principal

    def holds(self, principal: Principal) -> bool:
        """Whether the token of a principal is good still, as far as is known now; if not, `recheck` makes sure."""
        return not self._expired(principal) and self.keys.holds(principal.key_id)

    async def recheck(self, principal: Principal) -> None:
        """Whether the token of a principal is good still. Raises TokenExpired; TokenInvalid if its key was revoked."""
        if self._expired(principal):
            raise errors.TokenExpired
        if not self.keys.holds(principal.key_id):
            await self.keys.verifier(principal.key_id)

    def _expired(self, principal: Principal) -> bool:
        return principal.expires_at + CLOCK_SKEW <= self._clock()

    async def _verify(self, token: str) -> Principal:
        if len(token) > TOKEN_CHARACTERS:
            raise errors.TokenInvalid
        try:
            header = jwt.get_unverified_header(token)
            if not header.keys() <= _HEADER:
                raise errors.TokenInvalid
            claims = jwt.decode(
                token,
                await self.keys.verifier(header.get("kid")),
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                # Times are checked by our clock: expiry at each use, and below that the token's time has come.
                options={
                    "require": ["iss", "aud", "sub", "exp", "iat", "jti", "sid", "scope", "plan", "workspace_id"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            for begin in (claims["iat"], claims.get("nbf", claims["iat"])):
                if datetime.fromtimestamp(begin, UTC) > self._clock() + CLOCK_SKEW:
                    raise errors.TokenInvalid
            return Principal(
                workspace=str(claims["workspace_id"]),
                plan=str(claims["plan"]),
                scopes=frozenset(Scope(scope) for scope in str(claims["scope"]).split()),
                worker_types=frozenset(claims.get("types", ())),
                secret_id=str(claims["sid"]),
                key_id=header["kid"],
                expires_at=datetime.fromtimestamp(claims["exp"], UTC),
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise errors.TokenInvalid from None
