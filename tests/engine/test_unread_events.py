"""What subscribers keep of events that have not been sent: it is counted, and bounded."""

from collections import Counter
from collections.abc import Sequence

import pytest
from support.engine import Engine, Worker
from support.service import PATIENCE

from openmcp_chain.domain import sizes
from openmcp_chain.domain.task import Event, Key, Task
from openmcp_chain.engine import events as events_module
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


async def test_a_stream_for_which_there_is_no_room_goes_on_by_small_parts() -> None:
    """So do those that come; what others leave unread keeps nobody from following. Who waits for the end needs none."""
    engine = Engine()
    unread, worker = engine.app.events.unread, engine.worker()
    task = await engine.submit()
    given = await worker.next()
    async with (
        subscribe(engine, task.key) as events,
        engine.app.events.ending(task.key, 100) as end,
    ):
        assert len(await events.next(0)) == 2
        unread.enter(task.workspace, volume.WORKSPACE_BYTES)
        await tell(worker, given)
        await worker.complete(given, b"done")
        assert unread.total == volume.WORKSPACE_BYTES
        async with subscribe(engine, task.key) as late:
            for subscription, first in ((events, 3), (late, 1)):
                seen: list[Event] = []
                while not subscription.ended:
                    part = await subscription.next(PATIENCE)
                    assert 0 < sum(len(LINE.encode()) for event in part if "log" in event.context) < volume.SMALL
                    assert unread.total == volume.WORKSPACE_BYTES
                    seen += part
                assert [event.seq for event in seen] == list(range(first, 4 + LINES))
        assert (await end.task(PATIENCE)).result == b"done"


async def test_of_a_long_history_a_part_is_kept_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it comes, each event once, with what happens meanwhile."""
    monkeypatch.setattr(events_module, "PART_BYTES", LINES_BYTES // 2)
    engine = Engine()
    unread, worker = engine.app.events.unread, engine.worker()
    await engine.submit()
    task = await worker.next()
    await tell(worker, task)
    async with subscribe(engine, task.key) as events:
        seen: list[Event] = []
        while not events.ended:
            assert unread.total <= LINES_BYTES // 2
            seen += await events.next(PATIENCE)
            if len(seen) > LINES and not events.ended and seen[-1].seq < 3 + 2 * LINES:
                if seen[-1].seq == 2 + LINES:
                    await tell(worker, task)
                elif seen[-1].seq == 2 + 2 * LINES:
                    await worker.complete(task)
        assert [event.seq for event in seen] == list(range(1, 4 + 2 * LINES))
    assert not unread.total


async def test_who_has_no_room_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of the history is left, and however often something happens."""
    monkeypatch.setattr(events_module, "PART_BYTES", LINES_BYTES // 2)
    engine = Engine()
    worker = engine.worker()
    await engine.submit()
    task = await worker.next()
    await tell(worker, task)
    weighed = Counter[int]()

    def weigh(events: Sequence[Event]) -> int:
        weighed.update(event.seq for event in events)
        return original(events)

    original = sizes.in_memory
    async with subscribe(engine, task.key):
        monkeypatch.setattr(sizes, "in_memory", weigh)
        await tell(worker, task)
        assert weighed.total() == LINES
