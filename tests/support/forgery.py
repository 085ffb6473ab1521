"""Tokens that nobody may be let in with, made of one that is good."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def _encode(part: dict[str, Any] | bytes) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Forger:
    """Has a valid token and the public keys, as anyone may, and for some forgeries the signing key too."""

    def __init__(self, token: str, kid: str, key: ec.EllipticCurvePrivateKey) -> None:
        self.token = token
        self.head, self.body, self.signature = token.split(".")
        self.claims = jwt.decode(token, options={"verify_signature": False})
        self.kid, self.key = kid, key

    def sign(
        self, claims: dict[str, Any] | None = None, key: ec.EllipticCurvePrivateKey | None = None, **header: Any
    ) -> str:
        """A token signed with the real key, or another."""
        return jwt.encode(claims or self.claims, key or self.key, "ES256", headers={"kid": self.kid, **header})

    def changed(self, **claims: Any) -> str:
        """A token with the real signature of changed claims; None leaves a claim out."""
        kept = {name: value for name, value in (self.claims | claims).items() if value is not None}
        return self.sign(kept)

    def with_header(self, header: dict[str, Any] | bytes) -> str:
        return f"{_encode(header)}.{self.body}.{self.signature}"

    def hmac_with_public_key(self) -> str:
        public = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        signed = f"{_encode({'alg': 'HS256', 'typ': 'JWT', 'kid': self.kid})}.{self.body}"
        return f"{signed}.{_encode(hmac.digest(public, signed.encode(), hashlib.sha256))}"

    @staticmethod
    def with_more(name: str, forger: "Forger") -> str:
        """The real signature of a header that has something more."""
        more: dict[str, Any] = {name: []}
        return forger.sign(**more)

    def own_key_in_header(self) -> str:
        own = ec.generate_private_key(ec.SECP256R1())
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(own.public_key(), as_dict=True)
        return self.sign(key=own, jwk=jwk)


FORGERIES: Mapping[str, Callable[[Forger], str]] = {
    "alg none": lambda f: f"{_encode({'alg': 'none', 'kid': f.kid})}.{f.body}.",
    "alg None": lambda f: f"{_encode({'alg': 'None', 'kid': f.kid})}.{f.body}.",
    "alg HS256 with the public key": Forger.hmac_with_public_key,
    "alg that is no text": lambda f: f.with_header({"alg": 5, "kid": f.kid}),
    "another key": lambda f: f.sign(key=ec.generate_private_key(ec.SECP256R1())),
    "own key in the header": Forger.own_key_in_header,
    "keys at a URL": lambda f: f.sign(key=ec.generate_private_key(ec.SECP256R1()), jku="https://evil.example/jwks"),
    "a certificate at a URL": lambda f: f.sign(
        key=ec.generate_private_key(ec.SECP256R1()), x5u="https://evil.example/c"
    ),
    **{
        f"our own signature, and {name}": partial(Forger.with_more, name)
        for name in ("jwk", "jku", "x5u", "x5c", "x5t", "cty", "zip", "anything")
    },
    "crit of what is known": lambda f: f.sign(crit=["kid"]),
    "unknown kid": lambda f: f.with_header({"alg": "ES256", "kid": "nobody"}),
    "kid that is a path": lambda f: f.with_header({"alg": "ES256", "kid": "../../dev/null"}),
    "kid by a longer path": lambda f: f.sign(kid=f"./{f.kid}"),
    "kid and a null": lambda f: f.sign(kid=f"{f.kid}\0"),
    "kid in capitals": lambda f: f.sign(kid=f.kid.upper()),
    "kid that is empty": lambda f: f.sign(kid=""),
    "kid that is a number": lambda f: f.with_header({"alg": "ES256", "kid": 1}),
    "kid that is a list": lambda f: f.with_header({"alg": "ES256", "kid": [f.kid]}),
    "kid that is an operator": lambda f: f.with_header({"alg": "ES256", "kid": {"$ne": 1}}),
    "no kid": lambda f: f.with_header({"alg": "ES256"}),
    "unknown crit": lambda f: f.sign(crit=["exp-hardened"]),
    "deep header": lambda f: f.with_header(b"[" * 2500),
    "header that is a list": lambda f: f.with_header(b"[]"),
    "header that is no JSON": lambda f: f.with_header(b"\xff\xfe"),
    "claims that are a list": lambda f: f"{f.head}.{_encode(b'[]')}.{f.signature}",
    "ten kilobytes": lambda f: f"{f.head}.{'A' * 10_000}.{f.signature}",
    "tampered claims": lambda f: f"{f.head}.{_encode(f.claims | {'workspace_id': 'other'})}.{f.signature}",
    "tampered signature": lambda f: f"{f.head}.{f.body}.{('B' if f.signature[0] == 'A' else 'A') + f.signature[1:]}",
    "empty signature": lambda f: f"{f.head}.{f.body}.",
    "no token at all": lambda _: "nothing",
    "five parts": lambda f: f"{f.token}.a.b",
    "wrong audience": lambda f: f.changed(aud="another"),
    "wrong issuer": lambda f: f.changed(iss="another"),
    "no exp": lambda f: f.changed(exp=None),
    "no iat": lambda f: f.changed(iat=None),
    "no sid": lambda f: f.changed(sid=None),
    "no scope": lambda f: f.changed(scope=None),
    "issued in the future": lambda f: f.changed(iat=int(time.time()) + 3600),
    "not yet valid": lambda f: f.changed(nbf=int(time.time()) + 3600),
    "nbf that is no time": lambda f: f.changed(nbf="soon"),
    "nbf beyond all time": lambda f: f.changed(nbf=10**30),
    "nbf that is NaN": lambda f: f.changed(nbf=float("nan")),
    "scopes in a list": lambda f: f.changed(scope=["tasks:read"]),
    "exp that is no time": lambda f: f.changed(exp="soon"),
    "exp beyond all time": lambda f: f.changed(exp=10**30),
    "unknown scope": lambda f: f.changed(scope="tasks:read everything"),
    "unknown workspace": lambda f: f.changed(workspace_id="nobody"),
    "unknown secret": lambda f: f.changed(sid="00000000"),
}
