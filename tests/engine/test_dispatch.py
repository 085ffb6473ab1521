"""Dispatch: who gets which task, never more than asked for, never twice, and nothing forgotten."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from support.engine import DistantStore, Engine, operator, ref, tenant

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import HIGH, LOW, NORMAL, Change, Failure, Status, View, seen
from openmcp_chain.engine import demands, room
from openmcp_chain.engine.demands import KEPT_SECONDS
from openmcp_chain.store.memory import MemoryStore


async def test_waiting_worker_gets_a_task_in_the_write_that_stores_it() -> None:
    """A task submitted while a worker waits is inserted already leased: one write, two events."""
    engine = Engine(DistantStore())
    worker = engine.worker()
    submitted = await engine.submit()
    task = await worker.next()
    assert task.key == submitted.key
    stored = engine.task(task.key)
    assert (task.status, task.attempt, len(stored.events)) == (Status.RUNNING, 1, 2)
    assert task == seen(stored, View.FULL)
    assert isinstance(engine.store, DistantStore)
    assert (engine.store.calls["insert_tasks"], engine.store.calls["update_tasks"]) == (1, 0)


async def test_worker_that_comes_later_gets_what_waits() -> None:
    """Tasks that no worker waited for are given to the first that comes, the oldest first."""
    engine = Engine().start()
    engine.worker("other")
    keys = [(await engine.submit()).key for _ in range(3)]
    worker = engine.worker(room=3)
    assert {(await worker.next()).key for _ in range(3)} == set(keys)


async def test_never_more_than_there_is_room_for() -> None:
    """A worker holds at most `room` tasks: the next comes when one has ended, in success or failure, or was lost."""
    engine = Engine()
    worker = engine.worker(room=2)
    for _ in range(10):
        await engine.submit()
    await engine.app.dispatcher.settle()
    first, second = await worker.next(), await worker.next()
    assert worker.inbox.empty()
    await worker.complete(first)
    third = await worker.next()
    await engine.app.dispatcher.settle()
    assert worker.inbox.empty()
    await worker.fail(second, retryable=False)
    await worker.next()
    del engine.store._tasks[third.key]
    with pytest.raises(errors.LeaseLost):
        await worker.complete(third)
    await worker.next()
    await engine.app.dispatcher.settle()
    assert worker.inbox.empty()


async def test_repeated_report_makes_room_once() -> None:
    """A report that is repeated is answered again, but frees one place only."""
    engine = Engine()
    worker = engine.worker(room=1)
    for _ in range(4):
        await engine.submit()
    task = await worker.next()
    await asyncio.gather(worker.complete(task), worker.complete(task))
    await worker.complete(task)
    await worker.next()
    await engine.app.dispatcher.settle()
    assert worker.inbox.empty()
    assert len(engine.task(task.key).events) == 3


async def test_idle_workers_take_turns() -> None:
    """Tasks go round the idle workers rather than to the first alone."""
    engine = Engine()
    workers = [engine.worker(room=10) for _ in range(3)]
    for _ in range(6):
        await engine.submit()
    assert [worker.inbox.qsize() for worker in workers] == [2, 2, 2]


async def test_tenants_single_task_is_not_held_up_by_anothers_flood() -> None:
    """With one worker, the task of a second tenant is at most the second to be given out."""
    engine = Engine()
    worker = engine.worker(room=1)
    for _ in range(50):
        await engine.submit(tenant("flood"))
    single = await engine.submit(tenant("b"))
    order = []
    for _ in range(3):
        task = await worker.next()
        order.append(task.key)
        await worker.complete(task)
    assert single.key in order


async def test_tenants_single_task_is_not_held_up_by_anothers_flood_of_many_types() -> None:
    """Of as many types as the worker takes: that tenant has one turn, not one for each type."""
    types = [f"type-{number}" for number in range(10)]
    engine = Engine()
    worker = engine.worker(*types, room=1)
    for number in range(100):
        await engine.submit(tenant("flood"), types[number % 10])
    for task_type in types:
        single = await engine.submit(tenant("b"), task_type)
        order = []
        for _ in range(3):
            task = await worker.next()
            order.append(task.key)
            await worker.complete(task)
        assert single.key in order


async def test_tenants_worker_gets_its_own_workspaces_tasks_only() -> None:
    """A worker signed in as a workspace never sees another's task."""
    engine = Engine()
    worker = engine.worker(room=10, workspace="a")
    await engine.submit(tenant("b"))
    own = await engine.submit(tenant("a"))
    await engine.app.sweep.run_once()
    await engine.app.dispatcher.settle()
    assert (await worker.next()).key == own.key
    assert worker.inbox.empty()


async def test_types_of_one_worker_take_turns() -> None:
    """A flood of one type does not starve another that the same worker takes."""
    engine = Engine()
    worker = engine.worker("echo", "other", room=1)
    for _ in range(50):
        await engine.submit()
    for _ in range(50):
        await engine.submit(task_type="other")
    seen = Counter[str]()
    for _ in range(10):
        task = await worker.next()
        seen[task.type] += 1
        await worker.complete(task)
    assert min(seen["echo"], seen["other"]) >= 4


async def test_priority_goes_first() -> None:
    """In one workspace a task of priority 1 is given out before those of 3 and 5 that came earlier."""
    engine = Engine()
    worker = engine.worker(room=1)
    blocker = await engine.submit()
    keys = {priority: (await engine.submit(priority=priority)).key for priority in (LOW, NORMAL, HIGH)}
    order = []
    for _ in range(4):
        task = await worker.next()
        order.append(task.key)
        await worker.complete(task)
    assert order == [blocker.key, keys[HIGH], keys[NORMAL], keys[LOW]]


async def test_priority_goes_first_whatever_the_type() -> None:
    """Of the types that a worker takes: in one workspace, the best priority of all of them."""
    engine = Engine()
    worker = engine.worker("echo", "other", room=1)
    blocker = await engine.submit()
    for _ in range(5):
        await engine.submit()
    urgent = [await engine.submit(task_type="other", priority=HIGH) for _ in range(3)]
    for expected in [blocker, *urgent]:
        task = await worker.next()
        assert task.key == expected.key
        await worker.complete(task)


async def test_priority_goes_first_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog that is full of a tenant's later tasks lets go of those, not of the first."""
    monkeypatch.setattr(room, "TASKS", 40)
    engine = Engine()
    worker = engine.worker(room=1)
    blocker = await engine.submit()
    for _ in range(40):
        await engine.submit(priority=LOW)
    urgent = [await engine.submit(priority=HIGH) for _ in range(20)]
    for expected in [blocker, *urgent]:
        task = await worker.next()
        assert task.key == expected.key
        await worker.complete(task)


async def test_lost_claim_costs_the_worker_nothing() -> None:
    """When another process was first, the worker has its place back and gets the next task."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    worker = here.worker(room=1)
    await here.submit()
    contested = await here.submit()
    other = there.worker(room=1)
    await there.app.queues.refresh()
    await there.app.sweep.run_once()
    taken = await other.next()
    assert taken.key == contested.key
    await worker.complete(await worker.next())
    await here.app.dispatcher.settle()
    assert worker.inbox.empty()
    last = await here.submit()
    assert (await worker.next()).key == last.key


async def test_what_waits_in_memory_may_have_changed_and_is_given_out_all_the_same() -> None:
    """A task that was cancelled and retried while it waited is claimed as it is now, not lost with what it was."""
    store = MemoryStore()
    here, there = Engine(store), Engine(store)
    worker = here.worker(room=1)
    blocker = await here.submit()
    waiting = await here.submit()
    await there.app.tasks.cancel(tenant(), waiting.id, "")
    await there.app.tasks.retry(tenant(), waiting.id)
    task = await worker.next()
    assert task.key == blocker.key
    await worker.complete(task)
    again = await worker.next()
    assert (again.key, again.version) == (waiting.key, waiting.version + 3)


async def test_claim_that_fails_unforeseen_costs_the_worker_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a claim raises, the worker's place is free again, the task is found again, and the log has the fault."""

    class Broken(MemoryStore):
        broken = False

        async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
            if self.broken and any(change.before.status is Status.PENDING for change in changes):
                raise ValueError("S3CRET")
            return await super().update_tasks(changes)

    store = Broken()
    engine = Engine(store)
    worker = engine.worker(room=1)
    await engine.submit()
    waiting = await engine.submit()
    store.broken = True
    await worker.complete(await worker.next())
    await engine.app.dispatcher.settle()
    store.broken = False
    assert worker.session.credits == 1
    assert "unforeseen" in [record.message for record in caplog.records]
    await engine.app.sweep.run_once()
    assert (await worker.next()).key == waiting.key


async def test_database_away_for_a_claim_leaves_the_task_to_the_sweep() -> None:
    """A claim that could not be written is made again once the database answers."""
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker(room=1)
    await engine.submit()
    waiting = await engine.submit()
    first = await worker.next()
    await worker.complete(first)
    store.away = True
    await engine.app.dispatcher.settle()
    store.away = False
    await engine.app.sweep.run_once()
    assert (await worker.next()).key == waiting.key


async def test_task_for_later_is_given_out_when_its_time_has_come() -> None:
    """A failed attempt's task is not given out before its backoff is over, and then without a sweep."""
    engine = Engine()
    engine.app.leases._chance = lambda: 0.5
    worker = engine.worker(room=1)
    await engine.submit()
    task = await worker.next()
    await worker.fail(task)
    again = await worker.next()
    assert (again.key, again.attempt) == (task.key, 2)
    pending, running = engine.task(task.key).events[2:]
    assert pending.context["retry_in_ms"] == 250
    assert running.at - pending.at == timedelta(milliseconds=250)


async def test_a_time_that_came_to_nothing_is_not_waited_for() -> None:
    """A task that is cancelled amid a backoff of an hour, tried again, and so on: it leaves no timer behind."""
    engine = Engine()
    worker = engine.worker(room=1)
    task = await engine.submit()

    def timers() -> int:
        scheduled: list[asyncio.TimerHandle] = vars(asyncio.get_running_loop())["_scheduled"]
        return sum(not timer.cancelled() for timer in scheduled)

    before = timers()
    for _ in range(10):
        failed = Failure("BROKEN", "it broke")
        delay = timedelta(seconds=3599)
        leased = await worker.next()
        await engine.app.leases.fail(worker.principal, ref(leased), failed, retryable=True, delay=delay)
        assert timers() == before + 1
        await engine.app.tasks.cancel(tenant(), task.id, "")
        assert timers() == before
        await engine.app.tasks.retry(tenant(), task.id)
    assert (await worker.next()).key == task.key


@pytest.mark.parametrize(
    ("large", "fields"),
    [
        (False, {"payload": b"x" * 4000}),
        (True, {"payload": b"x" * 5000}),
        (True, {"labels": {f"label-{number}": "x" * 128 for number in range(40)}}),
    ],
    ids=["small", "payload", "labels"],
)
async def test_large_tasks_are_not_kept_in_memory(large: bool, fields: dict[str, Any]) -> None:
    """A hint of it waits instead; it is read again when it is claimed."""
    store = DistantStore()
    engine = Engine(store)
    worker = engine.worker()
    blocker = await engine.submit()
    waiting = await engine.submit(**fields)
    (hint,) = engine.app.dispatcher.backlogs["echo"].tasks("ws-1")
    assert (hint.key, hint.task is None) == (waiting.key, large)
    store.calls.clear()
    task = await worker.next()
    assert task.key == blocker.key
    await worker.complete(task)
    assert (await worker.next()).payload == waiting.payload
    assert store.calls["get_tasks"] == large


async def test_leaving_is_final_and_may_be_said_twice() -> None:
    """A worker that left gets nothing new; what waits stays for others."""
    engine = Engine()
    worker = engine.worker(room=5)
    worker.leave()
    worker.leave()
    task = await engine.submit()
    assert worker.inbox.empty()
    assert engine.task(task.key).status is Status.PENDING
    assert not engine.app.dispatcher.demands()
    await asyncio.sleep(KEPT_SECONDS)
    assert not engine.app.dispatcher.backlogs
    assert not engine.app.dispatcher._idle


async def test_workers_that_take_other_types_each_time_leave_little_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a workspace left last is kept, up to a bound; another's stays, until there is too much in all."""
    monkeypatch.setattr(demands, "KEPT_TYPES", 6)
    monkeypatch.setattr(demands, "ALL_KEPT_TYPES", 10)
    engine = Engine()

    def come_and_go(workspace: str, *types: str) -> None:
        engine.worker(*types, workspace=workspace).leave()

    def kept() -> list[str]:
        return sorted(engine.app.dispatcher.backlogs)

    come_and_go("ws-2", "theirs")
    for number in range(100):
        come_and_go("ws-1", f"a{number}", f"b{number}")
    assert kept() == ["a97", "a98", "a99", "b97", "b98", "b99", "theirs"]
    come_and_go("ws-1", "a97", "b97")
    come_and_go("ws-1", "new")
    assert kept() == ["a97", "a99", "b97", "b99", "new", "theirs"]
    come_and_go("ws-3", *(f"c{number}" for number in range(5)))
    assert kept() == ["a97", "a99", "b97", "b99", *(f"c{number}" for number in range(5)), "new"]
    here = engine.worker("a97", "b97", workspace="ws-1")
    await asyncio.sleep(KEPT_SECONDS)
    assert kept() == ["a97", "b97"]
    here.leave()
    await asyncio.sleep(KEPT_SECONDS)
    assert not kept()


async def test_worker_that_left_while_a_task_was_claimed_for_it_still_gets_it() -> None:
    """What is done with it is the session's affair: a stream that is closed gives it back."""
    engine = Engine()
    worker = engine.worker(room=1)
    await engine.submit()
    waiting = await engine.submit()
    await worker.complete(await worker.next())
    worker.leave()
    await worker.session.settle()
    assert (await worker.next()).key == waiting.key


def test_helpers_agree_on_who_is_an_operator() -> None:
    """The principals that these tests use are what sign-in makes: an operator owns no tasks."""
    assert operator("echo").worker_types == {"echo"}
    assert not tenant().worker_types


async def test_a_claim_that_could_not_be_written_is_told_of_under_its_tasks_workspace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not that of the worker, or the call, that made room for it."""
    store = DistantStore()
    engine = Engine(store).start("queues", "sweep")
    task = await engine.submit(tenant("ws-2"))
    store.cut, store.delay = "update_tasks", 0.1
    engine.worker()
    await asyncio.sleep(1)
    told = next(vars(record) for record in caplog.records if record.getMessage() == "claim not written")
    assert (told["workspace"], told["task_id"]) == ("ws-2", task.id)
