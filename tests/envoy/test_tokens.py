"""Who gets through: Envoy's check of the token."""

import asyncio
import time
from collections.abc import Callable

import jwt
import pytest
from support.gateway import Gateway
from support.upstream import Key

pytestmark = pytest.mark.asyncio(loop_scope="session")

SKEW = 30


def unsigned(key: Key) -> str:
    claims = jwt.decode(key.token(), options={"verify_signature": False})
    return jwt.encode(claims, "", "none", headers={"kid": key.kid})


def signed_with_the_public_key(key: Key) -> str:
    claims = jwt.decode(key.token(), options={"verify_signature": False})
    return jwt.encode(claims, key.public["x"] * 2, "HS256", headers={"kid": key.kid})


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda key: key.token(exp=int(time.time()) - SKEW - 30), "TOKEN_EXPIRED"),
        (lambda key: key.token(exp=int(time.time()) - SKEW - 3), "TOKEN_EXPIRED"),
        (lambda key: key.token(nbf=int(time.time()) + SKEW + 10), "TOKEN_INVALID"),
        (lambda key: key.token(exp=None), "TOKEN_INVALID"),
        (lambda key: key.token(aud="another"), "TOKEN_INVALID"),
        (lambda key: key.token(aud=None), "TOKEN_INVALID"),
        (lambda key: key.token(iss="another"), "TOKEN_INVALID"),
        (lambda key: key.token(iss=None), "TOKEN_INVALID"),
        (lambda _: Key().token(), "TOKEN_INVALID"),
        (lambda key: key.token()[:-8] + "AAAAAAAA", "TOKEN_INVALID"),
        (unsigned, "TOKEN_INVALID"),
        (signed_with_the_public_key, "TOKEN_INVALID"),
        (lambda _: "not-a-token", "TOKEN_INVALID"),
        (lambda _: "a" * 5000, "TOKEN_INVALID"),
    ],
)
async def test_refused(gateway: Gateway, make: Callable[[Key], str], code: str) -> None:
    """Only a current token of ours, for us, is accepted; one that was ours says so, so that the client refreshes."""
    answer = await gateway.get(make(gateway.upstream.key))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
    assert answer.headers["www-authenticate"] == 'Bearer realm="openmcp-chain", error="invalid_token"'
    assert ("Refresh" in answer.json()["error"]["message"]) == (code == "TOKEN_EXPIRED")


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic dTpw"}, {"authorization": "Bearer"}])
async def test_missing(gateway: Gateway, headers: dict[str, str]) -> None:
    """No bearer token is said to be just that."""
    answer = await gateway.anonymous.get("/v1/tasks/pending", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "TOKEN_MISSING")
    assert answer.headers["www-authenticate"] == 'Bearer realm="openmcp-chain"'


async def test_not_from_the_query(gateway: Gateway) -> None:
    """A token in the URL, where logs would have it, is no token."""
    answer = await gateway.anonymous.get(f"/v1/tasks/pending?access_token={gateway.upstream.key.token()}")
    assert answer.json()["error"]["code"] == "TOKEN_MISSING"


async def test_two_tokens(gateway: Gateway) -> None:
    """Of two tokens neither counts: Envoy and the server might choose differently."""
    good = f"Bearer {gateway.upstream.key.token()}"
    answer = await gateway.anonymous.get(
        "/v1/tasks/pending", headers=[("authorization", good), ("authorization", f"Bearer {Key().token()}")]
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "TOKEN_INVALID")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "BeArEr", "Bearer "])
async def test_accepted(gateway: Gateway, scheme: str) -> None:
    """A token within the clock's skew of its end is accepted, and goes on to the server, which checks it again.

    The scheme's case means nothing (RFC 9110, 11.1).
    """
    token = gateway.upstream.key.token(exp=int(time.time()) - SKEW // 3)
    headers = {"authorization": f"{scheme} {token}"}
    assert (await gateway.anonymous.get("/v1/tasks/pending", headers=headers)).status_code == 200
    assert gateway.upstream.tasks.metadata["authorization"] == f"Bearer {token}"


async def test_not_yet_valid_within_the_skew(gateway: Gateway) -> None:
    """A token whose time comes within the skew is accepted: the clock that made it may be ahead."""
    assert (await gateway.get(gateway.upstream.key.token(nbf=int(time.time()) + SKEW - 10))).status_code == 200


async def test_a_new_key_is_learnt(gateway: Gateway) -> None:
    """A key that the server adds is known after two refreshes, without a restart; the old one still counts."""
    rest = gateway.upstream.rest
    old, new = gateway.upstream.key, Key()
    assert (await gateway.get(new.token())).status_code == 401
    rest.keys.append(new)
    while not rest.served.empty():
        rest.served.get_nowait()
    for _ in range(2):
        await asyncio.wait_for(rest.served.get(), 10)
    assert (await gateway.get(new.token())).status_code == 200
    assert (await gateway.get(old.token())).status_code == 200
