"""Calls that are under way end within five seconds of their bearers' tokens; all others go on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from support import virtual
from support.engine import DistantStore, Engine
from support.service import LOCAL

from openmcp_chain.domain import errors
from openmcp_chain.domain.keys import CLOCK_SKEW
from openmcp_chain.domain.workspace import Principal, State
from openmcp_chain.engine.bearers import LOOK_SECONDS, YOUNG_SECONDS, Caller

BOUND_SECONDS = 5.0
"""What docs/workspaces.md says."""


class Scene:
    """A process that serves calls, another one that takes back, and a workspace with two secrets."""

    def __init__(self) -> None:
        self.store = DistantStore()
        self.here, self.there = Engine(self.store), Engine(DistantStore(data=self.store))
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> "Scene":
        for engine in (self.here, self.there):
            await engine.app.keys.load()
        self._loops = [asyncio.create_task(self.here.app.keys.run())]
        self.here.start("bearers")
        created, self.secret = await self.there.app.administration.workspaces.create(LOCAL, "free")
        self.workspace_id = created.id
        _, self.other = await self.there.app.administration.secrets.rotate(LOCAL, created.id)
        return self

    async def sign_in(self, secret: str = "") -> Principal:
        identity = self.here.app.identity
        issued = await identity.authenticate(self.workspace_id, secret or self.secret)
        return await identity.check(issued.token, None)

    async def lets_in(self, principal: Principal) -> bool:
        """Whether another call is let in."""
        try:
            await self.here.app.identity.recheck(principal)
        except errors.TokenInvalid:
            return False
        return True

    async def call(self, principal: Principal) -> float:
        """Makes a call that would last for ever; returns when it was ended by its bearer."""
        try:
            with self.here.app.bearers.present(principal):
                await asyncio.Event().wait()
        except (errors.TokenInvalid, errors.TokenExpired):
            return asyncio.get_running_loop().time()
        raise AssertionError("the call ended by itself")

    async def put(self, state: State) -> None:
        known = await self.there.store.get_workspace(self.workspace_id)
        assert known
        await self.there.store.put_workspace(replace(known, state=state, version=known.version + 1))


async def revoke_secret(scene: Scene, principal: Principal) -> None:
    await scene.there.app.administration.secrets.revoke(LOCAL, scene.workspace_id, principal.secret_id)


async def revoke_key(scene: Scene, principal: Principal) -> None:
    await scene.there.app.keys.revoke(principal.key_id, LOCAL)


async def disable(scene: Scene, _: Principal) -> None:
    await scene.put(State.DISABLED)


async def delete(scene: Scene, _: Principal) -> None:
    await scene.put(State.DELETING)


async def expire(_: Scene, principal: Principal) -> None:
    await asyncio.sleep((principal.expires_at + CLOCK_SKEW - virtual.clock()).total_seconds())


@pytest.mark.parametrize("phase", [0.0, 0.4, 0.9, 1.4, 1.9, 2.4, 2.9])
@pytest.mark.parametrize("end", [revoke_secret, revoke_key, disable, delete, expire])
async def test_a_call_ends_within_five_seconds_of_its_token(
    end: Callable[[Scene, Principal], Awaitable[None]], phase: float
) -> None:
    """Whatever ended it, at whatever time since the workspace was last read, and with a database that is slow."""
    scene = await Scene().start()
    scene.store.delay = 0.2
    principal = await scene.sign_in()
    call = asyncio.create_task(scene.call(principal))
    await asyncio.sleep(phase)
    await end(scene, principal)
    ended = asyncio.get_running_loop().time()
    assert not call.done()
    assert await call - ended <= BOUND_SECONDS


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("end", [revoke_secret, disable, delete])
async def test_whoever_was_let_in_after_that_ends_in_the_same_time(
    end: Callable[[Scene, Principal], Awaitable[None]], phase: float
) -> None:
    """Calls that come then are let in for a while, by what was read just before; none of them is left, either."""
    scene = await Scene().start()
    scene.store.delay = 0.1
    await asyncio.sleep(phase)
    principal = await scene.sign_in()
    await end(scene, principal)
    ended = asyncio.get_running_loop().time()
    calls = [asyncio.create_task(scene.call(principal))]
    while await scene.lets_in(principal):
        calls.append(asyncio.create_task(scene.call(principal)))
        await asyncio.sleep(0.05)
    assert len(calls) > 10
    assert max(await asyncio.gather(*calls)) - ended <= BOUND_SECONDS


async def test_other_calls_go_on() -> None:
    """Of the same workspace by another secret, and of another workspace; then these end in their turn."""
    scene = await Scene().start()
    first, second = await scene.sign_in(), await scene.sign_in(scene.other)
    calls = [asyncio.create_task(scene.call(principal)) for principal in (first, second)]
    await asyncio.sleep(1)
    await revoke_secret(scene, first)
    await calls[0]
    await asyncio.sleep(60)
    assert not calls[1].done()
    await disable(scene, second)
    await calls[1]


async def test_a_call_that_gets_another_token_on_the_way_goes_on_with_it() -> None:
    """The end of the first is none of its own any more; that of the second is."""
    scene = await Scene().start()
    old, new = await scene.sign_in(), await scene.sign_in(scene.other)

    async def work() -> None:
        with scene.here.app.bearers.present(old) as bearer:
            await asyncio.sleep(1)
            bearer.principal = new
            await asyncio.Event().wait()

    call = asyncio.create_task(work())
    await asyncio.sleep(1)
    await revoke_secret(scene, old)
    await asyncio.sleep(60)
    assert not call.done()
    await revoke_secret(scene, new)
    with pytest.raises(errors.TokenInvalid):
        await call


async def test_what_can_not_be_known_ends_nothing() -> None:
    """While the database is away calls go on; once it answers, those whose tokens have ended meanwhile end."""
    scene = await Scene().start()
    principal = await scene.sign_in()
    call = asyncio.create_task(scene.call(principal))
    await asyncio.sleep(1)
    scene.store.away = True
    await asyncio.sleep(60)
    await revoke_secret(scene, principal)
    await asyncio.sleep(60)
    assert not call.done()
    scene.store.away = False
    back = asyncio.get_running_loop().time()
    assert await call - back <= BOUND_SECONDS


async def test_a_caller_that_gives_up_just_then_has_given_up() -> None:
    """It is cancelled, as any call whose caller goes, and is not refused to somebody who is not there."""
    scene = await Scene().start()
    call = asyncio.create_task(scene.call(await scene.sign_in()))
    await asyncio.sleep(1)
    (bearer,) = scene.here.app.bearers._present
    bearer.end(errors.TokenInvalid())
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not scene.here.app.bearers._present
    bearer.end(errors.TokenInvalid())  # it has ended


@pytest.mark.parametrize("end", [revoke_secret, expire])
async def test_what_takes_no_longer_than_any_call_may_is_left_alone(
    end: Callable[[Scene, Principal], Awaitable[None]],
) -> None:
    """Whoever is told that the token has ended makes the call again, though it may have been done: so few are."""
    scene = await Scene().start()
    principal = await scene.sign_in()

    async def make_calls() -> None:
        while True:
            with scene.here.app.bearers.present(principal):
                await asyncio.sleep(0.9 * YOUNG_SECONDS)

    calls = [asyncio.create_task(make_calls()) for _ in range(10)]
    await asyncio.sleep(1)
    await end(scene, principal)
    await asyncio.sleep(60)
    assert not any(call.done() for call in calls)


async def test_many_calls_of_a_workspace_cost_one_read_in_seconds() -> None:
    """And those that are over before the next look none at all."""
    scene = await Scene().start()
    principal = await scene.sign_in()
    calls = [asyncio.create_task(scene.call(principal)) for _ in range(1000)]
    scene.store.calls.clear()
    await asyncio.sleep(60)
    assert 10 <= scene.store.calls["get_workspaces"] <= 20
    await revoke_secret(scene, principal)
    await asyncio.gather(*calls)
    scene.store.calls.clear()
    for _ in range(1000):
        with scene.here.app.bearers.present(principal):
            await asyncio.sleep(0)
    await asyncio.sleep(10 * LOOK_SECONDS)
    assert not scene.store.calls["get_workspaces"]


async def test_a_call_whose_time_is_up_ends_though_the_database_does_not_answer() -> None:
    """What is asked of others' tokens meanwhile holds nothing up; who needs no token is not spared either."""
    scene = await Scene().start()
    principal = await scene.sign_in()
    scene.store.gates["get_workspaces"] = asyncio.Event()
    bearers, loop = scene.here.app.bearers, asyncio.get_running_loop()
    lasting = asyncio.create_task(scene.call(principal))
    await asyncio.sleep(10)
    began = loop.time()

    async def call(caller: Caller) -> float:
        with pytest.raises(errors.DeadlineExceeded), caller:
            await asyncio.Event().wait()
        return loop.time() - began

    for took in await asyncio.gather(call(bearers.present(principal, 3)), call(bearers.stranger(3))):
        assert 3 <= took <= 3 + LOOK_SECONDS
    assert not lasting.done()
    lasting.cancel()
