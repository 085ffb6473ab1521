"""Submits with a dedupe_key: one task at a time has it, whoever retries, dies or repeats a request."""

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from support import virtual
from support.engine import DistantStore, Engine, Worker, crowd, distant, tenant
from support.service import until

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.task import Change, Key, Status, Task, Terms
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.store.mongo.client import CONNECTIONS


class Counting(DistantStore):
    """Knows how many of its calls are under way."""

    under_way = most = 0

    async def travel(self, name: str, gates: Mapping[str, asyncio.Event]) -> None:
        if gates is self.gates:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        await super().travel(name, gates)
        if gates is self.late:
            self.under_way -= 1


async def test_a_crowd_with_dedupe_keys_leaves_connections_to_others() -> None:
    """Keys are read and taken in batches, and what is rare a few at a time; whether the keys are new or not."""
    engine = Engine(store := Counting(random.Random(4)))  # noqa: S311 - interleavings, not secrets
    store.delay = 0.2
    made = []
    for _ in range(2):
        crowd = (
            engine.submit(dedupe_key=str(number), use_existing=True, request_id=str(uuid4())) for number in range(200)
        )
        made.append([task.id for task in await asyncio.gather(*crowd)])
    assert made[0] == made[1]
    assert store.most <= CONNECTIONS
    assert store.calls["put_holders"] < 20


async def test_a_dedupe_key_is_one_tasks_at_a_time() -> None:
    """While it has not ended, the next submit is refused, naming it, or gets it; as the submit itself says."""
    engine = Engine()
    worker = engine.worker()
    first = await engine.submit(dedupe_key="nightly")
    with pytest.raises(errors.DedupeKeyTaken) as refusal:
        await engine.submit(dedupe_key="nightly")
    assert refusal.value.resource == ("openmcp.chain.v1.Task", first.id)
    assert (await engine.submit(dedupe_key="nightly", use_existing=True)).id == first.id
    other = await engine.submit(dedupe_key="weekly")
    foreign = await engine.submit(tenant("ws-2"), dedupe_key="nightly")
    assert len({first.id, other.id, foreign.id}) == 3
    task = await worker.next()
    assert task.key == first.key
    with pytest.raises(errors.DedupeKeyTaken):
        await engine.submit(dedupe_key="nightly")


@pytest.mark.parametrize("ended", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
async def test_an_ended_task_gives_its_dedupe_key_away(ended: Status) -> None:
    """To a new task, with an id of its own; the old one keeps its history, and can't be tried again beside it."""
    engine = Engine()
    worker = engine.worker()
    ids = set()
    for _ in range(3):
        ids.add((await engine.submit(dedupe_key="nightly")).id)
        task = await worker.next()
        if ended is Status.SUCCEEDED:
            await worker.complete(task)
        elif ended is Status.FAILED:
            await worker.fail(task, retryable=False)
        else:
            await engine.app.tasks.cancel(tenant(), task.id, "")
            await worker.stop(task)
    assert len(ids) == len(engine.store._tasks) == 3
    *old, last = (task for task in engine.store._tasks.values())
    assert [task.superseded for task in old] == [True, True]
    assert {task.status for task in old} == {ended}
    for task in old:
        with pytest.raises(errors.TaskNotRetryable):
            await engine.app.tasks.retry(tenant(), task.id)
    if ended is not Status.SUCCEEDED:
        await engine.app.tasks.retry(tenant(), last.id)
        with pytest.raises(errors.DedupeKeyTaken):
            await engine.submit(dedupe_key="nightly")


async def test_the_same_request_with_a_dedupe_key_gets_its_task_after_the_end_too() -> None:
    """A repetition by request_id is no new submit, whatever the conflict policy."""
    engine = Engine()
    worker = engine.worker()
    request_id = str(uuid4())
    first = await engine.submit(dedupe_key="nightly", request_id=request_id)
    assert (await engine.submit(dedupe_key="nightly", request_id=request_id)).key == first.key
    await worker.complete(await worker.next())
    assert (await engine.submit(dedupe_key="nightly", request_id=request_id)).key == first.key
    assert len(engine.store._tasks) == 1


@pytest.mark.parametrize("use_existing", [False, True])
@pytest.mark.parametrize("old", [False, True])
async def test_hundred_submits_with_one_dedupe_key_make_one_task(old: bool, use_existing: bool) -> None:
    """Over two processes with slow answers, whether the key is free or held by an ended task."""
    store = distant(2)
    engines = [Engine(store), Engine(store)]
    if old:
        worker = engines[0].worker()
        await engines[0].submit(dedupe_key="nightly")
        await worker.complete(await worker.next())
        worker.leave()
    made = await crowd(engines, lambda engine, _: engine.submit(dedupe_key="nightly", use_existing=use_existing))
    got = [task for task in made if isinstance(task, Task)]
    assert len({task.key for task in got}) == 1
    assert len(got) == (100 if use_existing else 1)
    assert all(isinstance(one, Task | errors.DedupeKeyTaken) for one in made)
    assert sum(not task.status.terminal for task in store._tasks.values()) == 1


async def test_a_retry_and_a_successor_never_both_have_the_key(seed: int) -> None:
    """However a retry by hand meets a new submit: at most one task with the key has not ended."""
    store = distant(seed)
    engines = [Engine(store), Engine(store)]
    worker = engines[0].worker()
    await engines[0].submit(dedupe_key="nightly")
    task = await worker.fail(await worker.next(), retryable=False)
    worker.leave()
    retried, submitted = await asyncio.gather(
        engines[0].app.tasks.retry(tenant(), task.id),
        engines[1].submit(dedupe_key="nightly"),
        return_exceptions=True,
    )
    living = [task.id for task in store._tasks.values() if not task.status.terminal]
    assert len(living) == 1
    assert isinstance(retried, errors.TaskNotRetryable) == isinstance(submitted, Task)
    assert isinstance(submitted, Task | errors.DedupeKeyTaken)


async def test_a_dedupe_key_is_free_again_when_retention_has_taken_its_task() -> None:
    """Its next task is as any other."""
    store = MemoryStore()
    engine = Engine(store).start()
    worker = engine.worker()
    await engine.submit(dedupe_key="nightly", terms=Terms(retention=timedelta(minutes=1)))
    await worker.complete(await worker.next())
    await asyncio.sleep(200)
    assert not store._tasks
    assert not store._holders
    await engine.submit(dedupe_key="nightly")
    await worker.complete(await worker.next())


async def test_a_task_that_is_tried_again_keeps_its_key_though_its_retention_was_over() -> None:
    """Retention had read it as ended, and comes with its mark when it is not any more: the key stays its own."""
    store = MemoryStore()
    wire = DistantStore(data=store)
    here, there = Engine(store), Engine(wire)
    worker = here.worker()
    task = await here.submit(dedupe_key="nightly", terms=Terms(retention=timedelta(minutes=1)))
    await worker.fail(await worker.next(), retryable=False)
    worker.leave()
    await asyncio.sleep(61)
    wire.gates["update_tasks"] = asyncio.Event()
    retention = asyncio.create_task(there.app.retention.run_once())
    await until(lambda: wire.calls["update_tasks"] == 1)
    await here.app.tasks.retry(tenant(), task.id)
    wire.gates["update_tasks"].set()
    assert await retention == 1
    assert here.task(task.key).status is Status.PENDING
    with pytest.raises(errors.DedupeKeyTaken):
        await here.submit(dedupe_key="nightly")


# --- request_id and dedupe_key


async def ended(worker: Worker) -> None:
    await worker.complete(await worker.next())


async def test_a_request_id_is_one_tasks_whatever_its_dedupe_key() -> None:
    """With another key, none, or another payload under the same key it is another request, and refused."""
    engine = Engine()
    worker = engine.worker()
    request_id = str(uuid4())
    first = await engine.submit(dedupe_key="a", request_id=request_id, payload=b"1")
    others: list[dict[str, Any]] = [{"dedupe_key": "b"}, {"dedupe_key": ""}, {"payload": b"2"}]
    for other in (*others, {"payload": b"2", "use_existing": True}):
        for _ in range(2):
            with pytest.raises(errors.RequestIdReused):
                await engine.submit(**{"dedupe_key": "a", "request_id": request_id, "payload": b"1", **other})
        assert (await engine.submit(dedupe_key="a", request_id=request_id, payload=b"1")).key == first.key
    await engine.submit(dedupe_key="b")
    assert len(engine.store._tasks) == 2
    plain = str(uuid4())
    await engine.submit(request_id=plain)
    with pytest.raises(errors.RequestIdReused):
        await engine.submit(request_id=plain, dedupe_key="c")
    await engine.submit(dedupe_key="c")
    await ended(worker)


async def test_a_request_that_was_another_ones_leaves_no_key() -> None:
    """The same request_id came without a key in the same moment, and first: nobody carries the other out later."""
    store = MemoryStore()
    wire = DistantStore(data=store)
    here, there, request_id = Engine(wire), Engine(store), str(uuid4())
    wire.gates["insert_tasks"] = asyncio.Event()
    keyed = asyncio.create_task(here.submit(dedupe_key="nightly", request_id=request_id))
    await until(lambda: wire.calls["insert_tasks"] == 1)
    plain = await there.submit(request_id=request_id)
    wire.gates["insert_tasks"].set()
    with pytest.raises(errors.RequestIdReused):
        await keyed
    assert list(store._tasks) == [plain.key]
    await store.erase_tasks("ws-1", 1)
    task = await there.submit(dedupe_key="nightly")
    assert list(store._tasks) == [task.key] != [plain.key]


async def test_a_repeated_request_gets_its_task_though_another_has_the_key() -> None:
    """One, its successor, and one again: the first answer stands, and nothing runs a second time."""
    engine = Engine()
    worker = engine.worker()
    one, two = str(uuid4()), str(uuid4())
    first = await engine.submit(dedupe_key="nightly", request_id=one)
    await ended(worker)
    second = await engine.submit(dedupe_key="nightly", request_id=two)
    assert (await engine.submit(dedupe_key="nightly", request_id=one)).key == first.key
    await ended(worker)
    assert (await engine.submit(dedupe_key="nightly", request_id=one)).key == first.key
    assert (await engine.submit(dedupe_key="nightly", request_id=two)).key == second.key
    assert len(engine.store._tasks) == 2
    assert worker.inbox.empty()


async def test_a_repeated_request_gets_the_existing_task_that_it_got_before() -> None:
    """Also when that has ended, and the key is free, or another's."""
    engine = Engine()
    worker = engine.worker()
    request_id = str(uuid4())
    there = await engine.submit(dedupe_key="nightly")
    for _ in range(2):
        got = await engine.submit(dedupe_key="nightly", request_id=request_id, use_existing=True)
        assert got.key == there.key
    with pytest.raises(errors.RequestIdReused):
        await engine.submit(dedupe_key="nightly", request_id=request_id, use_existing=True, payload=b"2")
    await ended(worker)
    for _ in range(2):
        got = await engine.submit(dedupe_key="nightly", request_id=request_id, use_existing=True)
        assert got.key == there.key
        await engine.submit(dedupe_key="nightly", use_existing=True)
    assert len(engine.store._tasks) == 2


async def test_a_refused_request_may_be_made_again_when_the_key_is_free() -> None:
    """It has made nothing, so there is nothing to stand by."""
    engine = Engine()
    worker = engine.worker()
    request_id = str(uuid4())
    await engine.submit(dedupe_key="nightly")
    with pytest.raises(errors.DedupeKeyTaken):
        await engine.submit(dedupe_key="nightly", request_id=request_id)
    await ended(worker)
    second = await engine.submit(dedupe_key="nightly", request_id=request_id)
    await ended(worker)
    assert (await engine.submit(dedupe_key="nightly", request_id=request_id)).key == second.key


async def test_a_submit_whose_process_died_is_carried_out_by_whoever_finds_it() -> None:
    """Its key was taken and its task not stored: the next submit with the key stores it, and so does its own."""
    for own in (True, False):
        store = DistantStore()
        engine, request_id = Engine(store), str(uuid4())
        store.cut = "insert_tasks"
        with pytest.raises(errors.Unavailable):
            await engine.submit(dedupe_key="nightly", request_id=request_id, payload=b"first")
        assert not store._tasks
        store.cut = ""
        if own:
            await engine.submit(dedupe_key="nightly", request_id=request_id, payload=b"first")
        else:
            with pytest.raises(errors.DedupeKeyTaken):
                await engine.submit(dedupe_key="nightly", payload=b"second")
        worker = engine.worker()
        await engine.app.sweep.run_once()
        task = await worker.next()
        assert task.payload == b"first"
        await worker.complete(task)
        again = await engine.submit(dedupe_key="nightly", request_id=request_id, payload=b"first")
        assert again.key == task.key
        assert len(store._tasks) == 1


async def test_a_submit_that_is_refused_for_its_number_leaves_no_key() -> None:
    """Nobody carries it out later."""
    engine = Engine(DistantStore())
    with mock.patch.object(engine.app.pending, "limit", return_value=0), pytest.raises(errors.TooManyPending):
        await engine.submit(dedupe_key="nightly")
    await engine.submit(dedupe_key="nightly")
    assert len(engine.store._tasks) == 1


async def test_racing_requests_with_one_key_each_make_one_task_at_most(seed: int) -> None:
    """Each asks again until it has its task, over two processes; tasks end meanwhile. None runs twice, none at once."""
    store = distant(seed)
    engines = [Engine(store).start(), Engine(store).start()]
    chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
    ran = Counter[Key]()

    async def work(worker: Worker) -> None:
        while True:
            task = await worker.inbox.get()
            ran[task.key] += 1
            assert sum(not one.status.terminal for one in store._tasks.values()) == 1
            await asyncio.sleep(chance.random())
            await worker.complete(task)

    async def request(number: int) -> tuple[str, set[Key]]:
        got = set[Key]()
        request_id = str(uuid.UUID(int=number))
        for _ in range(4):
            with contextlib.suppress(errors.DedupeKeyTaken, errors.Aborted):
                engine = chance.choice(engines)
                got.add((await engine.submit(dedupe_key="nightly", request_id=request_id)).key)
            await asyncio.sleep(2 * chance.random())
        return request_id, got

    working = [asyncio.create_task(work(engine.worker())) for engine in engines]
    answers = await asyncio.gather(*(request(number % 6) for number in range(12)))
    by_request: dict[str, set[Key]] = {}
    for request_id, got in answers:
        by_request.setdefault(request_id, set()).update(got)
    assert all(len(got) <= 1 for got in by_request.values())
    await engines[0].see_out(store._tasks.values())
    assert ran == Counter(store._tasks.keys())
    for one in working:
        assert not one.done() or one.result()


async def test_no_two_tasks_with_a_dedupe_key_have_one_id() -> None:
    """Also when retention has taken the one before."""
    store = MemoryStore()
    engine = Engine(store).start()
    worker = engine.worker()
    seen = set()
    for _ in range(3):
        seen.add((await engine.submit(dedupe_key="nightly", terms=Terms(retention=timedelta(0)))).id)
        await ended(worker)
        await asyncio.sleep(200)
        assert not store._tasks
    assert len(seen) == 3


async def test_a_task_whose_key_was_not_let_go_stays_until_it_is() -> None:
    """A process died between marking it and freeing its key: it is deleted a round after that was made good."""
    store = MemoryStore()
    engine = Engine(store)
    worker = engine.worker()
    await engine.submit(dedupe_key="nightly", terms=Terms(retention=timedelta(0)))
    await ended(worker)
    (task,) = store._tasks.values()
    superseded = transitions.supersede(task, virtual.clock())
    assert await store.update_tasks([Change(task, superseded)]) == [True]
    await asyncio.sleep(61)
    assert await engine.app.retention.run_once() == 1
    assert not store._holders
    assert store._tasks
    assert await engine.app.retention.run_once() == 1
    assert not store._tasks
