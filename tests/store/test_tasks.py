"""Tasks, in every store: what is written, by whom, and what is read."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from itertools import pairwise

from support.samples import NOW, PROGRESS, SECOND, TERMS, at, make_lease, make_task

from openmcp_chain.domain import transitions
from openmcp_chain.domain.sizes import AROUND
from openmcp_chain.domain.task import HIGH, Change, Failure, Key, Position, Status, Stretch, Task, View, seen
from openmcp_chain.store.base import LARGE_BYTES, Large, Store
from openmcp_chain.store.mongo.tasks import OUTLINES

Connect = Callable[[], Awaitable[Store]]


def claimed(task: Task, token: str = "") -> Task:
    return transitions.claim(task, make_lease(token), NOW)


async def read(store: Store, task: Task) -> Task:
    return (await store.get_tasks([task.key]))[task.key]


async def test_a_new_task_is_added_and_the_very_task_given_comes_back(store: Store) -> None:
    """The caller tells by identity that its task was added; what is read is equal to it in every field."""
    task = make_task(
        payload=b"\0\xff" * 50_000,
        metadata={"a.b": "1", "$where": "2", "": "3", "zero\0byte": "\0", "é\u2028😀": "x" * 1000},
        labels={"a.b": "$1", "$where": ""},
        priority=HIGH,
        terms=TERMS,
        dedupe_key="$a.b/c\0é",
        fingerprint=bytes(range(32)),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    (added,) = await store.insert_tasks([task])
    assert added is task
    assert await read(store, task) == task


async def test_payload_and_result_of_a_mebibyte_come_back_byte_for_byte(store: Store) -> None:
    """The largest payload and result that are allowed fit, at the end of a life of many attempts."""
    task = make_task(payload=bytes(range(256)) * 4096)
    await store.insert_tasks([task])
    running = claimed(task, "token")
    done = transitions.complete(running, "token", bytes(range(255, -1, -1)) * 4096, at(NOW + SECOND))
    assert await store.update_tasks([Change(task, running)]) == [True]
    assert await store.update_tasks([Change(running, done)]) == [True]
    assert await read(store, task) == done


async def test_a_change_needs_no_payload_and_leaves_it_as_it_is(store: Store) -> None:
    """Decided on a task that was read without it, a first time and again."""
    task = make_task(payload=b"payload")
    await store.insert_tasks([task])
    before = (await store.get_tasks([task.key], View.HISTORY))[task.key]
    after = transitions.complete(claimed(before, "token"), "token", b"result", at(NOW + SECOND))
    assert after.payload == b""
    for _ in range(2):
        assert await store.update_tasks([Change(before, after)]) == [True]
        assert await read(store, task) == replace(after, payload=b"payload")


async def test_what_is_empty_comes_back_empty(store: Store) -> None:
    """An empty result is not no result, an empty reason for a cancellation not no cancellation."""
    task = make_task(payload=b"", metadata={}, labels={})
    running = claimed(task, "token")
    cancelled = transitions.cancel(running, "", at(NOW))
    done = transitions.complete(cancelled, "token", b"", at(NOW))
    await store.insert_tasks([task])
    for before, after in pairwise([task, running, cancelled, done]):
        assert await store.update_tasks([Change(before, after)]) == [True]
        assert await read(store, task) == after
    assert (done.result, done.cancel) == (b"", "")


async def test_a_task_whose_key_is_taken_leaves_the_stored_one_as_it_is(store: Store) -> None:
    """The second of two inserts loses, and is told what is there, in whatever state that is by now: its outline.

    No more of it is read, however much there is: many that lose at once would read as many results.
    """
    first = make_task(payload=b"first", metadata={"a": "b"}, labels={"c": "d"}, fingerprint=b"first")
    await store.insert_tasks([first])
    running = claimed(first, "token")
    done = transitions.complete(running, "token", b"result", at(NOW))
    for before, after in pairwise([first, running, done]):
        await store.update_tasks([Change(before, after)])
        (there,) = await store.insert_tasks([replace(first, payload=b"second", fingerprint=b"second")])
        assert there == replace(after, payload=b"", result=None, metadata={}, labels={}, events=())
    assert await read(store, first) == done


async def test_all_that_lose_are_told_what_is_there(store: Store) -> None:
    """Also where they are more than are looked up at a time."""
    tasks = [make_task() for _ in range(OUTLINES + 1)]
    await store.insert_tasks(tasks)
    there = await store.insert_tasks([replace(task, fingerprint=b"second") for task in tasks])
    assert there == [seen(task, View.OUTLINE) for task in tasks]


async def test_one_that_loses_does_not_stop_the_others(store: Store) -> None:
    """A batch is many inserts, not one."""
    old = make_task()
    await store.insert_tasks([old])
    batch = [make_task(), replace(old, payload=b"other", fingerprint=b"other"), make_task()]
    stored = await store.insert_tasks(batch)
    assert stored[0] is batch[0]
    assert stored[1] == seen(old, View.OUTLINE)
    assert stored[2] is batch[2]
    assert await store.get_tasks([task.key for task in batch]) == {
        batch[0].key: batch[0],
        old.key: old,
        batch[2].key: batch[2],
    }


async def test_of_two_with_the_same_key_in_a_batch_the_first_wins(store: Store) -> None:
    """Whatever order the database takes the batch in."""
    first = make_task(payload=b"first")
    second = replace(first, payload=b"second")
    stored = await store.insert_tasks([first, second, first])
    assert all(task is first for task in stored)
    assert await read(store, first) == first


async def test_the_same_insert_again_counts_as_added(store: Store) -> None:
    """So a caller that did not hear of the first try may simply repeat it."""
    task = make_task()
    await store.insert_tasks([task])
    again = replace(task)
    (added,) = await store.insert_tasks([again])
    assert added is again


async def test_racing_inserts_of_one_key_have_one_winner(connected: Connect) -> None:
    """Everyone is told of the same task, and only its submitter that it is its own."""
    stores = [await connected(), await connected()]
    task_id = str(uuid.uuid4())
    tasks = [make_task(task_id=task_id, fingerprint=str(n).encode()) for n in range(20)]
    answers = await asyncio.gather(*(stores[n % 2].insert_tasks([task]) for n, task in enumerate(tasks)))
    winners = [task for task, (answer,) in zip(tasks, answers, strict=True) if answer is task]
    assert len(winners) == 1
    assert all(answer is winners[0] or answer == seen(winners[0], View.OUTLINE) for (answer,) in answers)


async def test_a_task_of_another_workspace_does_not_exist(store: Store) -> None:
    """Two workspaces may even have tasks with the same id: neither sees, changes nor replaces the other's."""
    ours = make_task(workspace="ws-1", payload=b"ours")
    theirs = make_task(workspace="ws-2", task_id=ours.id, payload=b"theirs")
    await store.insert_tasks([ours])
    assert await store.get_tasks([theirs.key]) == {}
    assert await store.update_tasks([Change(theirs, claimed(theirs))]) == [False]
    (added,) = await store.insert_tasks([theirs])
    assert added is theirs
    assert await store.update_tasks([Change(theirs, claimed(theirs))]) == [True]
    assert await read(store, ours) == ours


async def test_no_id_reaches_into_another_workspace(store: Store) -> None:
    """An id is any text that a client sends; none of it is taken for a part of the key's structure."""
    task = make_task(workspace="ws-1")
    await store.insert_tasks([task])
    keys = [Key("ws", f"-1/{task.id}"), Key("", f"ws-1/{task.id}"), Key("ws-1", ""), Key("ws-1", f"{task.id}\0")]
    assert await store.get_tasks(keys) == {}


async def test_a_change_writes_state_and_event_together(store: Store) -> None:
    """Through a whole life, what is read after each step is exactly what was decided."""
    task = make_task(terms=TERMS, now=NOW)
    await store.insert_tasks([task])
    steps: list[Callable[[Task], Task]] = [
        lambda t: transitions.claim(t, make_lease("one"), NOW),
        lambda t: transitions.extend(t, "one", NOW + 60 * SECOND),
        lambda t: transitions.note(t, "one", NOW, progress=PROGRESS),
        lambda t: transitions.note(t, "one", NOW, line="a line"),
        lambda t: transitions.fail(t, "one", Failure("E", "m"), at(NOW + SECOND, jitter=0.5), retryable=True),
        lambda t: transitions.claim(t, make_lease("two"), NOW + 2 * SECOND),
        lambda t: transitions.release(t, "two", Failure("WORKER_GONE", "m"), at(NOW + 2 * SECOND)),
        lambda t: transitions.claim(t, make_lease("three"), NOW + 2 * SECOND),
        lambda t: transitions.expire(t, at(NOW + 30 * SECOND, jitter=0.5)),
        lambda t: transitions.retry(t, NOW + 40 * SECOND),
        lambda t: transitions.time_out(t, at(NOW + 100 * SECOND)),
        lambda t: transitions.supersede(t, NOW + 100 * SECOND),
    ]
    for step in steps:
        after = step(task)
        assert after != task
        assert await store.update_tasks([Change(task, after)]) == [True]
        task = await read(store, task)
        assert task == after
    assert task.status is Status.FAILED


async def test_a_change_decided_on_an_old_version_changes_nothing(store: Store) -> None:
    """The guard is the version, even if the status is the same again."""
    task = make_task()
    await store.insert_tasks([task])
    running = claimed(task, "token")
    extended = transitions.extend(running, "token", NOW + 60 * SECOND)
    await store.update_tasks([Change(task, running)])
    await store.update_tasks([Change(running, extended)])
    late = transitions.complete(running, "token", b"late", at(NOW))
    assert await store.update_tasks([Change(running, late)]) == [False]
    assert await read(store, task) == extended


async def test_a_change_of_a_task_that_is_not_there_is_not_made(store: Store) -> None:
    """A change never adds a task: retention may have deleted it."""
    task = make_task()
    assert await store.update_tasks([Change(task, claimed(task))]) == [False]
    assert await store.get_tasks([task.key]) == {}


async def test_the_same_change_again_counts_as_made(store: Store) -> None:
    """So a caller that did not hear of the first try may repeat it; the event is not written twice."""
    task = make_task()
    running = claimed(task)
    await store.insert_tasks([task])
    assert await store.update_tasks([Change(task, running)]) == [True]
    assert await store.update_tasks([Change(task, running)]) == [True]
    assert await read(store, task) == running


async def test_another_change_of_the_same_moment_is_not_taken_for_this_one(store: Store) -> None:
    """Of two that were decided on the same task, at the same time, by the same lease, and differ in one thing only."""

    def ended(task: Task, result: bytes) -> Task:
        return transitions.complete(task, "token", result, at(NOW))

    def logged(task: Task, line: str) -> Task:
        return transitions.note(task, "token", NOW, line=line)

    pairs: list[tuple[Callable[[Task], Task], Callable[[Task], Task]]] = [
        (lambda task: ended(task, b"1"), lambda task: ended(task, b"2")),
        (lambda task: ended(task, b""), lambda task: ended(task, b"2")),
        (lambda task: ended(task, b"1" * 50_000), lambda task: ended(task, b"2" * 50_000)),
        (lambda task: logged(task, "1"), lambda task: logged(task, "2")),
        (lambda task: logged(task, "1"), lambda task: transitions.extend(task, "token", NOW + 60 * SECOND)),
    ]
    for decide in pairs:
        task = make_task()
        held = claimed(task, "token")
        await store.insert_tasks([task])
        await store.update_tasks([Change(task, held)])
        one, other = (each(held) for each in decide)
        for change, made in ((one, True), (other, False), (one, True)):
            assert await store.update_tasks([Change(held, change)]) == [made]
        assert await read(store, task) == one


async def test_each_change_of_a_batch_has_its_own_outcome(store: Store) -> None:
    """Winners win whatever happens to their neighbours."""
    tasks = [make_task() for _ in range(6)]
    await store.insert_tasks(tasks[:4])
    taken = claimed(tasks[1], "earlier")
    await store.update_tasks([Change(tasks[1], taken)])
    changes = [Change(task, claimed(task)) for task in tasks]
    assert await store.update_tasks(changes) == [True, False, True, True, False, False]
    found = await store.get_tasks([task.key for task in tasks])
    assert found == {
        tasks[0].key: changes[0].after,
        tasks[1].key: taken,
        tasks[2].key: changes[2].after,
        tasks[3].key: changes[3].after,
    }


async def test_racing_claims_have_one_winner(connected: Connect) -> None:
    """Many workers, two processes, one batch of tasks: each task has one holder, who was told so."""
    stores = [await connected(), await connected()]
    tasks = [make_task() for _ in range(5)]
    await stores[0].insert_tasks(tasks)
    claims = [[claimed(task, f"worker-{n}") for task in tasks] for n in range(12)]
    answers = await asyncio.gather(
        *(stores[n % 2].update_tasks(list(map(Change, tasks, claim))) for n, claim in enumerate(claims))
    )
    stored = await stores[0].get_tasks([task.key for task in tasks])
    for index, task in enumerate(tasks):
        winners = [claim[index] for claim, won in zip(claims, answers, strict=True) if won[index]]
        assert winners == [stored[task.key]]


async def test_a_large_batch_comes_back_whole(store: Store) -> None:
    """Ten megabytes in one go, in and out."""
    tasks = [make_task(payload=bytes([n]) * 1_000_000) for n in range(10)]
    assert all(map(lambda a, b: a is b, await store.insert_tasks(tasks), tasks))
    assert await store.get_tasks([task.key for task in tasks]) == {task.key: task for task in tasks}


async def test_empty_batches_do_nothing(store: Store) -> None:
    """Nothing in, nothing out, and no error of the database's."""
    assert await store.insert_tasks([]) == []
    assert await store.update_tasks([]) == []
    assert await store.get_tasks([]) == {}
    assert await store.task_versions([]) == {}
    assert await store.ready_tasks(make_task().queue, HIGH, NOW, NOW, 0) == []
    assert await store.expired_leases(NOW, 0) == await store.late_tasks(NOW, 0) == []
    assert await store.delete_ended(NOW, 0) == 0


async def test_a_view_is_all_that_is_read(store: Store) -> None:
    """What it leaves out is empty, all else is as it is; and the sizes of what is large are known beforehand."""
    sizes = {
        "small": (LARGE_BYTES, 5),
        "payload": (LARGE_BYTES + 1, 0),
        "result": (7, 50_000),
        "both": (60_000, 70_000),
    }
    tasks, whole = {name: make_task(payload=b"p" * payload) for name, (payload, _) in sizes.items()}, {}
    await store.insert_tasks(list(tasks.values()))
    for name, task in tasks.items():
        running = claimed(task, "token")
        whole[name] = transitions.complete(running, "token", b"r" * sizes[name][1], at(NOW))
        await store.update_tasks([Change(task, running)])
        await store.update_tasks([Change(running, whole[name])])
    keys = [task.key for task in tasks.values()]
    views: Mapping[View, Callable[[Task], Task]] = {
        View.OUTLINE: lambda task: replace(task, payload=b"", result=None, metadata={}, labels={}, events=()),
        View.BASIC: lambda task: replace(task, payload=b"", result=None, events=()),
        View.RESULT: lambda task: replace(task, payload=b"", events=()),
        View.FULL: lambda task: replace(task, events=()),
        View.HISTORY: lambda task: replace(task, payload=b""),
        View.WHOLE: lambda task: task,
    }
    for view in View:
        assert await store.get_tasks(keys, view) == {task.key: views[view](task) for task in whole.values()}
    missing = make_task().key
    assert await store.large_tasks([], View.WHOLE) == {}
    assert await store.large_tasks([*keys, missing], View.BASIC) == {}
    for view in (View.RESULT, View.HISTORY):
        assert await store.large_tasks([*keys, missing], view) == {
            tasks["result"].key: Large(50_000, 0),
            tasks["both"].key: Large(70_000, 0),
        }
    for view in (View.FULL, View.WHOLE):
        assert await store.large_tasks([*keys, missing], view) == {
            tasks["payload"].key: Large(LARGE_BYTES + 1, 0),
            tasks["result"].key: Large(50_000, 0),
            tasks["both"].key: Large(130_000, 0),
        }


async def test_metadata_and_events_are_large_where_they_are_read(store: Store) -> None:
    """Metadata with labels, by its bytes; what has happened as it comes. An outline has nothing that can be large."""
    words = {"k": "é" * (LARGE_BYTES // 2)}
    tasks = [make_task(metadata=words, labels={}), make_task(metadata={}, labels=words), make_task()]
    await store.insert_tasks(tasks)
    keys, entries = [task.key for task in tasks], LARGE_BYTES + 1 + 2 * AROUND
    whole = [view for view in View if view is not View.OUTLINE]
    for view in whole:
        assert await store.large_tasks(keys, view) == dict.fromkeys(keys[:2], Large(0, entries))
    running = claimed(tasks[2], "token")
    logged = running
    for _ in range(17):
        logged = transitions.note(logged, "token", NOW, line="x" * 1000)
    await store.update_tasks([Change(tasks[2], running)])
    await store.update_tasks([Change(running, logged)])
    for view in whole:
        large = (await store.large_tasks(keys, view)).get(keys[2], Large(0, 0))
        assert large.content == 0
        assert (17_000 < large.rest < 20_000) == (view in (View.HISTORY, View.WHOLE))
    assert await store.update_tasks([Change(running, logged)]) == [True]
    assert await store.get_tasks(keys) == {task.key: task for task in (*tasks[:2], logged)}
    assert await store.large_tasks(keys, View.OUTLINE) == {}


async def test_a_history_is_read_in_stretches(store: Store) -> None:
    """From each place as many events as are asked for; where none follow, the number of the last tells of it."""
    task, other, missing = make_task(), make_task(workspace="ws-other"), make_task().key
    await store.insert_tasks([task, other])
    before, after = task, claimed(task, "token")
    for n in range(5):
        await store.update_tasks([Change(before, after)])
        before, after = after, transitions.note(after, "token", NOW, line=f"line {n}")
    whole = (await store.get_tasks([task.key]))[task.key]
    assert len(whole.events) == 6

    def part(start: int, end: int, last: int) -> Stretch:
        return Stretch(whole.version, whole.status, whole.events[start:end], last)

    others = Stretch(other.version, other.status, other.events, 1)
    expected = {
        Position(task.key, 0): part(0, 2, 2),
        Position(other.key, 0): others,
        Position(task.key, 3): part(3, 5, 5),
        Position(other.key, 3): replace(others, events=()),
        Position(task.key, 5): part(5, 6, 6),
        Position(task.key, 6): part(6, 6, 6),
        Position(task.key, 7): part(6, 6, 6),
    }
    assert await store.histories([*expected, Position(missing, 0), Position(missing, 7)], 2) == expected
    assert await store.histories([], 2) == {}


async def test_a_version_tells_of_each_change(store: Store) -> None:
    """Of the tasks that there are, each its own, without the rest of them."""
    tasks, missing = [make_task(), make_task(workspace="ws-other")], make_task().key
    await store.insert_tasks(tasks)
    changed = claimed(tasks[0], "token")
    await store.update_tasks([Change(tasks[0], changed)])
    versions = await store.task_versions([*(task.key for task in tasks), missing])
    assert versions == {changed.key: changed.version, tasks[1].key: tasks[1].version}
    assert changed.version != tasks[0].version
