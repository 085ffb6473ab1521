"""Bearer tokens: JSON Web Tokens signed with ES256 (RFC 7519, RFC 7518, 3.4), and the key set they are checked with."""

import asyncio
import json
import uuid
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

from openmcp_chain.domain import errors
from openmcp_chain.domain.workspace import Principal, Scope, SigningKey, Workspace
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.sealing import MasterKey
from openmcp_chain.store.base import Store

ISSUER = "openmcp-chain"
AUDIENCE = "openmcp-chain"
ALGORITHM = "ES256"
LIFETIME = timedelta(minutes=15)
CLOCK_SKEW = timedelta(seconds=30)
"""By how much another server's clock may differ from ours."""
TOKEN_CHARACTERS = 4096
CACHED_TOKENS = 10_000
KEYS_EVERY_SECONDS = 1.0
"""The keys known here may be this old."""
_HEADER = {"alg", "kid", "typ"}
"""All that the header of a token of ours says. One that brings a key (`jwk`), says where one is (`jku`, `x5u`), or asks
for what we might not know (`crit`) is not ours, whatever its signature."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, as it is given to its bearer."""

    token: str
    expires_at: datetime
    scopes: frozenset[Scope]


class Tokens:
    """Issues and checks tokens."""

    def __init__(self, store: Store, master: MasterKey, clock: Clock) -> None:
        self._store = store
        self._master = master
        self._clock = clock
        self._keys: dict[str, SigningKey] = {}
        self._public: dict[str, ec.EllipticCurvePublicKey] = {}
        self._signer: tuple[str, ec.EllipticCurvePrivateKey] | None = None
        self._seen: OrderedDict[str, Principal] = OrderedDict()
        self._refreshed = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Reads the signing keys; makes the first. Raises ValueError if they were sealed with another master key."""
        if not await self._store.list_keys():
            await self._store.add_key(self._new_key())
        await self._refresh()

    async def issue(self, workspace: Workspace, secret_id: str, scopes: Collection[Scope] = ()) -> Issued:
        """A token for the workspace, got with this secret; with these scopes, or all that the workspace may have."""
        await self._follow()
        if self._signer is None:
            raise RuntimeError("no signing key loaded")
        kid, key = self._signer
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
        return Issued(jwt.encode(claims, key, ALGORITHM, headers={"kid": kid}), expires_at, allowed)

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
        if principal.expires_at + CLOCK_SKEW <= self._clock():
            self._seen.pop(token, None)
            raise errors.TokenExpired
        return principal

    async def key_set(self) -> bytes:
        """The public keys as a JSON Web Key Set (RFC 7517)."""
        await self._follow()
        return json.dumps({"keys": [key.public_jwk for key in self._keys.values()]}).encode()

    async def _verify(self, token: str) -> Principal:
        if len(token) > TOKEN_CHARACTERS:
            raise errors.TokenInvalid
        try:
            header = jwt.get_unverified_header(token)
            if not header.keys() <= _HEADER:
                raise errors.TokenInvalid
            claims = jwt.decode(
                token,
                await self._key(header.get("kid")),
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
                expires_at=datetime.fromtimestamp(claims["exp"], UTC),
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise errors.TokenInvalid from None

    async def _key(self, kid: object) -> ec.EllipticCurvePublicKey:
        """The key with exactly this id; another process may have added it just now."""
        if isinstance(kid, str):
            if kid not in self._public:
                await self._follow()
            if kid in self._public:
                return self._public[kid]
        raise errors.TokenInvalid

    async def _follow(self) -> None:
        """Reads the keys again if that was not done just now: another process may have added one, or one's time come.

        Each process must publish, soon, what each other signs with: whichever it is that Envoy asks. Whoever comes
        while they are read waits for that, and is told Unavailable with the others if it fails.
        """
        if self._refreshing is None:
            if asyncio.get_running_loop().time() - self._refreshed <= KEYS_EVERY_SECONDS:
                return
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refresh_done)
        # One caller who gives up must not end it for the others.
        await asyncio.shield(self._refreshing)

    def _refresh_done(self, _: asyncio.Task[None]) -> None:
        self._refreshing = None

    async def _refresh(self) -> None:
        began = asyncio.get_running_loop().time()
        keys = {key.kid: key for key in await self._store.list_keys()}
        public = {}
        for kid, key in keys.items():
            loaded = ECAlgorithm.from_jwk(dict(key.public_jwk))
            if isinstance(loaded, ec.EllipticCurvePublicKey):
                public[kid] = loaded
        # The first key signs at once, even where the clock is behind that of the process which made it.
        first = min(keys.values(), key=lambda key: key.signs_from)
        signing = [key for key in keys.values() if key.signs_from <= self._clock()]
        newest = max(signing, key=lambda key: key.signs_from, default=first)
        private = load_pem_private_key(self._master.open(newest.private_pem, newest.kid), password=None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise TypeError(f"signing key {newest.kid} is not an elliptic-curve key")
        self._keys, self._public, self._signer = keys, public, (newest.kid, private)
        self._refreshed = began

    def _new_key(self) -> SigningKey:
        private = ec.generate_private_key(ec.SECP256R1())
        kid = str(uuid.uuid4())
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        jwk = {name: str(value) for name, value in ECAlgorithm.to_jwk(private.public_key(), as_dict=True).items()}
        return SigningKey(
            kid=kid,
            private_pem=self._master.seal(pem, kid),
            public_jwk={**jwk, "kid": kid, "alg": ALGORITHM, "use": "sig"},
            signs_from=self._clock(),
        )
