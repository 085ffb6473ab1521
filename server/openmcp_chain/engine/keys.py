"""The keys that tokens are signed with: shared by all processes through the database, each sealed by the master key.

A process reads them every second, and takes no token while what it knows of them is older than `BELIEVED_SECONDS`. So
a new key is known everywhere before it signs (`domain.keys.LEAD`), and the tokens of a revoked one end within that.
"""

import asyncio
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

from openmcp_chain.domain import errors, keys
from openmcp_chain.domain.audit import Action, Actor
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.keys import CLOCK_SKEW, LEAD, Described, Phase
from openmcp_chain.domain.workspace import SigningKey
from openmcp_chain.engine import shared
from openmcp_chain.engine.auditing import AuditLog
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.sealing import MasterKey
from openmcp_chain.store.base import Store

log = logging.getLogger(__name__)

ALGORITHM = "ES256"
KEYS_EVERY_SECONDS = 1.0
"""How often the keys are read. What is published may be this old."""
BELIEVED_SECONDS = 3.0
"""How old what is known of them may be while tokens are checked by it."""


class Keys:
    """The signing keys, as this process knows them."""

    def __init__(self, store: Store, master: MasterKey, clock: Clock) -> None:
        self._store = store
        self._audit = AuditLog(store, clock)
        self._master = master
        self._clock = clock
        self._keys: Sequence[SigningKey] = ()
        self._public: Mapping[str, ec.EllipticCurvePublicKey] = {}
        self._private: Mapping[str, ec.EllipticCurvePrivateKey] = {}
        self._refreshed = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Reads the keys; makes the first. Raises ValueError if they were sealed with another master key."""
        if not await self._store.list_keys():
            first = self._new_key(self._clock())
            await self._store.add_key(first)
            log.info("first signing key made", extra={"kid": first.kid})
        await self._refresh()

    async def run(self) -> None:
        """Reads them, and deletes what has retired, until cancelled."""
        while True:
            try:
                await self._refresh()
                await self.sweep()
            except errors.Error as error:
                log.warning("signing keys not read", extra={"code": error.code})
            except Exception:
                log.exception("unforeseen")
            await asyncio.sleep(KEYS_EVERY_SECONDS)

    async def sweep(self) -> int:
        """Deletes the keys that have retired by every clock; returns how many."""
        retired = [one.kid for one in self._described(self._clock() - CLOCK_SKEW) if one.phase is Phase.RETIRED]
        for kid in retired:
            await self._store.delete_key(kid)
            log.info("signing key retired", extra={"kid": kid})
        return len(retired)

    # --- to sign and to verify

    async def signer(self) -> tuple[str, ec.EllipticCurvePrivateKey]:
        """The key to sign with, and its id."""
        await self._follow(KEYS_EVERY_SECONDS)
        if not self._keys:
            raise RuntimeError("no signing key loaded")
        key = keys.signing(self._keys, self._clock())
        return key.kid, self._private[key.kid]

    def holds(self, kid: str) -> bool:
        """Whether tokens of the key are good, as far as is known now; if not, `verifier` makes sure."""
        return kid in self._public and self._age() <= BELIEVED_SECONDS

    async def verifier(self, kid: object) -> ec.EllipticCurvePublicKey:
        """The key with exactly this id. Raises TokenInvalid if there is none."""
        if isinstance(kid, str):
            # Another process may have added it just now.
            await self._follow(BELIEVED_SECONDS if kid in self._public else KEYS_EVERY_SECONDS)
            if kid in self._public:
                return self._public[kid]
        raise errors.TokenInvalid

    async def key_set(self) -> bytes:
        """The public keys as a JSON Web Key Set (RFC 7517)."""
        await self._follow(KEYS_EVERY_SECONDS)
        published = {one.kid for one in self._described(self._clock()) if one.phase is not Phase.RETIRED}
        return json.dumps({"keys": [key.public_jwk for key in self._keys if key.kid in published]}).encode()

    # --- to manage them

    async def list(self) -> Sequence[Described]:
        """What each key does, the oldest first."""
        return keys.describe(await self._store.list_keys(), self._clock())

    async def rotate(self, actor: Actor) -> SigningKey:
        """Publishes a new key, which signs from `LEAD` on."""
        now = self._clock()
        key = self._new_key(now + LEAD)
        await self._audit.write(
            actor, Action.KEY_ROTATE, details={"kid": key.kid, "signs_from": key.signs_from.isoformat()}
        )
        await self._store.add_key(key)
        return key

    async def revoke(self, kid: str, actor: Actor) -> SigningKey | None:
        """Ends a key and its tokens; returns the new key that takes its place, if one is needed.

        The new one is there before the other goes, so that there always is one. Raises InvalidArgument if there is no
        such key.
        """
        now, known = self._clock(), await self._store.list_keys()
        if kid not in [key.kid for key in known]:
            raise errors.InvalidArgument(Violation("kid", "names no signing key"))
        signs_from = keys.successor(known, kid, now)
        new = self._new_key(signs_from) if signs_from is not None else None
        await self._audit.write(
            actor, Action.KEY_REVOKE, details={"kid": kid} | ({"replaced_by": new.kid} if new else {})
        )
        if new is not None:
            await self._store.add_key(new)
        await self._store.delete_key(kid)
        return new

    # --- inside

    def _age(self) -> float:
        return asyncio.get_running_loop().time() - self._refreshed

    def _described(self, now: datetime) -> Sequence[Described]:
        return keys.describe(self._keys, now)

    async def _follow(self, age: float) -> None:
        """Reads the keys again if what is known is older than this many seconds.

        Each process must publish, soon, what each other signs with: whichever it is that Envoy asks. Whoever comes
        while they are read waits for that, and is told Unavailable with the others if it fails.
        """
        if self._refreshing is None:
            if self._age() <= age:
                return
            self._refreshing = shared.alone(self._refresh())
            self._refreshing.add_done_callback(self._refresh_done)
        # One caller who gives up must not end it for the others.
        await asyncio.shield(self._refreshing)

    def _refresh_done(self, _: asyncio.Task[None]) -> None:
        self._refreshing = None

    async def _refresh(self) -> None:
        began = asyncio.get_running_loop().time()
        found = await self._store.list_keys()
        public, private = {}, {}
        for key in found:
            loaded = ECAlgorithm.from_jwk(dict(key.public_jwk))
            if isinstance(loaded, ec.EllipticCurvePublicKey):
                public[key.kid] = loaded
            private[key.kid] = self._private.get(key.kid) or self._open(key)
        if began > self._refreshed:  # else another read was begun later, and has come first
            self._keys, self._public, self._private, self._refreshed = found, public, private, began

    def _open(self, key: SigningKey) -> ec.EllipticCurvePrivateKey:
        private = load_pem_private_key(self._master.open(key.private_pem, key.kid), password=None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise TypeError(f"signing key {key.kid} is not an elliptic-curve key")
        return private

    def _new_key(self, signs_from: datetime) -> SigningKey:
        private = ec.generate_private_key(ec.SECP256R1())
        kid = str(uuid.uuid4())
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        jwk = {name: str(value) for name, value in ECAlgorithm.to_jwk(private.public_key(), as_dict=True).items()}
        return SigningKey(
            kid=kid,
            private_pem=self._master.seal(pem, kid),
            public_jwk={**jwk, "kid": kid, "alg": ALGORITHM, "use": "sig"},
            signs_from=signs_from,
        )
