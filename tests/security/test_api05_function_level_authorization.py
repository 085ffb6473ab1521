"""API5:2023 Broken Function Level Authorization: every method by every kind of caller, and by every narrowed token."""

from collections.abc import Iterator

import pytest
from security.access import CALLS, HAS, NEEDS, OPEN, OPEN_AT_ENVOY
from security.conftest import AUTHENTICATE, People, sign_in
from support.doors import OK, Door, Grpc, Rest, told
from support.methods import METHODS

from openmcp_chain.domain.workspace import Kind, Scope

SCOPES = sorted(frozenset[str]().union(*HAS.values()))
UNLET = ("TOKEN_MISSING", "TOKEN_INVALID", "TOKEN_EXPIRED", "SCOPE_MISSING")
"""What a caller is told whom a method is closed to."""


@pytest.fixture(scope="package")
def narrowed(native: Grpc, people: People) -> dict[str, list[str]]:
    """Tokens with one scope each, of everyone who may have it."""
    return {
        scope: [
            sign_in(native, caller.workspace_id, caller.secret, scope)
            for caller in people.all
            if scope in HAS[caller.kind]
        ]
        for scope in SCOPES
    }


def test_every_method_is_in_the_table() -> None:
    """All that is served, and nothing else: a new one has its line before it is served to anybody."""
    assert set(NEEDS) == set(METHODS)
    assert set(NEEDS.values()) == {*SCOPES, ""}


def test_every_kind_is_in_the_table() -> None:
    """The kinds part the scopes among them: an administrator has no tasks, and nobody else administers."""
    assert {kind: kind.scopes for kind in Kind} == HAS
    assert sorted(Scope) == SCOPES


@pytest.mark.parametrize("path", CALLS)
def test_every_kind(door: Door, people: People, path: str) -> None:
    """A caller without the scope is told so, whatever it asks; without a token, that it needs one."""
    assert door.ask(path).code == "TOKEN_MISSING"
    for caller in people.all:
        answer = door.ask(path, caller.token)
        if NEEDS[path] in HAS[caller.kind]:
            assert answer.code not in UNLET, answer
        else:
            assert answer.code == "SCOPE_MISSING", answer


@pytest.mark.parametrize("path", CALLS)
def test_every_scope(door: Door, narrowed: dict[str, list[str]], path: str) -> None:
    """A narrowed token opens the methods of its scope and no other, though its bearer could have more."""
    for scope, tokens in narrowed.items():
        for token in tokens:
            answer = door.ask(path, token)
            if NEEDS[path] == scope:
                assert answer.code not in UNLET, answer
            else:
                assert answer.code == "SCOPE_MISSING", answer


@pytest.mark.parametrize("scope", [*SCOPES, "everything", "tasks:*", "", "tasks:read tasks:write"])
def test_scopes_that_one_may_not_have(native: Grpc, people: People, scope: str) -> None:
    """Nobody gets by asking a scope that it doesn't have anyway."""
    for caller in people.all:
        answer = native.ask(
            AUTHENTICATE, workspace_id=caller.workspace_id, workspace_secret=caller.secret, scopes=[scope]
        )
        if scope in HAS[caller.kind]:
            assert answer.code == OK
        else:
            assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", ["scopes[0]"])


def spellings(path: str) -> Iterator[str]:
    service, _, method = path.strip("/").partition("/")
    yield f"/{service.lower()}/{method}"
    yield f"/{service}/{method.lower()}"
    yield f"//{service}/{method}"
    yield f"/{service}/{method}/"
    yield f"/{service}/./{method}"
    yield f"/{service}%2F{method}"
    yield f"/x/../{service}/{method}"


@pytest.mark.parametrize("path", CALLS[:3])
def test_other_spellings(native: Grpc, rest: Rest, people: People, path: str) -> None:
    """A method has one path: no spelling of it opens a way past its scope."""
    for spelt in spellings(path):
        assert native.send(spelt, [b""]).code == "METHOD_NOT_FOUND"
        for caller in ("", people.operator.token):
            headers = [("content-type", "application/grpc"), ("te", "trailers")]
            headers += [("authorization", f"Bearer {caller}")] if caller else []
            answer = rest.http.post(spelt, content=b"\0\0\0\0\0", headers=headers)
            assert answer.headers.get("grpc-status", "400") not in ("0", ""), spelt


def test_what_is_open(door: Door) -> None:
    """Without a token: to sign in, the key set, health; at the server itself also what proto/ publishes anyway."""
    for path in OPEN:
        answer = door.ask(path)
        if door.name == "envoy" and path not in OPEN_AT_ENVOY:
            assert answer.code in ("TOKEN_MISSING", "METHOD_NOT_FOUND"), answer
        else:
            assert answer.code not in UNLET, answer
    assert door.ask("/grpc.health.v1.Health/Check").code == OK


@pytest.mark.parametrize(
    "target",
    ["/stats", "/config_dump", "/clusters", "/certs", "/server_info", "/logging", "/quitquitquit", "/stats/prometheus"],
)
def test_envoys_administration(rest: Rest, people: People, target: str) -> None:
    """What Envoy's own administration answers is not to be had on the public port, with any token."""
    for caller in (None, people.owner, people.administrator):
        headers = [("authorization", f"Bearer {caller.token}")] if caller else []
        for verb in ("GET", "POST"):
            assert told(rest.http, verb, target, headers=headers).code == "ROUTE_NOT_FOUND"
