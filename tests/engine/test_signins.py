"""Signing in while others try wrong secrets: who waits, for how long, and who never does."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from support.engine import DistantStore, Engine
from support.service import LOCAL

from openmcp_chain.domain import errors
from openmcp_chain.domain.workspace import State
from openmcp_chain.engine import identity, signins
from openmcp_chain.engine.signins import FORGET_SECONDS, FREE, LONGEST, MOST, STEP, WAITING, WAITING_OF_NAME

WRONG = "omcp_00000000_" + "A" * 43


class Gate:
    """Who signs in to a server, with a workspace of its own."""

    def __init__(self) -> None:
        self.store = DistantStore()
        self.engine = Engine(self.store)
        self.identity = self.engine.app.identity
        self.administration = self.engine.app.administration

    async def open(self) -> "Gate":
        await self.engine.app.tokens.keys.load()
        self.workspace, self.secret = await self.administration.workspaces.create(LOCAL, "free", "known")
        return self

    async def try_(self, name: str, secret: str = WRONG) -> tuple[str, float]:
        """The answer, and after how many seconds it came."""
        began = asyncio.get_running_loop().time()
        try:
            await self.identity.authenticate(name, secret)
        except errors.Error as error:
            return error.code, round(asyncio.get_running_loop().time() - began, 6)
        return "OK", round(asyncio.get_running_loop().time() - began, 6)

    async def crowd(self, name: str, count: int) -> Sequence["asyncio.Task[tuple[str, float]]"]:
        """So many wrong secrets at once, which have been looked at."""
        tries = [asyncio.create_task(self.try_(name)) for _ in range(count)]
        await asyncio.sleep(STEP / 100)
        return tries


async def test_wrong_secrets_wait_the_longer_the_more_there_are() -> None:
    """A step for the first ones, then twice as long each time, up to a bound; in time it is as before."""
    gate = await Gate().open()
    told = [await gate.try_("known") for _ in range(MOST + 3)]
    assert {code for code, _ in told} == {"CREDENTIALS_INVALID"}
    waits = [wait for _, wait in told]
    assert waits[:FREE] == [STEP] * FREE
    assert all(before <= after for before, after in itertools.pairwise(waits))
    assert waits[FREE + 1] > 1.5 * waits[FREE]
    assert LONGEST <= waits[-1] < LONGEST + STEP
    await asyncio.sleep(MOST * FORGET_SECONDS)
    assert await gate.try_("known") == ("CREDENTIALS_INVALID", STEP)


@pytest.mark.parametrize("delay", [0.0, STEP / 4, STEP, 3 * STEP])
async def test_time_does_not_tell_what_there_is(delay: float) -> None:
    """An unknown workspace, a disabled one and a wrong secret wait alike, however long the database takes.

    Each answer comes a whole number of steps after its call.
    """
    gate = await Gate().open()
    disabled, secret = await gate.administration.workspaces.create(LOCAL, "free", "disabled")
    await gate.store.put_workspace(replace(disabled, state=State.DISABLED, version=2))
    gate.store.delay = delay

    def step(wait: float) -> float:
        return round(wait / STEP, 4) % 1

    told = {}
    for name, presented in (("known", WRONG), ("unknown", WRONG), ("disabled", secret), ("no/name", "x")):
        told[name] = [await gate.try_(name, presented) for _ in range(5)]
        assert {code for code, _ in told[name]} == {"CREDENTIALS_INVALID"}
        assert {step(wait) for _, wait in told[name]} == {0.0}
    if delay < STEP:
        assert told["known"] == told["unknown"] == told["disabled"] == told["no/name"]


async def test_a_right_secret_never_waits() -> None:
    """Though as many wrong ones for the same workspace wait as may, and others are turned away."""
    gate = await Gate().open()
    crowd = await gate.crowd("known", 3 * WAITING_OF_NAME)
    for _ in range(10):
        assert await gate.try_("known", gate.secret) == ("OK", 0.0)
    assert sum(not one.done() for one in crowd) == WAITING_OF_NAME
    assert {one.result()[0] for one in crowd if one.done()} == {"TOO_MANY_SIGN_INS"}
    assert await gate.try_("known", gate.secret) == ("OK", 0.0)
    assert all(code != "OK" for code, _ in await asyncio.gather(*crowd))


async def test_what_waits_is_bounded() -> None:
    """For a name, and in all: one more is turned away at once, with the time to come back. Then there is room again."""
    gate = await Gate().open()
    crowds = [await gate.crowd(f"name-{n}", WAITING_OF_NAME) for n in range(WAITING // WAITING_OF_NAME)]
    assert await gate.try_("name-0") == ("TOO_MANY_SIGN_INS", identity.GATHER_SECONDS)
    assert await gate.try_("another") == ("TOO_MANY_SIGN_INS", 0.0)
    assert errors.TooManySignIns.retry_after
    crowds[0][0].cancel()  # a caller who gives up makes room
    await asyncio.sleep(0)
    assert (await gate.try_("another"))[0] == "CREDENTIALS_INVALID"
    await asyncio.gather(*(one for crowd in crowds for one in crowd), return_exceptions=True)
    assert not gate.identity._sign_ins._waiting


async def test_one_name_crowds_out_no_other() -> None:
    """While one workspace is attacked, somebody's slip of the pen for another is answered as ever."""
    gate = await Gate().open()
    crowd = await gate.crowd("known", 5 * WAITING_OF_NAME)
    assert await gate.try_("another") == ("CREDENTIALS_INVALID", STEP)
    await asyncio.gather(*crowd)


async def test_names_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names are tried, only so many are remembered: those tried last, and none for ever."""
    monkeypatch.setattr(signins, "NAMES", 3)
    gate = await Gate().open()
    for number in range(6):
        await gate.try_(f"name-{number}")
    assert list(gate.identity._sign_ins._wrong) == ["name-3", "name-4", "name-5"]
    for name in ("no/name", "$ne", "a" * 100):
        await gate.try_(name)
    assert list(gate.identity._sign_ins._wrong) == ["name-4", "name-5", ""]
    await asyncio.sleep(MOST * FORGET_SECONDS)
    for _ in range(2):
        await gate.try_("known")
    assert list(gate.identity._sign_ins._wrong) == ["", "known"]


async def test_sign_ins_share_their_reads() -> None:
    """A thousand wrong secrets at once cost the database a few reads."""
    gate = await Gate().open()
    gate.store.delay = STEP / 20
    gate.store.calls.clear()
    await asyncio.gather(*(gate.try_("known") for _ in range(1000)))
    assert gate.store.calls["get_workspaces"] <= 1000 // 100 + 1


async def test_an_attack_costs_the_database_little() -> None:
    """However fast wrong secrets come for one workspace, it is read some times a second; right ones are at once."""
    gate = await Gate().open()
    await gate.crowd("known", 10)
    tries = []
    gate.store.calls.clear()
    for _ in range(1000):
        tries.append(asyncio.create_task(gate.try_("known")))
        await asyncio.sleep(0.005)
    assert gate.store.calls["get_workspaces"] <= 5 / identity.GATHER_SECONDS + 2
    assert await gate.try_("known", gate.secret) == ("OK", 0.0)
    _, new = await gate.engine.app.administration.secrets.rotate(LOCAL, "known")
    code, wait = await gate.try_("known", new)
    assert (code, wait <= 2 * identity.GATHER_SECONDS) == ("OK", True)
    assert await gate.try_("known", new) == ("OK", 0.0)
    await asyncio.gather(*tries)


@pytest.mark.parametrize("what", ["revoked", "new"])
async def test_a_shared_read_is_never_older_than_its_call(what: str) -> None:
    """While a read from before is under way: a secret that was revoked is refused by then, and a new one accepted."""
    gate = await Gate().open()
    gate.store.late["get_workspaces"] = asyncio.Event()
    before = asyncio.create_task(gate.try_("known", gate.secret))
    await asyncio.sleep(0.01)
    secret = gate.secret
    if what == "revoked":
        await gate.administration.secrets.revoke(LOCAL, "known", secret.split("_")[1])
    else:
        _, secret = await gate.administration.secrets.rotate(LOCAL, "known")
    after = asyncio.create_task(gate.try_("known", secret))
    await asyncio.sleep(0.01)
    gate.store.late["get_workspaces"].set()
    assert (await before)[0] == "OK"
    assert (await after)[0] == ("CREDENTIALS_INVALID" if what == "revoked" else "OK")
