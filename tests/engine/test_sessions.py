"""Sessions whose bytes are bounded: who finds no room waits for some, and stands in nobody's way meanwhile."""

import asyncio

from support.engine import DistantStore, Engine
from support.service import PATIENCE

from openmcp_chain.domain.task import Task
from openmcp_chain.engine import volume
from openmcp_chain.engine.sessions import Demand, Session
from openmcp_chain.engine.volume import Share

PAYLOAD = b"x" * 1000


def join(engine: Engine, task_type: str = "echo", *, room: int = 1) -> tuple[Session, asyncio.Queue[Task]]:
    """A worker of ws-1 that has come and takes one such task's bytes at a time, of those that it may leave unread."""
    inbox = asyncio.Queue[Task]()
    session = Session(
        worker="worker-1",
        demand=Demand(frozenset({task_type}), "ws-1"),
        room=room,
        deliver=inbox.put_nowait,
        most_bytes=len(PAYLOAD),
        share=Share(engine.app.large.unread, "ws-1"),
    )
    engine.app.dispatcher.join(session)
    return session, inbox


async def test_who_leaves_waits_for_room_no_more() -> None:
    """Else a workspace that may leave nothing more unread would leave sessions behind, one with each call."""
    engine = Engine()
    unread = engine.app.large.unread
    unread.enter("ws-1", volume.WORKSPACE_BYTES)
    session, inbox = join(engine)
    await engine.submit(payload=PAYLOAD)
    await engine.app.dispatcher.settle()
    assert unread._waiting
    engine.app.dispatcher.leave(session)
    assert not unread._waiting
    assert inbox.empty()


async def test_who_has_no_use_for_room_leaves_it_to_the_next() -> None:
    """Another has got what the first one waited for; it is the second one's task that there is room for now."""
    engine = Engine()
    unread = engine.app.large.unread
    unread.enter("ws-1", volume.WORKSPACE_BYTES)
    (_, first), (_, second) = join(engine, "a"), join(engine, "b")
    for task_type in "ab":
        await engine.submit(task_type=task_type, payload=PAYLOAD)
    await engine.app.dispatcher.settle()
    assert (await engine.worker("a").next()).type == "a"
    unread.leave("ws-1", volume.WORKSPACE_BYTES // 2)
    async with asyncio.timeout(PATIENCE):
        assert (await second.get()).type == "b"
    assert first.empty()


async def test_who_owes_gets_nothing_until_it_is_paid() -> None:
    """What it would have got goes to others, or waits for it; of one that has left nothing stays behind."""
    engine = Engine()
    loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Task]()
    owed_until = loop.time() + 10

    def owes() -> float:
        return max(0.0, owed_until - loop.time())

    demand = Demand(frozenset({"echo"}), "ws-1")
    session = Session(worker="worker-1", demand=demand, room=5, deliver=inbox.put_nowait, owes=owes)
    engine.app.dispatcher.join(session)
    first = await engine.submit()
    other = engine.worker()
    assert (await other.next()).key == first.key
    second = await engine.submit()
    await asyncio.sleep(9)
    assert inbox.empty()
    await asyncio.sleep(1.1)
    assert inbox.get_nowait().key == second.key
    third = await engine.submit()
    async with asyncio.timeout(PATIENCE):
        assert (await inbox.get()).key == third.key
    owed_until = loop.time() + 1000
    await engine.submit()
    assert inbox.empty()
    engine.app.dispatcher.leave(session)
    assert session.rest is not None
    assert session.rest.cancelled()


async def test_room_that_is_too_small_for_the_first_is_left_to_the_next() -> None:
    """That its task does not fit is known when it is claimed: till then, nobody else was told."""
    engine = Engine()
    unread = engine.app.large.unread
    unread.enter("ws-1", volume.WORKSPACE_BYTES)
    (_, first), (_, second), (_, third) = (join(engine, task_type) for task_type in "abc")
    for task_type, size in (("a", 900_000), ("b", 700_000), ("c", 400_000)):
        await engine.submit(task_type=task_type, payload=b"x" * size)
    await engine.app.dispatcher.settle()
    unread.leave("ws-1", 500_000)
    async with asyncio.timeout(PATIENCE):
        assert (await third.get()).type == "c"
    assert first.empty()
    assert second.empty()
    unread.leave("ws-1", 900_000)
    async with asyncio.timeout(PATIENCE):
        await first.get()


async def test_who_has_no_room_is_passed_over_by_what_is_submitted() -> None:
    """It goes to the next worker that waits, leased in the write that stores it, and to the first one when it can."""
    engine = Engine(store := DistantStore())
    session, first = join(engine, room=3)
    await engine.submit(payload=PAYLOAD)
    _, second = join(engine)
    await engine.submit(payload=PAYLOAD)
    assert (store.calls["insert_tasks"], store.calls["update_tasks"]) == (2, 0)
    assert (first.qsize(), second.qsize()) == (1, 1)
    await engine.submit(payload=PAYLOAD)
    assert first.qsize() == 1
    engine.app.dispatcher.sent(session, await first.get())
    async with asyncio.timeout(PATIENCE):
        await first.get()
