"""Taking a workspace out, in every store: its tasks bit by bit, then all that is beside them, then itself."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from support.samples import NOW, RETENTION, SECOND, WORKSPACE, at, make_lease, make_task

from openmcp_chain.domain import filters, queue, transitions
from openmcp_chain.domain.task import Call, Change, DedupeKey, Key, Queue, Task, Terms
from openmcp_chain.domain.workspace import State
from openmcp_chain.store.base import Answer, Granted, Signal, Store, Taking
from openmcp_chain.store.mongo.store import MongoStore

Connect = Callable[[], Awaitable[Store]]

MINE, OTHERS = "ws-1", ("ws-10", "ws", "ws-1-", "w")
"""A workspace, and those whose ids are near its own."""
TERMS = Terms(schedule_to_start=10 * SECOND)


async def in_every_status(store: Store, workspace: str) -> list[Task]:
    """A waiting task with a deadline, one that runs, one that has ended."""
    tasks = [make_task(workspace=workspace, terms=TERMS), *(make_task(workspace=workspace) for _ in range(2))]
    await store.insert_tasks(tasks)
    running = [transitions.claim(task, make_lease("token"), NOW) for task in tasks[1:]]
    await store.update_tasks([Change(task, after) for task, after in zip(tasks[1:], running, strict=True)])
    ended = transitions.complete(running[1], "token", b"", at(NOW))
    await store.update_tasks([Change(running[1], ended)])
    return [tasks[0], running[0], ended]


async def test_erased_are_a_workspaces_tasks_in_every_status(store: Store) -> None:
    """And nobody else's: neither reads nor whatever looks for due tasks finds one of them again."""
    mine = await in_every_status(store, MINE)
    theirs = [task for name in OTHERS for task in await in_every_status(store, name)]
    assert await store.erase_tasks(MINE, 10) == 3
    assert await store.erase_tasks(MINE, 10) == 0
    assert await store.get_tasks([task.key for task in mine]) == {}
    assert await store.get_tasks([task.key for task in theirs]) == {task.key: task for task in theirs}
    assert (await store.list_tasks(MINE, filters.EVERYTHING, None, 10)).tasks == []
    late = NOW + 100 * SECOND
    assert {key.workspace for key in await store.expired_leases(late, 100)} == set(OTHERS)
    assert await store.delete_ended(late + RETENTION, 100) == len(OTHERS)


@pytest.mark.parametrize("apart", [0, 1, 1000], ids=["at once", "in a row", "far apart"])
async def test_no_more_than_the_limit_are_erased(store: Store, apart: int) -> None:
    """However they lie in time; fewer than the limit means that none is left."""
    tasks = [make_task(workspace=MINE, now=NOW + n * apart * SECOND / 1000) for n in range(25)]
    await store.insert_tasks([*tasks, make_task(workspace="ws-2")])
    for left in (15, 5):
        assert await store.erase_tasks(MINE, 10) == 10
        assert len(await store.get_tasks([task.key for task in tasks])) == left
    assert await store.erase_tasks(MINE, 0) == 0
    assert await store.erase_tasks(MINE, 10) == 5
    assert await store.count_tasks("ws-2", filters.EVERYTHING)


async def test_a_change_of_an_erased_task_is_lost(store: Store) -> None:
    """Its worker's report comes too late, and brings nothing back."""
    _, running, _ = await in_every_status(store, MINE)
    await store.erase_tasks(MINE, 10)
    after = transitions.complete(running, "token", b"", at(NOW))
    assert await store.update_tasks([Change(running, after)]) == [False]
    assert await store.get_tasks([running.key]) == {}


async def beside(store: Store, name: str) -> tuple[object, ...]:
    """What there is beside a workspace's tasks."""
    queues = [state for state in await store.list_queues(None) if state.queue.workspace == name]
    holders = await store.key_holders([DedupeKey(name, "key")])
    answers = await store.recorded_calls([Call(name, "request")])
    return len(queues), list(holders.values()), [len(answer.granted) for answer in answers.values()]


async def test_a_deleted_workspace_takes_along_what_is_beside_its_tasks(store: Store) -> None:
    """Queues, dedupe_keys and recorded calls; those of workspaces with ids near its own stay."""
    for name in (MINE, *OTHERS):
        await store.put_workspace(replace(WORKSPACE, id=name, state=State.DELETING))
        for task_type in ("one", "two"):
            await store.put_queue(queue.new(Queue(name, task_type), NOW))
        await store.put_holders([Taking(make_task(workspace=name, task_id="id", dedupe_key="key"), "")])
        await store.record_call(name, "request", Answer(b"", (Granted(Key(name, "id"), ""),)), NOW + RETENTION)
    assert await store.delete_workspace(replace(WORKSPACE, id=MINE, state=State.DELETING))
    assert await store.get_workspace(MINE) is None
    assert await beside(store, MINE) == (0, [], [])
    for name in OTHERS:
        assert await store.get_workspace(name)
        assert await beside(store, name) == (2, ["id"], [1])


async def test_only_the_version_that_was_seen_is_deleted(connected: Connect) -> None:
    """One that was changed, or made anew, stays with all it has; one that is gone counts as deleted."""
    store, other = await connected(), await connected()
    await store.put_workspace(WORKSPACE)
    await store.put_queue(queue.new(Queue(WORKSPACE.id, "echo"), NOW))
    changed = replace(WORKSPACE, version=2, plan="free")
    await other.put_workspace(changed)
    assert not await store.delete_workspace(WORKSPACE)
    assert await store.get_workspace(WORKSPACE.id) == changed
    assert await beside(store, WORKSPACE.id) == (1, [], [])
    assert await store.delete_workspace(changed)
    assert await other.delete_workspace(changed)
    assert await beside(store, WORKSPACE.id) == (0, [], [])
    assert await other.put_workspace(WORKSPACE)


async def test_no_timer_is_left(mongo: MongoStore) -> None:
    """They are a collection of their own, which nobody else sees: also those of tasks that never came."""
    tasks = await in_every_status(mongo, MINE)
    await mongo._timers.set([replace(tasks[0], id="never-came")])
    await mongo.put_workspace(replace(WORKSPACE, id=MINE))
    await mongo.erase_tasks(MINE, 10)
    await mongo.delete_workspace(replace(WORKSPACE, id=MINE))
    assert await mongo._database.timers.find().to_list(None) == []


async def test_nothing_that_was_told_of_it_is_left(mongo: MongoStore) -> None:
    """What processes told each other of its tasks; of others' what tells of them alone."""
    mine, theirs = Key(MINE, "id"), Key(OTHERS[0], "id")
    await mongo.put_workspace(replace(WORKSPACE, id=MINE))
    for told in ([mine], [theirs], [theirs, mine], []):
        await mongo.publish(Signal("one", told, []))
    await mongo.delete_workspace(replace(WORKSPACE, id=MINE))
    left = await mongo._database.signals.find().to_list(None)
    assert [[key["workspace"] for key in signal["changed"]] for signal in left] == [[OTHERS[0]], []]
