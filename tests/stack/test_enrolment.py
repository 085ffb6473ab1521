"""What the next start of the stack makes of workspaces that an administrator has shut out."""

import pytest
from support.engine import Engine
from support.service import LOCAL

from openmcp_chain.domain.workspace import State
from openmcp_chain.stack import demo, enrolment
from openmcp_chain.stack.state import Memory

BOTH = [demo.WORKSPACE, demo.OPERATOR]
NOTHING = Memory()


async def sign_in(engine: Engine, memory: Memory) -> None:
    """As the stack's first client and its worker do. Raises if one of them can't."""
    await engine.app.keys.load()
    await engine.app.identity.authenticate(demo.WORKSPACE, memory.workspace_secret)
    await engine.app.identity.authenticate(demo.OPERATOR, memory.operator_secret)


async def test_what_is_remembered_stays() -> None:
    """A start that finds all as it was makes no new secret, and has nothing to tell."""
    opened, told = Engine().start().app.administration, list[str]()
    memory = await enrolment.credentials(opened, NOTHING, "free", told.append)
    assert await enrolment.credentials(opened, memory, "free", told.append) == memory
    assert told == []


async def test_what_is_forgotten_is_made_anew_however_often() -> None:
    """A data folder without its file of secrets can be used, beside a user's own secret too."""
    engine, told = Engine().start(), list[str]()
    opened = engine.app.administration
    await enrolment.credentials(opened, NOTHING, "free", told.append)
    _, own = await opened.secrets.rotate(LOCAL, demo.WORKSPACE)
    await sign_in(engine, await enrolment.credentials(opened, NOTHING, "free", told.append))
    assert await opened.secrets.accepts(demo.WORKSPACE, own)
    await sign_in(engine, await enrolment.credentials(opened, NOTHING, "free", told.append))


@pytest.mark.parametrize("workspace_id", BOTH)
async def test_what_was_disabled_is_enabled_again(workspace_id: str) -> None:
    """With the secret that it had; and the person at the terminal is told."""
    engine, told = Engine().start(), list[str]()
    opened = engine.app.administration
    memory = await enrolment.credentials(opened, NOTHING, "free", told.append)
    await opened.workspaces.disable(LOCAL, workspace_id)
    assert await enrolment.credentials(opened, memory, "free", told.append) == memory
    assert told == [f"{workspace_id} was disabled, and is enabled again"]
    await sign_in(engine, memory)


@pytest.mark.parametrize("workspace_id", BOTH)
async def test_what_is_being_deleted_is_waited_for_and_made_anew(workspace_id: str) -> None:
    """However long the servers take for it; the old secret is gone with it."""
    engine, told = Engine().start(), list[str]()
    opened = engine.app.administration
    memory = await enrolment.credentials(opened, NOTHING, "free", told.append)
    await opened.workspaces.delete(LOCAL, workspace_id)
    new = await enrolment.credentials(opened, memory, "free", told.append)
    assert told == [f"{workspace_id} is being deleted; when that is done, it is made anew …"]
    for old in (memory.workspace_secret, memory.operator_secret):
        assert not await opened.secrets.accepts(workspace_id, old)
    assert (await opened.workspaces.get(workspace_id)).state is State.ACTIVE
    await sign_in(engine, new)
