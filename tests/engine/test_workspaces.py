"""Administration: what is written before it is done, what a shut-out workspace still gets, what secrets outlive."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import pytest
from support.engine import DistantStore, Engine, tenant
from support.service import LOCAL

from openmcp_chain.domain import errors
from openmcp_chain.domain.audit import Action, Actor, Event
from openmcp_chain.domain.task import Queue, Status, Task
from openmcp_chain.domain.workspace import Quotas, State
from openmcp_chain.engine.administration import Administration
from openmcp_chain.store.memory import MemoryStore

ADMIN = Actor("root", "request-1")
ECHO = Queue("ws-1", "echo")


async def made(engine: Engine, workspace_id: str = "ws-1") -> Administration:
    """The engine's administration, with a workspace."""
    await engine.app.administration.workspaces.create(LOCAL, "free", workspace_id)
    return engine.app.administration


async def logged(engine: Engine) -> Sequence[Event]:
    return (await engine.app.administration.audit.list("ws-1", 100)).events


async def _revoke_first(opened: Administration) -> None:
    first = (await opened.secrets.list("ws-1"))[0]
    await opened.secrets.revoke(ADMIN, "ws-1", first.id)


CHANGES: dict[Action, Callable[[Administration], Awaitable[object]]] = {
    Action.WORKSPACE_UPDATE: lambda opened: opened.workspaces.update(ADMIN, "ws-1", "standard", Quotas(1, 2)),
    Action.WORKSPACE_DISABLE: lambda opened: opened.workspaces.disable(ADMIN, "ws-1", "unpaid"),
    Action.WORKSPACE_ENABLE: lambda opened: opened.workspaces.enable(ADMIN, "ws-1"),
    Action.SECRET_CREATE: lambda opened: opened.secrets.rotate(ADMIN, "ws-1", timedelta(hours=1)),
    Action.SECRET_REVOKE: _revoke_first,
    Action.WORKSPACE_DELETE: lambda opened: opened.workspaces.delete(ADMIN, "ws-1"),
}


async def test_every_change_is_logged_with_who_made_it() -> None:
    """Each once, in their order, by whom and in which call, with what there is to know and no secret."""
    engine = Engine()
    opened = await made(engine)
    told = (await opened.secrets.list("ws-1"))[0]
    for change in CHANGES.values():
        await change(opened)
    events = list(reversed(await logged(engine)))
    assert [event.action for event in events] == [Action.WORKSPACE_CREATE, *CHANGES]
    assert [event.actor for event in events] == [LOCAL, *[ADMIN] * len(CHANGES)]
    assert [event.id for event in events] == sorted(event.id for event in events)
    details = {event.action: dict(event.details) for event in events}
    assert details[Action.WORKSPACE_CREATE] == {"kind": "tenant", "plan": "free", "secret_id": told.id}
    assert details[Action.WORKSPACE_UPDATE] == {"plan": "standard", "pending_tasks": "1", "streams": "2"}
    assert details[Action.WORKSPACE_DISABLE] == {"reason": "unpaid"}
    assert details[Action.SECRET_CREATE]["overlap"] == "3600s"
    assert details[Action.SECRET_REVOKE] == {"secret_id": told.id}
    assert "omcp_" not in str(events)


@pytest.mark.parametrize("action", CHANGES)
async def test_what_cannot_be_logged_is_not_done(action: Action) -> None:
    """While the log can't be written, nothing changes; what is written then is done after it."""
    store = DistantStore()
    engine = Engine(store)
    opened = await made(engine)
    if action is Action.WORKSPACE_ENABLE:
        await opened.workspaces.disable(ADMIN, "ws-1")
    before = await opened.workspaces.get("ws-1")
    store.cut = "add_audit_event"
    with pytest.raises(errors.Unavailable):
        await CHANGES[action](opened)
    assert await opened.workspaces.get("ws-1") == before
    store.cut = "put_workspace"
    with pytest.raises(errors.Unavailable):
        await CHANGES[action](opened)
    assert (await logged(engine))[0].action is action
    assert await opened.workspaces.get("ws-1") == before


async def test_what_cannot_be_logged_is_not_made() -> None:
    """Nor is a workspace whose making is nowhere written; one that is refused is not in the log."""
    store = DistantStore()
    workspaces = Engine(store).app.administration.workspaces
    store.cut = "add_audit_event"
    with pytest.raises(errors.Unavailable):
        await workspaces.create(ADMIN, "free", "ws-1")
    assert store._workspaces == {}
    store.cut = ""
    await workspaces.create(ADMIN, "free", "ws-1")
    refusals = [
        workspaces.create(ADMIN, "free", "ws-1"),
        workspaces.create(ADMIN, "gold", "ws-2"),
        workspaces.create(ADMIN, "free", "No Good"),
        workspaces.create_operator(ADMIN, [], "ws-2"),
        workspaces.update(ADMIN, "ws-1", "gold"),
        workspaces.update(ADMIN, "ws-2", "free"),
        workspaces.create(ADMIN, "free", "admin"),
        workspaces.create_operator(ADMIN, ["echo"], "admin"),
        workspaces.disable(ADMIN, "ws-1", "r" * 513),
    ]
    for refused in refusals:
        with pytest.raises(errors.Error):
            await refused
    assert len(store._audit) == 1


async def test_changes_that_meet_each_other_all_count() -> None:
    """Each is decided on what the others made; each is logged once, however often it was tried."""
    store = DistantStore()
    store.delay = 0.1
    engine = Engine(store)
    opened = await made(engine)
    await asyncio.gather(
        opened.workspaces.update(ADMIN, "ws-1", plan="standard"),
        opened.workspaces.update(ADMIN, "ws-1", quotas=Quotas(7, 0)),
        opened.secrets.rotate(ADMIN, "ws-1"),
    )
    known = await opened.workspaces.get("ws-1")
    assert (known.plan, known.quotas, len(known.secrets), known.version) == ("standard", Quotas(7, 0), 2, 4)
    assert len(await logged(engine)) == 4


async def test_a_disabled_workspaces_tasks_wait_and_go_on_when_it_is_enabled() -> None:
    """Of all its types, in every process; what runs goes on; a pause of its own is not touched."""
    store = MemoryStore()
    here, there = Engine(store).start(), Engine(store).start()
    opened = await made(here)
    worker = there.worker("echo", "paused", room=9)
    running = await here.submit()
    task = await worker.next()
    assert task.key == running.key
    await here.app.queues.pause(Queue("ws-1", "paused"), "upkeep")
    await opened.workspaces.disable(ADMIN, "ws-1")
    waiting = await there.submit()  # was let in just before
    await there.submit(task_type="paused")
    other = await there.submit(tenant("ws-2"))
    given = await worker.next()
    assert given.key == other.key
    for ended in (task, given):
        await worker.complete(ended)
    await asyncio.sleep(30)
    assert worker.inbox.empty()
    assert there.task(waiting.key).status is Status.PENDING
    await opened.workspaces.enable(ADMIN, "ws-1")
    await worker.complete(await worker.next())
    assert there.task(waiting.key).status is Status.SUCCEEDED
    await asyncio.sleep(30)
    assert worker.inbox.empty()
    assert [(state.suspended, state.reason) for state in here.app.queues.of_workspace("ws-1")] == [
        (False, ""),
        (False, "upkeep"),
    ]


async def _shut(opened: Administration) -> None:
    """When it is answered, it is so."""
    await opened.workspaces.disable(ADMIN, "ws-1")


async def _erase(opened: Administration) -> None:
    await opened.workspaces.delete(ADMIN, "ws-1")


async def _take_back(opened: Administration) -> None:
    """Is answered at once, and is so within five seconds."""
    await _revoke_first(opened)
    await asyncio.sleep(5)


@pytest.mark.parametrize("end", [_shut, _erase, _take_back])
@pytest.mark.parametrize("phase", range(4))
async def test_no_process_takes_its_tokens_any_more(
    end: Callable[[Administration], Awaitable[None]], phase: int
) -> None:
    """Nor one that has just looked, whenever that was: what it remembers is not believed for longer."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    opened = here.app.administration
    _, secret = await opened.workspaces.create(LOCAL, "free", "ws-1")
    await here.app.keys.load()
    token = (await there.app.identity.authenticate("ws-1", secret)).token

    async def call_on() -> None:
        while True:
            with contextlib.suppress(errors.TokenInvalid):
                await there.app.identity.check(token, None)
            await asyncio.sleep(0.05)

    calling = asyncio.create_task(call_on())
    await asyncio.sleep(10 + phase)
    await there.app.identity.check(token, None)
    await end(opened)
    with pytest.raises(errors.TokenInvalid):
        await there.app.identity.check(token, None)
    calling.cancel()


async def test_nothing_is_given_out_between_disabled_and_enabled(seed: int) -> None:
    """However far processes are from their database, whatever types are new: between the answers nothing goes out."""
    store = DistantStore()
    store._chance.seed(seed)
    store.delay = (0.0, 0.05, 0.5, 1.0)[seed % 4]
    engines = [Engine(store).start() for _ in range(2)]
    opened = await made(engines[0])
    given: list[bool] = []
    shut = False

    async def work(engine: Engine) -> None:
        worker = engine.worker(*(f"type-{n}" for n in range(60)), room=2)
        while True:
            task = await worker.inbox.get()
            given.append(shut)
            await worker.complete(task)

    async def submit(number: int) -> Task | None:
        await asyncio.sleep(store._chance.random() * 30)
        try:
            return await engines[number % 2].submit(task_type=f"type-{number}")
        except errors.TokenInvalid:
            return None  # a new type, after it was shut out

    working = [asyncio.create_task(work(engine)) for engine in engines]
    submitting = asyncio.gather(*(submit(number) for number in range(60)))
    for _ in range(2):
        await asyncio.sleep(store._chance.random() * 5)
        await opened.workspaces.disable(ADMIN, "ws-1")
        shut = True
        await asyncio.sleep(store._chance.random() * 5)
        shut = False
        await opened.workspaces.enable(ADMIN, "ws-1")
    accepted = [task for task in await submitting if task is not None]
    await engines[0].see_out(accepted)
    for one in working:
        one.cancel()
    assert given == [False] * len(accepted)


async def test_a_rotation_made_again_ends_no_secret_in_use() -> None:
    """Whoever has lost the answer is told which two there are; nothing of them changes, and nothing is logged."""
    engine = Engine()
    opened = await made(engine)
    first = (await opened.secrets.list("ws-1"))[0]
    lost, _ = await opened.secrets.rotate(ADMIN, "ws-1", timedelta(hours=1))
    known, events = await opened.secrets.list("ws-1"), await logged(engine)
    assert [one.id for one in known] == [first.id, lost.id]
    assert known[0].expires_at == lost.created_at + timedelta(hours=1)
    for overlap in (timedelta(milliseconds=1), timedelta(hours=1), timedelta(days=30)):
        with pytest.raises(errors.TooManySecrets, match=f"{first.id} and {lost.id}.*RevokeSecret"):
            await opened.secrets.rotate(ADMIN, "ws-1", overlap)
    assert await opened.secrets.list("ws-1") == known
    assert await logged(engine) == events
    await opened.secrets.revoke(ADMIN, "ws-1", lost.id)
    told, _ = await opened.secrets.rotate(ADMIN, "ws-1", timedelta(hours=1))
    assert [one.id for one in await opened.secrets.list("ws-1")] == [first.id, told.id]


async def test_there_is_room_for_a_secret_when_another_has_ended() -> None:
    """By the overlap's end; or at once, with all others, by an overlap of nothing."""
    opened = await made(Engine())
    second, _ = await opened.secrets.rotate(ADMIN, "ws-1", timedelta(hours=1))
    await asyncio.sleep(3600)
    third, _ = await opened.secrets.rotate(ADMIN, "ws-1", timedelta(seconds=10))
    assert [one.id for one in (await opened.workspaces.get("ws-1")).secrets] == [second.id, third.id]
    fourth, _ = await opened.secrets.rotate(ADMIN, "ws-1", timedelta())
    assert [one.id for one in (await opened.workspaces.get("ws-1")).secrets] == [fourth.id]


async def test_no_rotation_puts_off_an_end() -> None:
    """A secret that is to end in an hour does so, though the one after it was revoked, and the next overlaps longer."""
    opened = await made(Engine())
    second, _ = await opened.secrets.rotate(ADMIN, "ws-1", timedelta(hours=1))
    await opened.secrets.revoke(ADMIN, "ws-1", second.id)
    await opened.secrets.rotate(ADMIN, "ws-1", timedelta(hours=5))
    first, _ = await opened.secrets.list("ws-1")
    assert first.expires_at == second.created_at + timedelta(hours=1)


async def test_what_is_being_deleted_takes_no_change() -> None:
    """Not even an enable; to delete it again is no change."""
    engine = Engine()
    opened = await made(engine)
    await opened.workspaces.delete(ADMIN, "ws-1")
    for action, change in CHANGES.items():
        if action is not Action.WORKSPACE_DELETE:
            with pytest.raises(errors.WorkspaceDeleting):
                await change(opened)
    await opened.workspaces.delete(ADMIN, "ws-1")
    assert (await opened.workspaces.get("ws-1")).state is State.DELETING
    assert [event.action for event in await logged(engine)] == [Action.WORKSPACE_DELETE, Action.WORKSPACE_CREATE]
