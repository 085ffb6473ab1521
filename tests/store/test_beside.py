"""What belongs to tasks, in every store: queues, who has which dedupe_key, what calls were answered."""

import asyncio
from collections.abc import Awaitable, Callable

from support.samples import NOW, RETENTION, SECOND, TERMS, make_task

from openmcp_chain.domain import queue
from openmcp_chain.domain.task import Call, DedupeKey, Key, Queue, Task
from openmcp_chain.store.base import Answer, Granted, Store, Taking
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.store.mongo.store import MongoStore

Connect = Callable[[], Awaitable[Store]]

QUEUE = Queue("ws-1", "data_pipeline")
LATER = NOW + RETENTION
KEY = DedupeKey("ws-1", "key")
ODD = "$a.b/c\0é😀" + "x" * 120


async def took(store: Store, task: Task, instead_of: str) -> bool:
    (made,) = await store.put_holders([Taking(task, instead_of)])
    return made


async def holder(store: Store, key: DedupeKey) -> str:
    return (await store.key_holders([key])).get(key, "")


async def answered(store: Store, call: Call) -> Answer | None:
    return (await store.recorded_calls([call])).get(call)


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


async def test_a_dedupe_key_goes_from_one_task_to_the_next(store: Store) -> None:
    """Only from the one that has it, as often as that is said; and it is free when that one lets go."""
    one, two, three = (make_task(task_id=name, dedupe_key="key", terms=TERMS) for name in ("one", "two", "three"))
    assert await holder(store, KEY) == ""
    assert await store.held_submit(KEY) is None
    assert not await took(store, two, "one")
    for task, before in ((one, ""), (two, "one")):
        assert await took(store, task, before)
        assert await took(store, task, before), "the same again counts as done"
        assert not await took(store, three, "")
        assert await holder(store, KEY) == task.id
        assert await store.held_submit(KEY) == task
    assert not await took(store, three, "one")
    assert not await store.free_key(KEY, "one")
    assert await store.free_key(KEY, "two")
    assert not await store.free_key(KEY, "two")
    assert await holder(store, KEY) == ""
    assert await took(store, three, "")


async def test_of_several_each_gets_its_key_or_not(store: Store) -> None:
    """New ones, and such as others have, together: each by itself, and again the same."""
    assert await took(store, make_task(task_id="old", dedupe_key="b"), "")
    assert await took(store, make_task(task_id="old", dedupe_key="d"), "")
    before = {"a": "", "b": "", "c": "old", "d": "old"}
    takings = [Taking(make_task(task_id=f"new-{key}", dedupe_key=key), held_by) for key, held_by in before.items()]
    for _ in range(2):
        assert await store.put_holders(takings) == [True, False, False, True]
    keys = [DedupeKey("ws-1", key) for key in before]
    assert await store.key_holders(keys) == {keys[0]: "new-a", keys[1]: "old", keys[3]: "new-d"}
    assert await store.put_holders([]) == []
    assert not await store.key_holders([])
    assert not await store.recorded_calls([])


async def test_a_dedupe_key_is_of_one_workspace(store: Store) -> None:
    """Any text is a key, and none is another, or a pattern."""
    keys = ["key", ODD, ODD[:-1], ".*", "1/key", "$set", " key"]
    for key in keys[:2]:
        assert await took(store, make_task(task_id="id", dedupe_key=key), "")
    assert [await holder(store, DedupeKey("ws-1", key)) for key in keys] == ["id", "id", "", "", "", "", ""]
    assert await holder(store, DedupeKey("ws-2", "key")) == await holder(store, DedupeKey("ws", "-1/key")) == ""


async def test_of_racing_tasks_one_gets_the_key(connected: Connect) -> None:
    """In two processes at once, a free one, and one that another task has."""
    stores = [await connected(), await connected()]
    before = ""
    for _ in range(2):
        tasks = [make_task(dedupe_key="key") for _ in range(8)]
        got = await asyncio.gather(*(took(stores[n % 2], task, before) for n, task in enumerate(tasks)))
        (winner,) = [task for task, won in zip(tasks, got, strict=True) if won]
        assert [await holder(one, KEY) for one in stores] == [winner.id] * 2
        before = winner.id


async def test_what_a_call_was_answered_is_kept(store: Store) -> None:
    """The first to say so is believed; leases of an operator are on tasks of many workspaces."""
    answer = Answer(b"\0\xff", (Granted(Key("ws-1", ODD), "token"), Granted(Key("ws-2", "id"), "")))
    assert await answered(store, Call("ws-1", "request")) is None
    assert await store.record_call("ws-1", "request", answer, LATER) == answer
    assert await store.record_call("ws-1", "request", Answer(b"", answer.granted), LATER) == answer
    assert await answered(store, Call("ws-1", "request")) == answer
    assert await answered(store, Call("ws-2", "request")) is None
    nothing = Answer(b"", ())
    assert await store.record_call("ws-1", "nothing", nothing, LATER) == nothing
    assert await answered(store, Call("ws-1", "nothing")) == nothing


async def test_what_is_kept_of_a_call_is_kept_on(store: Store) -> None:
    """It stays what it is; of a call of which nothing is kept, nothing is."""
    answer = Answer(b"\0\xff", (Granted(Key("ws-1", ODD), "token"),))
    assert await store.record_call("ws-1", "request", answer, LATER) == answer
    for call, expire_at in (("request", LATER + 60 * SECOND), ("request", NOW), ("another", LATER)):
        await store.keep_call("ws-1", call, expire_at)
    assert await answered(store, Call("ws-1", "request")) == answer
    assert await answered(store, Call("ws-1", "another")) is None
    if isinstance(store, MongoStore):
        (kept,) = await store._database.calls.find({}).to_list(None)
        assert kept["expire_at"] == LATER + 60 * SECOND
    elif isinstance(store, MemoryStore):
        assert store._calls["ws-1", "request"][0] == LATER + 60 * SECOND


async def test_racing_calls_are_told_of_the_same_answer(connected: Connect) -> None:
    """The same call in two processes at once."""
    stores = [await connected(), await connected()]
    answers = await asyncio.gather(
        *(
            stores[n % 2].record_call("ws-1", "request", Answer(b"", (Granted(Key("ws-1", "id"), str(n)),)), LATER)
            for n in range(10)
        )
    )
    kept = await answered(stores[0], Call("ws-1", "request"))
    assert all(answer == kept for answer in answers)
