"""Reads by key: batched, and of the large ones only so much at a time that the others don't wait for them."""

import asyncio
from collections.abc import Collection, Mapping
from functools import partial

import pytest
from support.engine import DistantStore, Engine, tenant
from support.samples import make_task

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Key, Task, View
from openmcp_chain.engine.groupcommit import BATCH_BYTES
from openmcp_chain.engine.reads import LARGE_AT_ONCE
from openmcp_chain.store.memory import MemoryStore

MEBIBYTE = 1024 * 1024
KEYED, PLAIN = "5f0c1f2e-0000-4000-8000-000000000001", "5f0c1f2e-0000-4000-8000-000000000002"


class HeavyStore(MemoryStore):
    """Holds what is heavy back until a test lets it go; knows what was read together."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.batches: list[tuple[View, int, int]] = []
        """The view, how many tasks, and the bytes of payloads and results."""

    async def get_tasks(self, keys: Collection[Key], view: View = View.WHOLE) -> Mapping[Key, Task]:
        found = await super().get_tasks(keys, view)
        size = sum(len(task.payload) + len(task.result or b"") for task in found.values())
        self.batches.append((view, len(keys), size))
        if size >= MEBIBYTE:
            await self.go.wait()
        return found


async def test_nobody_waits_for_anothers_large_tasks() -> None:
    """A hundred mebibytes of one workspace's: another's small task comes at once, its large one after a batch."""
    store = HeavyStore()
    engine = Engine(store)
    large = [await engine.submit(payload=b"x" * MEBIBYTE) for _ in range(100)]
    small = await engine.submit(tenant("ws-2"))
    other = await engine.submit(tenant("ws-2"), payload=b"x" * MEBIBYTE)
    get = partial(engine.app.ledger.get, view=View.WHOLE)
    reads = [asyncio.ensure_future(get(task.key)) for task in large]
    assert await asyncio.wait_for(get(small.key), 5) == small
    theirs = asyncio.ensure_future(get(other.key))
    store.go.set()
    assert await theirs == other
    assert sum(read.done() for read in reads) < 5 * LARGE_AT_ONCE
    assert await asyncio.gather(*reads) == large
    assert max(size for *_, size in store.batches) <= BATCH_BYTES + 2 * MEBIBYTE
    assert not engine.app.ledger._reads[View.WHOLE]._few._turns


@pytest.mark.parametrize("view", [View.BASIC, View.RESULT, View.FULL])
async def test_nobody_waits_for_anothers_metadata(view: View) -> None:
    """It is weighed as payloads are: so much is read at a time, and of one workspace a few tasks."""
    store = HeavyStore()
    engine = Engine(store)
    metadata = {str(number): "x" * 1000 for number in range(300)}
    heavy = [make_task(workspace="ws-1", metadata=metadata) for _ in range(100)]
    await store.insert_tasks(heavy)
    found = await asyncio.gather(*(engine.app.ledger.get(task.key, view) for task in heavy))
    assert {task and task.id for task in found} == {task.id for task in heavy}
    assert max(many for _, many, _ in store.batches) <= LARGE_AT_ONCE
    assert await engine.app.ledger.sizes([task.key for task in heavy], view) == [0] * 100


async def test_who_owes_when_its_turn_comes_reads_no_more() -> None:
    """Of twenty large tasks asked for at once, those that wait behind the first are refused as if they came later."""
    store = HeavyStore()
    store.go.set()
    engine = Engine(store)
    ids = [(await engine.submit(payload=b"x" * MEBIBYTE)).id for _ in range(20)]
    owed = False

    def may_read(size: int) -> None:
        if owed and size:
            raise errors.RateLimited("answers")

    async def read(task_id: str) -> None:
        nonlocal owed
        await engine.app.tasks.get(tenant(), task_id, View.FULL, may_read)
        owed = True

    answers = await asyncio.gather(*map(read, ids), return_exceptions=True)
    assert sum(many for _, many, _ in store.batches) == answers.count(None) == LARGE_AT_ONCE
    assert {type(answer) for answer in answers if answer} == {errors.RateLimited}


async def test_small_tasks_share_their_reads() -> None:
    """However many there are: one read of sizes, one of tasks."""
    store = HeavyStore()
    engine = Engine(store)
    tasks = [await engine.submit(payload=b"x") for _ in range(300)]
    assert await asyncio.gather(*(engine.app.ledger.get(task.key, View.WHOLE) for task in tasks)) == tasks
    assert [many for _, many, _ in store.batches] == [300]


async def test_what_a_view_leaves_out_is_not_read() -> None:
    """Neither by a call for one, nor for many, nor for a list, nor by who follows its events or submits it again."""
    store = HeavyStore()
    engine = Engine(store)
    ids = [(await engine.submit(payload=b"x" * MEBIBYTE)).id for _ in range(20)]
    tasks = engine.app.tasks
    await tasks.get(tenant(), ids[0], View.BASIC)
    await tasks.get(tenant(), ids[0], View.RESULT)
    assert len(await tasks.get_many(tenant(), ids, View.BASIC)) == 20
    assert len((await tasks.list(tenant(), "", 100, "", View.BASIC)).tasks) == 20
    async with engine.app.events.subscribe(Key("ws-1", ids[0]), 0, 10) as events:
        assert len(await events.next(0)) == 1
    for _ in range(2):
        keyed = await engine.submit(payload=b"x" * MEBIBYTE, request_id=KEYED, dedupe_key="nightly")
        await engine.submit(payload=b"x" * MEBIBYTE, request_id=PLAIN)
        assert (await engine.submit(dedupe_key="nightly", use_existing=True)).id == keyed.id
    assert {size for *_, size in store.batches} == {0}


async def test_many_answers_at_once_take_few_reads() -> None:
    """Fifty calls for large tasks, each of which must know their sizes first, share those reads too."""
    store = DistantStore()
    engine = Engine(store)
    ids = [(await engine.submit(payload=b"x" * MEBIBYTE)).id for _ in range(50)]
    store.calls.clear()
    store.delay = 0.01
    answers = await asyncio.gather(*(engine.app.tasks.get_many(tenant(), [one, one], View.FULL) for one in ids))
    assert [[task and task.id for task in answer] for answer in answers] == [[one, one] for one in ids]
    assert store.calls["large_tasks"] <= 10
