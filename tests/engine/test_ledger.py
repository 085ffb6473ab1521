"""The ledger: decisions made again on what came first, in batches, and told to those who follow."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from support.engine import DistantStore, Engine, ref, tenant
from support.samples import NOW, SECOND, make_task

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.task import Change, Key, Task, View, seen
from openmcp_chain.engine.groupcommit import BATCH_BYTES
from openmcp_chain.engine.ledger import DECISIONS, INSERTS
from openmcp_chain.store.memory import MemoryStore


def longer(task: Task, seconds: int = 1) -> Task:
    """The same, with its lease so much longer."""
    assert task.lease
    return transitions.extend(task, task.lease.token, task.lease.expires_at + seconds * SECOND)


async def running(engine: Engine) -> Task:
    worker = engine.worker()
    await engine.submit()
    return engine.task((await worker.next()).key)


async def test_change_decides_again_on_what_came_first() -> None:
    """A change that lost to another is decided anew on the newest state, not forced on top of it."""
    engine = Engine()
    stale = await running(engine)
    newest = await engine.app.ledger.change(stale, longer)
    seen: list[int] = []

    def decide(task: Task) -> Task:
        seen.append(task.version)
        return longer(task, 2)

    changed = await engine.app.ledger.change(stale, decide)
    assert seen == [stale.version, newest.version]
    assert changed.version == newest.version + 1


async def test_of_two_equal_inserts_followers_hear_once() -> None:
    """As of one request sent twice: to the store the second is the first one, tried again. Even if that failed."""
    store = DistantStore()
    ledger = Engine(store).app.ledger
    heard: list[Task] = []
    ledger.follow(lambda _, after: heard.append(after))
    task = make_task(payload=b"1")
    store.late["insert_tasks"] = asyncio.Event()
    calls = [asyncio.create_task(ledger.insert(task))]
    await asyncio.sleep(1)
    others = [make_task() for _ in range(INSERTS)]
    calls += [asyncio.create_task(ledger.insert(one)) for one in (replace(task), *others)]
    await asyncio.sleep(1)
    store.late.pop("insert_tasks").set()
    await asyncio.gather(*calls)
    assert heard.count(task) == 1
    assert len(heard) == 1 + len(others)

    lost = make_task(payload=b"2")
    store.late["insert_tasks"] = asyncio.Event()
    first = asyncio.create_task(ledger.insert(lost))
    await asyncio.sleep(1)
    store.cut = "insert_tasks"
    store.late.pop("insert_tasks").set()
    with pytest.raises(errors.Unavailable):
        await first
    assert lost not in heard
    store.cut = ""
    assert await ledger.insert(again := replace(lost)) is again
    assert heard.count(lost) == 1


async def test_a_task_under_an_id_that_is_free_again_is_told_of() -> None:
    """Its version is another: that of the time at which it was submitted."""
    store = DistantStore()
    ledger = Engine(store).app.ledger
    heard: list[Task] = []
    ledger.follow(lambda _, after: heard.append(after))
    first = make_task()
    await ledger.insert(first)
    del store._tasks[first.key]
    second = replace(first, version=first.version + 1)
    await ledger.insert(second)
    assert heard == [first, second]


async def test_an_insert_has_only_so_much_metadata() -> None:
    """However many tasks come at once: all that a batch has goes to the database before anybody is answered."""
    many: list[int] = []

    class Counting(MemoryStore):
        async def insert_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
            many.append(len(tasks))
            return await super().insert_tasks(tasks)

    store = Counting()
    ledger = Engine(store).app.ledger
    tasks = [make_task(metadata={"k": "x" * (BATCH_BYTES // 20)}) for _ in range(100)]
    assert await asyncio.gather(*map(ledger.insert, tasks)) == tasks
    assert max(many) <= 21
    assert len(store._tasks) == 100


async def test_changes_of_tasks_with_many_events_are_few_in_a_batch() -> None:
    """To write another event, a database may write the whole task anew: a hundred large ones took longer than a try."""
    many: list[int] = []

    class Counting(MemoryStore):
        async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
            many.append(len(changes))
            return await super().update_tasks(changes)

    engine = Engine(Counting())
    held = await running(engine)
    for _ in range(100):
        held = transitions.note(held, ref(held).token, NOW, line="x" * (BATCH_BYTES // 1000))
    tasks = [replace(held, id=str(number)) for number in range(50)]
    await engine.store.insert_tasks(tasks)
    many.clear()
    changed = await asyncio.gather(*(engine.app.ledger.change(task, longer) for task in tasks))
    assert changed == [longer(task) for task in tasks]
    assert 5 <= max(many) <= 11


async def test_refusal_counts_only_of_the_task_as_it_is_now() -> None:
    """What is refused of a task as it was may be right of it as it is; if it isn't, that is the answer."""
    engine = Engine()
    stale = await running(engine)
    moment = engine.app.leases.moment()
    with pytest.raises(errors.CancelNotRequested):
        await engine.app.ledger.change(stale, lambda task: transitions.stop(task, ref(stale).token, moment))
    await engine.app.tasks.cancel(tenant(), stale.id, "enough")
    await engine.app.ledger.change(stale, lambda task: transitions.stop(task, ref(stale).token, moment))
    assert engine.task(stale.key).cancel == "enough"
    assert engine.task(stale.key).status.terminal


@pytest.mark.parametrize("view", [View.OUTLINE, View.BASIC, View.RESULT, View.FULL])
async def test_nothing_is_decided_on_a_part_of_a_history(view: View) -> None:
    """A task that was read without its events is read again with them; and a change of such a one can't be made."""
    engine = Engine()
    task = await running(engine)
    part = await engine.app.ledger.get(task.key, view)
    assert part == seen(task, view)
    changed = await engine.app.ledger.change(part, longer)
    assert engine.task(task.key) == changed == longer(task)
    for after in (part, changed):
        with pytest.raises(ValueError, match="events"):
            await engine.app.ledger.try_change(part, after)


async def test_change_gives_up_after_some_decisions() -> None:
    """Where others always come first, the answer is Aborted rather than a call without end."""

    class Contested(MemoryStore):
        async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
            return [False for _ in changes]

    engine = Engine(Contested())
    task = await engine.submit()
    decided = []

    def decide(task: Task) -> Task:
        decided.append(task)
        return replace(task, version=task.version + 1)

    with pytest.raises(errors.Aborted):
        await engine.app.ledger.change(task, decide)
    assert len(decided) == DECISIONS


async def test_change_of_a_task_that_is_gone_is_lease_lost() -> None:
    """A task that retention took away in between is nobody's any more."""
    engine = Engine()
    task = await running(engine)
    del engine.store._tasks[task.key]
    with pytest.raises(errors.LeaseLost):
        await engine.app.ledger.change(task, longer)


async def test_two_changes_to_one_task_in_a_batch_both_count() -> None:
    """Of several in one group commit, all are carried out, one after the other, and the task is not read in between."""
    store = DistantStore()
    engine = Engine(store)
    task = await running(engine)
    await asyncio.gather(*(engine.app.ledger.change(task, partial(longer, seconds=n + 1)) for n in range(5)))
    assert engine.task(task.key).version == task.version + 5
    assert store.calls["get_tasks"] == 0


async def test_however_many_changes_to_one_task_come_at_once_none_is_refused() -> None:
    """They are carried out in the order in which they came, though each write has room for one, and leave nothing."""
    store = DistantStore()
    engine = Engine(store)
    task = await running(engine)
    order: list[int] = []

    async def change(number: int) -> None:
        await engine.app.ledger.change(task, partial(longer, seconds=number + 1))
        order.append(number)

    await asyncio.gather(*map(change, range(3 * DECISIONS)))
    assert order == list(range(3 * DECISIONS))
    assert engine.task(task.key).version == task.version + 3 * DECISIONS
    assert store.calls["get_tasks"] == 0
    assert not engine.app.ledger._turns


async def test_followers_hear_of_every_change_in_order_whoever_gave_up_waiting() -> None:
    """Once it is durable, with what the task was; a caller who is cancelled, or a follower that fails, hides none."""
    engine = Engine()
    heard: list[tuple[Key, int, int]] = []

    def stumble(_: Task | None, __: Task) -> None:
        raise ValueError("S3CRET")

    def hear(before: Task | None, task: Task) -> None:
        assert engine.task(task.key) == task
        heard.append((task.key, before.version if before else 0, task.version))

    engine.app.ledger.follow(stumble)
    engine.app.ledger.follow(hear)
    task = await engine.submit()
    call = asyncio.create_task(engine.app.tasks.cancel(tenant(), task.id, ""))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await engine.app.ledger.settle()
    assert heard == [(task.key, 0, task.version), (task.key, task.version, task.version + 1)]
