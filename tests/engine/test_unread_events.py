"""What subscribers keep of events that have not been sent: it is counted, and bounded."""

import pytest
from support.engine import Engine, Worker
from support.service import PATIENCE

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Key, Task
from openmcp_chain.engine import volume
from openmcp_chain.engine.events import Subscription

LINES, LINE = 20, "\U0001f600" * 1024
LINES_BYTES = LINES * len(LINE.encode())


def subscribe(engine: Engine, key: Key, after: int = 0) -> Subscription:
    return engine.app.events.subscribe(key, after, 100)


async def tell(worker: Worker, task: Task) -> None:
    for _ in range(LINES):
        await worker.heartbeat(task, line=LINE)


async def test_what_has_not_been_sent_is_counted() -> None:
    """The events that were given out last, until the next are asked for, and those that came meanwhile: about."""
    engine = Engine()
    unread, worker = engine.app.events.unread, engine.worker()
    await engine.submit()
    task = await worker.next()
    await tell(worker, task)

    def lines() -> float:
        return unread.total / LINES_BYTES

    async with subscribe(engine, task.key) as events:
        assert 1 < lines() < 1.25
        assert len(await events.next(0)) == 2 + LINES
        assert 1 < lines() < 1.25
        await tell(worker, task)
        assert 2 < lines() < 2.5
        assert len(await events.next(0)) == LINES
        assert 1 < lines() < 1.25
        assert not await events.next(0)
        assert not unread.total
        await tell(worker, task)
        assert 1 < lines() < 1.25
        await worker.complete(task)
    assert not unread.total
    async with subscribe(engine, task.key, 2 + 3 * LINES) as events:
        assert len(await events.next(0)) == 1
        assert events.ended
        assert not unread.total


async def test_a_stream_for_which_there_is_no_room_ends() -> None:
    """When it is its turn to be sent more; till then it may find some. Who waits for the end alone needs none."""
    engine = Engine()
    unread, worker = engine.app.events.unread, engine.worker()
    task = await engine.submit()
    given = await worker.next()
    async with (
        subscribe(engine, task.key) as events,
        subscribe(engine, task.key) as other,
        engine.app.events.ending(task.key, 100) as end,
    ):
        assert len(await events.next(0)) == len(await other.next(0)) == 2
        unread.enter(task.workspace, volume.WORKSPACE_BYTES)
        await tell(worker, given)
        assert unread.total == volume.WORKSPACE_BYTES
        with pytest.raises(errors.Overloaded):
            async with subscribe(engine, task.key):
                pass
        few = await other.next(0)
        assert 0 < sum(len(LINE.encode()) for _ in few) < volume.SMALL
        with pytest.raises(errors.Overloaded):
            await other.next(PATIENCE)
        await worker.complete(given, b"done")
        assert (await end.task(PATIENCE)).result == b"done"
        unread.leave(task.workspace, volume.WORKSPACE_BYTES)
        seen = [*await events.next(0), *await events.next(PATIENCE)]
        assert [event.seq for event in seen] == list(range(3, 4 + LINES))
        assert events.ended
    assert not unread.total
