"""Administrators: what only a command does to them, and how the first one gets the secret that a server is given."""

import asyncio
import getpass
import logging
import os
import pwd
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from support.engine import DistantStore, Engine
from support.service import LOCAL, ManualClock

from openmcp_chain.domain import errors
from openmcp_chain.domain.audit import Action, Actor
from openmcp_chain.domain.workspace import Kind, State
from openmcp_chain.engine.administration import Administration, local_actor
from openmcp_chain.store.memory import MemoryStore

MADE = "omcp_0123abcd_" + "A" * 43
"""A secret that somebody else has made."""
NEXT = "omcp_4567cdef_" + "B" * 43


async def _revoke_first(opened: Administration, actor: Actor) -> None:
    first = (await opened.secrets.list("boss"))[0]
    await opened.secrets.revoke(actor, "boss", first.id)


Change = Callable[[Administration, Actor], Awaitable[object]]
CHANGES: dict[Action, Change] = {
    Action.WORKSPACE_UPDATE: lambda opened, actor: opened.workspaces.update(actor, "boss", "free"),
    Action.SECRET_CREATE: lambda opened, actor: opened.secrets.rotate(actor, "boss"),
    Action.SECRET_REVOKE: _revoke_first,
    Action.WORKSPACE_DISABLE: lambda opened, actor: opened.workspaces.disable(actor, "boss"),
    Action.WORKSPACE_ENABLE: lambda opened, actor: opened.workspaces.enable(actor, "boss"),
    Action.WORKSPACE_DELETE: lambda opened, actor: opened.workspaces.delete(actor, "boss"),
}


def test_every_change_is_tried() -> None:
    """All that may be done to a workspace once it is there."""
    assert set(CHANGES) == {one for one in Action if not one.startswith("key.")} - {Action.WORKSPACE_CREATE}


@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("state", [State.ACTIVE, State.DISABLED])
async def test_a_token_only_shuts_administrators_out(action: Action, state: State) -> None:
    """Another one; what else it asks for is neither done nor logged; its own not at all. A command may do anything."""
    store = MemoryStore()
    opened = Engine(store).app.administration
    await opened.workspaces.create_administrator(LOCAL, "boss")
    if state is State.DISABLED:
        await opened.workspaces.disable(LOCAL, "boss")
    before, logged = await opened.workspaces.get("boss"), len(store._audit)
    brake = action in (Action.WORKSPACE_DISABLE, Action.SECRET_REVOKE)
    for actor in (Actor("boss"), *([] if brake else [Actor("other"), Actor("local"), Actor("local-1")])):
        with pytest.raises(errors.OwnWorkspace if brake else errors.AdministratorProtected):
            await CHANGES[action](opened, actor)
    assert await opened.workspaces.get("boss") == before
    assert len(store._audit) == logged
    await CHANGES[action](opened, Actor("other", "r-2") if brake else LOCAL)
    done = await opened.workspaces.get("boss")
    expected = {Action.WORKSPACE_DISABLE: State.ACTIVE, Action.WORKSPACE_ENABLE: State.DISABLED}
    assert (done != before) == (state is expected.get(action, state))


def test_who_runs_a_command_is_the_kernels_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody writes another's name into the audit log by a variable."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert getpass.getuser() == "somebody-else"
    assert local_actor() == Actor(f"local:{pwd.getpwuid(os.getuid()).pw_name}")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert local_actor() == Actor("local:4000000000")


# --- the first one


async def start(engine: Engine, secret: str = MADE) -> None:
    """What a server does that was given this secret."""
    await engine.app.administration.workspaces.admit_administrator(LOCAL, "admin", secret)


async def test_the_first_administrator_is_made_once_and_keeps_its_secret() -> None:
    """Again and again, also in several processes at once, the same secret changes nothing."""
    store = MemoryStore()
    engines = [Engine(store) for _ in range(3)]
    for _ in range(2):
        await asyncio.gather(*(start(engine) for engine in engines))
    opened = engines[0].app.administration
    known = await opened.workspaces.get("admin")
    assert (known.kind, [one.id for one in known.secrets], known.version) == (Kind.ADMINISTRATOR, ["0123abcd"], 1)
    assert await opened.secrets.accepts("admin", MADE)


async def test_another_secret_is_added_and_the_one_before_ends_a_day_later() -> None:
    """Once, however many processes are started with it at once; a day on, the old one stays ended."""
    store = DistantStore()
    store.delay = 0.1
    clock = ManualClock()
    engines = [Engine(store, clock) for _ in range(5)]
    opened = engines[0].app.administration
    await start(engines[0])
    await asyncio.gather(*(start(engine, NEXT) for engine in engines))
    known = await opened.workspaces.get("admin")
    assert ([one.id for one in known.secrets], known.version) == (["0123abcd", "4567cdef"], 2)
    assert known.secrets[1].expires_at is None
    assert await opened.secrets.accepts("admin", MADE)
    clock.advance(24 * 3600 - 60)
    assert await opened.secrets.accepts("admin", MADE)
    clock.advance(60)
    assert not await opened.secrets.accepts("admin", MADE)
    await start(engines[1])
    assert not await opened.secrets.accepts("admin", MADE)
    assert await opened.secrets.accepts("admin", NEXT)


@pytest.mark.parametrize("first", [True, False], ids=["nobody", "another secret"])
@pytest.mark.parametrize("cut", ["add_audit_event", "put_workspace"])
async def test_a_start_that_was_cut_short_is_made_up_for_by_the_next(cut: str, *, first: bool) -> None:
    """However often it dies between what it writes to the log and what it does: the secret never was there before."""
    store = DistantStore()
    if not first:
        await start(Engine(store))
    store.cut = cut
    for _ in range(2):
        with pytest.raises(errors.Unavailable):
            await start(Engine(store), NEXT)
    store.cut = ""
    await start(Engine(store), NEXT)
    opened = Engine(store).app.administration
    assert await opened.secrets.accepts("admin", NEXT)
    assert await opened.secrets.accepts("admin", MADE) is not first


async def _revoke(opened: Administration) -> None:
    await opened.secrets.revoke(LOCAL, "admin", "0123abcd")


async def _displace(opened: Administration) -> None:
    await opened.secrets.rotate(LOCAL, "admin", timedelta())


async def _expire(opened: Administration) -> None:
    await opened.secrets.rotate(LOCAL, "admin", timedelta(seconds=1))
    await asyncio.sleep(1)


async def _delete(opened: Administration) -> None:
    await opened.workspaces.delete(LOCAL, "admin")


@pytest.mark.parametrize("end", [_revoke, _displace, _expire, _delete])
async def test_a_secret_that_was_ended_does_not_come_back_with_the_next_start(
    end: Callable[[Administration], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """However somebody has ended it, and however long the log has grown since: the server says so, and starts."""
    engine = Engine().start()
    opened = engine.app.administration
    await start(engine)
    await end(opened)
    if end is not _delete:
        for number in range(150):
            await opened.workspaces.update(LOCAL, "admin", ("free", "standard")[number % 2])
    else:
        await asyncio.sleep(120)
        with pytest.raises(errors.WorkspaceNotFound):
            await opened.workspaces.get("admin")
    known = len(engine.store._audit)
    with caplog.at_level(logging.WARNING):
        await start(engine)
    assert [record.message for record in caplog.records] == ["a secret that was given has ended before"]
    assert len(engine.store._audit) == known
    if end is not _delete:
        assert not await opened.secrets.accepts("admin", MADE)
        await start(engine, NEXT)
        assert await opened.secrets.accepts("admin", NEXT)


async def test_a_start_ends_no_secret_to_make_room(caplog: pytest.LogCaptureFixture) -> None:
    """A third is not taken, which the log says, but the server starts; when one has ended, the next start takes it."""
    engine = Engine()
    opened = engine.app.administration
    await start(engine)
    second, told = await opened.secrets.rotate(LOCAL, "admin")
    with caplog.at_level(logging.WARNING):
        await start(engine, NEXT)
    assert ["revoke one" in record.message for record in caplog.records] == [True]
    for secret, taken in ((MADE, True), (told, True), (NEXT, False)):
        assert await opened.secrets.accepts("admin", secret) is taken
    await opened.secrets.revoke(LOCAL, "admin", second.id)
    await start(engine, NEXT)
    for secret in (MADE, NEXT):
        assert await opened.secrets.accepts("admin", secret)


async def test_the_first_administrator_takes_nobodys_place() -> None:
    """A workspace of that name stays what it is; what is no secret makes nobody; neither says what it was given."""
    store = MemoryStore()
    engine = Engine(store)
    opened = engine.app.administration
    with pytest.raises(ValueError, match="not of the form") as refused:
        await start(engine, MADE[:-1])
    assert "AAA" not in str(refused.value)
    created, _ = await opened.workspaces.create(LOCAL, "free", "ws-1")
    await store.put_workspace(replace(created, id="admin"))  # before that name was kept
    with pytest.raises(ValueError, match="admin is no administrator") as refused:
        await start(engine)
    assert "AAA" not in str(refused.value)
    assert (await opened.workspaces.get("admin")).kind is Kind.TENANT


async def test_nobody_else_gets_its_name() -> None:
    """Or no server that is given a secret would start again."""
    opened = Engine().app.administration
    for actor in (LOCAL, Actor("root", "request-1")):
        with pytest.raises(errors.InvalidArgument):
            await opened.workspaces.create(actor, "free", "admin")
        with pytest.raises(errors.InvalidArgument):
            await opened.workspaces.create_operator(actor, ["echo"], "admin")
    await opened.workspaces.create_administrator(LOCAL, "admin")
