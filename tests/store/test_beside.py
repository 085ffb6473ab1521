"""What belongs to tasks, in every store: queues, generations of dedupe keys, what lease calls granted."""

import asyncio
from collections.abc import Awaitable, Callable

from support.samples import NOW, RETENTION, SECOND

from openmcp_chain.domain import queue
from openmcp_chain.domain.task import Key, Queue
from openmcp_chain.store.base import Granted, Store

Connect = Callable[[], Awaitable[Store]]

QUEUE = Queue("ws-1", "data_pipeline")
LATER = NOW + RETENTION
ODD = "$a.b/c\0é😀" + "x" * 120


async def test_a_queue_comes_back_as_it_was_put(store: Store) -> None:
    """New, paused, suspended beside it, and going on again."""
    new = queue.new(QUEUE, NOW)
    paused = new.paused("why", NOW + SECOND)
    suspended = paused.with_suspended(True, NOW + 2 * SECOND)
    for state in (new, paused, suspended, suspended.resumed(NOW + 3 * SECOND)):
        assert await store.put_queue(state)
        assert await store.put_queue(state), "the same again counts as done"
        assert await store.list_queues(None) == [state]


async def test_a_queue_is_replaced_only_by_its_next_version(store: Store) -> None:
    """So of a pause and a resume at once, one knows of the other."""
    first = queue.new(QUEUE, NOW)
    second = first.paused("one", NOW)
    assert not await store.put_queue(second)
    assert await store.put_queue(first)
    assert not await store.put_queue(queue.new(QUEUE, NOW + SECOND))
    assert await store.put_queue(second)
    assert not await store.put_queue(first.paused("other", NOW))
    assert await store.list_queues(None) == [second]


async def test_queues_are_listed_by_when_they_changed(store: Store) -> None:
    """From that moment on, it included; a type is its workspace's own."""
    states = [queue.new(Queue(f"ws-{n % 2}", f"type-{n // 2}"), NOW + n * SECOND) for n in range(4)]
    for state in states:
        await store.put_queue(state)
    assert {state.queue for state in await store.list_queues(None)} == {state.queue for state in states}
    assert {state.queue for state in await store.list_queues(NOW + 2 * SECOND)} == {s.queue for s in states[2:]}
    assert await store.list_queues(NOW + 4 * SECOND) == []


async def test_a_generation_rises_by_one(store: Store) -> None:
    """From none, each step once; a step that was taken changes nothing."""
    assert await store.get_generation("ws-1", "key") == 0
    await store.raise_generation("ws-1", "key", 2)
    assert await store.get_generation("ws-1", "key") == 0
    for generation in (1, 1, 2, 2, 1, 4):
        await store.raise_generation("ws-1", "key", generation)
    assert await store.get_generation("ws-1", "key") == 2


async def test_a_generation_is_of_one_key_in_one_workspace(store: Store) -> None:
    """Any text is a key, and none is another, or a pattern."""
    keys = ["key", "", ODD, ODD[:-1], ".*", "1/key", "$set", " key"]
    for key in keys[:3]:
        await store.raise_generation("ws-1", key, 1)
    assert [await store.get_generation("ws-1", key) for key in keys] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert await store.get_generation("ws-2", "key") == 0
    assert await store.get_generation("ws", "-1/key") == 0


async def test_racing_steps_of_a_generation_are_one(connected: Connect) -> None:
    """In two processes at once, first and later."""
    stores = [await connected(), await connected()]
    for generation in (1, 2):
        await asyncio.gather(*(stores[n % 2].raise_generation("ws-1", "key", generation) for n in range(8)))
        assert await stores[0].get_generation("ws-1", "key") == generation


async def test_what_a_call_granted_is_kept(store: Store) -> None:
    """The first to say so is believed; leases of an operator are on tasks of many workspaces."""
    granted = [Granted(Key("ws-1", ODD), "token"), Granted(Key("ws-2", "id"), "other")]
    assert await store.recorded_leases("ws-1", "request") is None
    assert list(await store.record_leases("ws-1", "request", granted, LATER)) == granted
    assert list(await store.record_leases("ws-1", "request", granted[:1], LATER)) == granted
    assert list(await store.recorded_leases("ws-1", "request") or ()) == granted
    assert await store.recorded_leases("ws-2", "request") is None
    assert list(await store.record_leases("ws-1", "nothing", [], LATER)) == []
    assert list(await store.recorded_leases("ws-1", "nothing") or ()) == []


async def test_racing_calls_are_told_of_the_same_leases(connected: Connect) -> None:
    """The same call in two processes at once."""
    stores = [await connected(), await connected()]
    answers = await asyncio.gather(
        *(
            stores[n % 2].record_leases("ws-1", "request", [Granted(Key("ws-1", "id"), str(n))], LATER)
            for n in range(10)
        )
    )
    kept = await stores[0].recorded_leases("ws-1", "request")
    assert kept
    assert all(list(answer) == list(kept) for answer in answers)
