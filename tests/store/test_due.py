"""What is due, in every store: tasks that wait for a worker, and leases that ran out."""

from collections.abc import Iterable

from support.samples import NOW, RETENTION, SECOND, make_lease, make_task

from openmcp_chain.domain import transitions
from openmcp_chain.domain.task import Change, Failure, Task
from openmcp_chain.store.base import Store

MILLISECOND = SECOND / 1000


def ids(tasks: Iterable[Task]) -> set[str]:
    return {task.id for task in tasks}


async def in_every_status(store: Store) -> dict[str, Task]:
    """One task in each status, all of one type, the retried one due a while after NOW."""
    new = {name: make_task(task_id=name) for name in ("pending", "retried", "running", "succeeded", "failed")}
    await store.insert_tasks(list(new.values()))
    running = {name: transitions.claim(task, make_lease(name), NOW) for name, task in new.items() if name != "pending"}
    await store.update_tasks([Change(new[name], after) for name, after in running.items()])
    failure = Failure("E", "m")
    later = {
        "retried": transitions.fail(
            running["retried"], "retried", failure, retryable=True, now=NOW, retention=RETENTION, jitter=0.5
        ),
        "succeeded": transitions.complete(running["succeeded"], "succeeded", b"", NOW, RETENTION),
        "failed": transitions.fail(
            running["failed"], "failed", failure, retryable=False, now=NOW, retention=RETENTION, jitter=0.5
        ),
    }
    await store.update_tasks([Change(running[name], after) for name, after in later.items()])
    return new | running | later


async def test_ready_are_the_pending_tasks_whose_time_has_come(store: Store) -> None:
    """From `due_at` on, that moment included; nothing that runs or has ended."""
    tasks = await in_every_status(store)
    retry_at = tasks["retried"].due_at
    assert retry_at
    assert ids(await store.ready_tasks(["data_pipeline"], None, NOW - MILLISECOND, 10)) == set()
    assert await store.ready_tasks(["data_pipeline"], None, NOW, 10) == [tasks["pending"]]
    assert ids(await store.ready_tasks(["data_pipeline"], None, retry_at - MILLISECOND, 10)) == {"pending"}
    assert ids(await store.ready_tasks(["data_pipeline"], None, retry_at, 10)) == {"pending", "retried"}


async def test_ready_tasks_are_of_the_types_asked_for(store: Store) -> None:
    """A type that is asked for twice counts once; a type's name is no pattern."""
    tasks = [make_task(task_id=name, task_type=name) for name in ("a", "b", "ab")]
    await store.insert_tasks(tasks)
    assert ids(await store.ready_tasks(["a", "b", "a"], None, NOW, 10)) == {"a", "b"}
    assert ids(await store.ready_tasks(["z", ".*"], None, NOW, 10)) == set()
    assert ids(await store.ready_tasks([], None, NOW, 10)) == set()


async def test_ready_tasks_are_of_the_workspace_asked_for(store: Store) -> None:
    """None asks for all of them."""
    await store.insert_tasks([make_task(task_id=name, workspace=name) for name in ("ws-1", "ws-2")])
    assert ids(await store.ready_tasks(["data_pipeline"], "ws-1", NOW, 10)) == {"ws-1"}
    assert ids(await store.ready_tasks(["data_pipeline"], "ws-3", NOW, 10)) == set()
    assert ids(await store.ready_tasks(["data_pipeline"], None, NOW, 10)) == {"ws-1", "ws-2"}


async def test_expired_are_the_running_tasks_whose_lease_has_ended(store: Store) -> None:
    """After `due_at`, that moment not included; an extended lease ends later."""
    tasks = await in_every_status(store)
    end = tasks["running"].due_at
    assert end
    assert ids(await store.expired_tasks(end, 10)) == set()
    assert await store.expired_tasks(end + MILLISECOND, 10) == [tasks["running"]]
    extended = transitions.extend(tasks["running"], "running", end + SECOND)
    await store.update_tasks([Change(tasks["running"], extended)])
    assert ids(await store.expired_tasks(end + SECOND, 10)) == set()
    assert ids(await store.expired_tasks(end + 2 * SECOND, 10)) == {"running"}


async def test_no_more_than_the_limit(store: Store) -> None:
    """The limit is for all types together, and none is none."""
    tasks = [make_task(task_type=f"type-{n % 3}") for n in range(30)]
    await store.insert_tasks(tasks)
    types = ["type-0", "type-1", "type-2"]
    assert len(ids(await store.ready_tasks(types, None, NOW, 25))) == 25
    assert await store.ready_tasks(types, None, NOW, 0) == []
    await store.update_tasks([Change(task, transitions.claim(task, make_lease(), NOW)) for task in tasks])
    assert len(ids(await store.expired_tasks(NOW + 60 * SECOND, 25))) == 25
    assert await store.expired_tasks(NOW + 60 * SECOND, 0) == []
