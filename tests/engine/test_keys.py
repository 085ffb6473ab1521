"""Signing keys over time: rotated, retired and revoked, as several processes see it."""

import asyncio
import json
from datetime import timedelta

import jwt
import pytest
from support import virtual
from support.engine import DistantStore, Engine
from support.service import SETTINGS, until

from openmcp_chain.domain import errors
from openmcp_chain.domain.audit import Action, Actor
from openmcp_chain.domain.keys import CLOCK_SKEW, LEAD, LIFETIME, VERIFIES, Phase
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import keys
from openmcp_chain.engine.tokens import Tokens
from openmcp_chain.stack import envoy
from openmcp_chain.store.memory import MemoryStore

ACTOR = Actor("local:somebody")


class Fleet:
    """Two processes on one store, and a workspace that signs in to the first."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.wire = DistantStore(data=self.store)
        self.one = Engine(self.store)
        self.two = Tokens(self.wire, SETTINGS.master, virtual.clock)
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> "Fleet":
        await self.one.app.tokens.keys.load()
        await self.two.keys.load()
        self._loops = [asyncio.create_task(tokens.keys.run()) for tokens in (self.one.app.tokens, self.two)]
        self.workspace, self.secret = await self.one.app.administration.workspaces.create(ACTOR, "free")
        return self

    async def sign_in(self) -> tuple[str, str]:
        """A token and the id of the key that signed it."""
        token = (await self.one.app.identity.authenticate(self.workspace.id, self.secret)).token
        return token, jwt.get_unverified_header(token)["kid"]

    async def check(self, token: str) -> Principal:
        """What both processes make of a token."""
        principals = [await tokens.check(token) for tokens in (self.one.app.tokens, self.two)]
        assert principals[0] == principals[1]
        return principals[0]

    async def published(self) -> list[list[str]]:
        sets = [json.loads(await tokens.keys.key_set()) for tokens in (self.one.app.tokens, self.two)]
        return [[key["kid"] for key in published["keys"]] for published in sets]


async def test_rotation_refuses_nothing() -> None:
    """A new key is published everywhere at once and signs after LEAD; tokens of the old one live out their time."""
    fleet = await Fleet().start()
    _, first = await fleet.sign_in()
    new = await fleet.one.app.keys.rotate(ACTOR)
    await asyncio.sleep(keys.KEYS_EVERY_SECONDS + 0.1)
    assert await fleet.published() == [[first, new.kid]] * 2
    began, issued = virtual.clock(), []
    while virtual.clock() < began + 2 * LEAD + LIFETIME:
        issued.append((virtual.clock(), *(await fleet.sign_in())))
        for at, token, _ in issued:
            if virtual.clock() < at + LIFETIME:
                await fleet.check(token)
        await asyncio.sleep(10)
    assert [kid for at, _, kid in issued] == [new.kid if at >= new.signs_from else first for at, _, _ in issued]


async def test_a_key_retires_by_itself() -> None:
    """Once no token of it can be valid it is published no more; then it is deleted, and the other stays."""
    fleet = await Fleet().start()
    _, first = await fleet.sign_in()
    new = await fleet.one.app.keys.rotate(ACTOR)
    await asyncio.sleep((LEAD + VERIFIES).total_seconds() - 1)
    assert await fleet.published() == [[first, new.kid]] * 2
    assert [one.phase for one in await fleet.two.keys.list()] == [Phase.VERIFYING, Phase.SIGNING]
    await asyncio.sleep(2)
    assert await fleet.published() == [[new.kid]] * 2
    assert [one.phase for one in await fleet.two.keys.list()] == [Phase.RETIRED, Phase.SIGNING]
    await asyncio.sleep(CLOCK_SKEW.total_seconds() + 2)
    assert [key.kid for key in await fleet.store.list_keys()] == [new.kid]


async def test_tokens_of_a_revoked_key_end_within_seconds() -> None:
    """In every process, for calls and for what is open, though the token was seen before; a new key signs at once."""
    fleet = await Fleet().start()
    token, first = await fleet.sign_in()
    principal = await fleet.check(token)
    new = await fleet.two.keys.revoke(first, ACTOR)
    await asyncio.sleep(keys.KEYS_EVERY_SECONDS + 0.1)
    for tokens in (fleet.one.app.tokens, fleet.two):
        with pytest.raises(errors.TokenInvalid):
            await tokens.check(token)
        with pytest.raises(errors.TokenInvalid):
            await tokens.recheck(principal)
    with pytest.raises(errors.TokenInvalid):
        await fleet.one.app.identity.recheck(principal)
    token, second = await fleet.sign_in()
    assert new
    assert second == new.kid
    await fleet.check(token)
    assert await fleet.published() == [[second]] * 2


async def test_the_key_before_a_revoked_one_signs_until_a_new_one_is_known() -> None:
    """So nothing is refused but the tokens of the revoked one."""
    fleet = await Fleet().start()
    _, first = await fleet.sign_in()
    second = await fleet.one.app.keys.rotate(ACTOR)
    await asyncio.sleep(LEAD.total_seconds() + 5)
    assert (await fleet.sign_in())[1] == second.kid
    third = await fleet.one.app.keys.revoke(second.kid, ACTOR)
    assert third
    await asyncio.sleep(keys.KEYS_EVERY_SECONDS + 0.1)
    assert (await fleet.sign_in())[1] == first
    await asyncio.sleep(LEAD.total_seconds())
    token, kid = await fleet.sign_in()
    assert kid == third.kid
    await fleet.check(token)


@pytest.mark.parametrize("cut", ["add_key", "delete_key"])
async def test_a_revocation_that_fails_leaves_a_key_that_signs(cut: str) -> None:
    """Wherever it is cut short: there is never a moment without one, and to do it again ends what was to end."""
    fleet = await Fleet().start()
    token, first = await fleet.sign_in()
    fleet.wire.cut = cut
    with pytest.raises(errors.Unavailable):
        await fleet.two.keys.revoke(first, ACTOR)
    assert first in [key.kid for key in await fleet.store.list_keys()]
    await asyncio.sleep(keys.KEYS_EVERY_SECONDS + 0.1)
    await fleet.check((await fleet.sign_in())[0])
    fleet.wire.cut = ""
    await fleet.two.keys.revoke(first, ACTOR)
    await asyncio.sleep(keys.KEYS_EVERY_SECONDS + 0.1)
    with pytest.raises(errors.TokenInvalid):
        await fleet.check(token)
    await fleet.check((await fleet.sign_in())[0])


async def test_a_read_that_comes_late_brings_no_revoked_key_back() -> None:
    """One that was begun before the revocation is answered after one that was begun behind it."""
    fleet = await Fleet().start()
    token, first = await fleet.sign_in()
    await fleet.check(token)
    await asyncio.sleep(keys.KEYS_EVERY_SECONDS / 2)  # no read is under way
    late = fleet.wire.late["list_keys"] = asyncio.Event()
    before = fleet.wire.calls["list_keys"]
    await until(lambda: fleet.wire.calls["list_keys"] > before)
    await fleet.one.app.keys.revoke(first, ACTOR)
    del fleet.wire.late["list_keys"]
    await asyncio.sleep(keys.KEYS_EVERY_SECONDS)
    published = await fleet.two.keys.key_set()
    assert first not in str(published)
    late.set()
    await asyncio.sleep(0.01)
    with pytest.raises(errors.TokenInvalid):
        await fleet.two.check(token)
    assert await fleet.two.keys.key_set() == published


def test_a_new_key_is_known_everywhere_before_it_signs() -> None:
    """LEAD covers a clock that is ahead, a server that reads late, and an Envoy that asks in vain twice."""
    edge = envoy.Settings(listen=envoy.Address("a", 1), server=envoy.Address("b", 2), plans=SETTINGS.plans)
    asked = 3 * timedelta(seconds=edge.jwks_seconds + 2)
    assert timedelta(seconds=30) + timedelta(seconds=keys.KEYS_EVERY_SECONDS) + asked <= LEAD


async def test_what_is_not_known_for_sure_is_not_believed() -> None:
    """A process that can't read the keys takes no token after BELIEVED_SECONDS: one may have been revoked meanwhile."""
    fleet = await Fleet().start()
    token, first = await fleet.sign_in()
    await fleet.check(token)
    fleet.wire.away = True
    await fleet.one.app.keys.revoke(first, ACTOR)
    await asyncio.sleep(keys.BELIEVED_SECONDS - keys.KEYS_EVERY_SECONDS - 0.1)
    await fleet.two.check(token)
    await asyncio.sleep(keys.KEYS_EVERY_SECONDS + 0.2)
    with pytest.raises(errors.Unavailable):
        await fleet.two.check(token)
    fleet.wire.away = False
    with pytest.raises(errors.TokenInvalid):
        await fleet.two.check(token)


async def test_every_deed_is_in_the_audit_log_before_it_is_done() -> None:
    """Who, what, and which keys; if it can't be written, nothing is done."""
    fleet = await Fleet().start()
    first = (await fleet.sign_in())[1]
    fleet.wire.cut = "add_audit_event"
    for deed in (fleet.two.keys.rotate(ACTOR), fleet.two.keys.revoke(first, ACTOR)):
        with pytest.raises(errors.Unavailable):
            await deed
    assert [key.kid for key in await fleet.store.list_keys()] == [first]
    fleet.wire.cut = ""
    new = await fleet.two.keys.rotate(ACTOR)
    await fleet.two.keys.revoke(new.kid, ACTOR)
    events = [event for event in await fleet.store.list_audit_events("", "", 10) if not event.workspace]
    assert [(event.action, event.actor, event.details["kid"]) for event in events] == [
        (Action.KEY_REVOKE, ACTOR, new.kid),
        (Action.KEY_ROTATE, ACTOR, new.kid),
    ]
    with pytest.raises(errors.InvalidArgument) as refused:
        await fleet.two.keys.revoke("nobody", ACTOR)
    assert [violation.field for violation in refused.value.violations] == ["kid"]
    assert (await fleet.store.list_audit_events("", "", 1))[0] == events[0]
