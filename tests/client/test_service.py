"""Both clients against the service itself: every method, as a user would use it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from support.clients import KINDS, Either, Kind, connected
from support.service import PATIENCE, SETTINGS, Service, WorkStream, serving, until

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.client import ApiError, NewTask, Progress, RetryPolicy, Task, TaskUnsuccessful, WaitTimeout
from openmcp_chain.store.memory import MemoryStore

both = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def workspace(kind: Kind) -> AsyncIterator[tuple[Service, Either, WorkStream]]:
    """A service, a client of a new workspace, and the workspace's worker for `echo`, which is not greeted yet."""
    async with serving() as service:
        caller = await service.workspace()
        who = {"workspace_id": caller.workspace_id, "workspace_secret": caller.secret}
        async with connected(kind, f"127.0.0.1:{service.port}", **who) as client:
            yield service, client, service.work(caller)


@both
async def test_a_task_from_submit_to_result(kind: Kind) -> None:
    """What was submitted is read back; wait returns when the task has ended, with its result in plain values."""
    at = datetime.now(UTC)
    async with workspace(kind) as (_, client, worker):
        task = await client.call(
            "submit",
            "echo",
            {"n": 1, "list": [1.5, None, True, {"ü": ""}]},
            metadata={"k": "v"},
            labels={"team": "search"},
            priority=2,
            dedupe_key="nightly",
            retention=timedelta(hours=1),
        )
        seen: Task = await client.call("get", task, view="FULL")
        assert (seen.type, seen.status, seen.priority, seen.dedupe_key) == ("echo", "PENDING", 2, "nightly")
        assert (seen.metadata, seen.labels, seen.attempt) == ({"k": "v"}, {"team": "search"}, 0)
        assert seen.payload == {"n": 1, "list": [1.5, None, True, {"ü": ""}]}
        assert (await client.call("get", task)).payload is None
        waiting = asyncio.ensure_future(client.call("wait", task, timeout=PATIENCE, check=True))
        await worker.hello()
        leased = await worker.task()
        await worker.complete(leased.lease, {"rows": 3, "mean": 0.5})
        done: Task = await waiting
    assert (done.task_id, done.status, done.result, done.error) == (
        task.task_id,
        "SUCCEEDED",
        {"rows": 3, "mean": 0.5},
        None,
    )
    assert done.expire_time is not None
    assert at + timedelta(hours=1) <= done.expire_time <= done.updated_at + timedelta(hours=1)
    assert "rows" not in repr(done)


@both
async def test_a_client_asks_for_no_more_than_it_is_told_to(kind: Kind) -> None:
    """With `scopes`, its tokens allow those; a scope that the workspace can't have is named by the first call."""
    async with serving() as service:
        caller = await service.workspace()
        who = {"workspace_id": caller.workspace_id, "workspace_secret": caller.secret}
        async with connected(kind, f"127.0.0.1:{service.port}", **who, scopes=["tasks:read"]) as client:
            assert (await client.call("count")).total == 0
            with pytest.raises(ApiError) as refused:
                await client.call("submit", "echo")
            assert refused.value.code == "SCOPE_MISSING"
        async with connected(kind, f"127.0.0.1:{service.port}", **who, scopes=("tasks:read", "admin")) as client:
            with pytest.raises(ApiError) as refused:
                await client.call("count")
            assert [violation.field for violation in refused.value.violations] == ["scopes[1]"]


@both
async def test_events_tell_of_the_whole_life(kind: Kind) -> None:
    """Events come in order with progress and log lines, up to the last; from any place on, the rest."""
    async with workspace(kind) as (_, client, worker):
        task = await client.call("submit", "echo")
        await worker.hello()
        lease = (await worker.task()).lease
        progress = workers_pb2.Heartbeat(lease=lease)
        progress.progress.fraction, progress.progress.message = 0.25, "a quarter"
        await worker.say(heartbeat=progress)
        await worker.ack()
        await worker.say(log=workers_pb2.Log(lease=lease, message="half way"))
        await worker.ack()
        await worker.complete(lease)
        events = [event async for event in client.each("events", task)]
        rest = [event async for event in client.each("events", task, after=3)]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
    assert [event.status for event in events] == ["PENDING", "RUNNING", "RUNNING", "RUNNING", "SUCCEEDED"]
    assert [event.progress for event in events] == [None, None, Progress(0.25, "a quarter"), None, None]
    assert (events[1].context["attempt"], events[3].context["log"]) == (1, "half way")
    assert rest == events[3:]


@both
async def test_a_task_that_fails(kind: Kind) -> None:
    """A failure that its retry policy calls final is told by wait: as the task, or with `check` as an exception."""
    async with workspace(kind) as (_, client, worker):
        task = await client.call("submit", "echo", retry_policy=RetryPolicy(non_retryable_error_codes=["BROKEN"]))
        await worker.hello()
        await worker.fail((await worker.task()).lease, "BROKEN")
        ended = await client.call("wait", task, timeout=PATIENCE)
        assert (ended.status, ended.error, ended.error_code) == ("FAILED", "BROKEN: it broke", "BROKEN")
        with pytest.raises(TaskUnsuccessful) as told:
            await client.call("wait", task, timeout=PATIENCE, check=True)
        assert told.value.task == ended
        again = await client.call("retry", task)
        assert (again.status, again.error) == ("PENDING", None)
        with pytest.raises(ApiError, match="TASK_NOT_RETRYABLE"):
            await client.call("retry", task)


@both
async def test_a_task_that_does_not_end(kind: Kind) -> None:
    """Waiting has a limit; nothing happens to the task."""
    async with workspace(kind) as (_, client, _):
        task = await client.call("submit", "echo", schedule_time=datetime.now(UTC) + timedelta(days=1))
        with pytest.raises(WaitTimeout) as late:
            await client.call("wait", task, timeout=0.1)
        assert late.value.task is not None
        assert late.value.task.schedule_time is not None
        with pytest.raises(WaitTimeout):
            [event async for event in client.each("events", task, timeout=0.1)]


@both
async def test_cancel(kind: Kind) -> None:
    """A waiting task is cancelled at once, and its events end with the reason; cancelling again changes nothing."""
    async with workspace(kind) as (_, client, _):
        task = await client.call("submit", "echo")
        for _ in range(2):
            assert (await client.call("cancel", task, reason="not wanted")).status == "CANCELLED"
        last = [event async for event in client.each("events", task)][-1]
        with pytest.raises(TaskUnsuccessful):
            await client.call("wait", task, check=True)
    assert (last.status, last.context["reason"]) == ("CANCELLED", "not wanted")


@both
async def test_a_key_that_is_taken(kind: Kind) -> None:
    """A second submit with a dedupe_key gets the first one's task, or is refused."""
    async with workspace(kind) as (_, client, _):
        first = await client.call("submit", "echo", dedupe_key="nightly")
        second = await client.call("submit", "echo", dedupe_key="nightly", on_conflict="USE_EXISTING")
        with pytest.raises(ApiError, match="DEDUPE_KEY_TAKEN"):
            await client.call("submit", "echo", dedupe_key="nightly")
    assert (first.task_id, second.status) == (second.task_id, "PENDING")


@both
async def test_lists_and_counts(kind: Kind) -> None:
    """Tasks are listed newest first over any number of pages, and counted by status; a filter selects."""
    async with workspace(kind) as (_, client, _):
        tasks = [await client.call("submit", "echo", labels={"n": str(number)}) for number in range(5)]
        await client.call("cancel", tasks[0])
        newest = [task.task_id for task in reversed(tasks)]
        listed = [task async for task in client.each("list", page_size=2)]
        assert sorted(task.task_id for task in listed) == sorted(newest)
        assert [task.submitted_at for task in listed] == sorted((task.submitted_at for task in listed), reverse=True)
        some = [task.labels["n"] async for task in client.each("list", 'labels.n = "0" OR labels.n = "3"', limit=9)]
        assert sorted(some) == ["0", "3"]
        assert len([task async for task in client.each("list", limit=3, page_size=2)]) == 3
        counts = await client.call("count")
        assert (counts.total, counts.by_status) == (5, {"PENDING": 4, "CANCELLED": 1})
        assert (await client.call("count", "status = CANCELLED")).total == 1
        with pytest.raises(ApiError, match="INVALID_ARGUMENT") as refused:
            await client.call("count", "status ~ 1")
    assert [violation.field for violation in refused.value.violations] == ["filter"]


@both
async def test_batches(kind: Kind) -> None:
    """Of a batch each task is answered by itself; those that there are are read together, cancelled ones retried."""
    async with workspace(kind) as (_, client, _):
        one, bad, other = await client.call("batch_submit", [NewTask("echo"), NewTask("0"), NewTask("echo", {"n": 2})])
        assert bad.code == "INVALID_ARGUMENT"
        found = await client.call("batch_get", [other, "no-such-task", one.task_id])
        assert list(found) == [other.task_id, one.task_id]
        for task in (one, other):
            await client.call("cancel", task)
        retried = await client.call("batch_retry", "status = CANCELLED", limit=1)
        assert (len(retried.task_ids), retried.more) == (1, True)
        rest = await client.call("batch_retry", "status = CANCELLED", page_token=retried.next_page_token)
        assert ({*retried.task_ids, *rest.task_ids}, rest.more) == ({one.task_id, other.task_id}, False)


@both
async def test_what_is_too_large_for_an_answer_comes_by_several(kind: Kind) -> None:
    """A batch and a list of large tasks are whole, though the service answers each call with a part."""
    text = "x" * 900_000
    async with workspace(kind) as (_, client, _):
        tasks = [await client.call("submit", "echo", {"text": text, "n": n}) for n in range(7)]
        found = await client.call("batch_get", tasks, view="FULL")
        listed = [task async for task in client.each("list", view="FULL")]
    assert [task.payload["n"] for task in found.values()] == list(range(7))
    assert [task.payload["n"] for task in listed] == list(reversed(range(7)))


@both
async def test_pause(kind: Kind) -> None:
    """A paused type is told as such, with the reason, until it is resumed."""
    async with workspace(kind) as (_, client, _):
        await client.call("submit", "echo")
        paused = await client.call("pause", "echo", reason="maintenance")
        assert (paused.type, paused.paused, paused.reason) == ("echo", True, "maintenance")
        assert paused.paused_at is not None
        assert list(await client.call("task_types")) == [paused]
        resumed = await client.call("resume", "echo")
        assert (resumed.paused, resumed.paused_at, resumed.reason) == (False, None, "")


@both
async def test_another_workspaces_task(kind: Kind) -> None:
    """A task of another workspace does not exist, for any method."""
    async with workspace(kind) as (service, client, _):
        other = await service.submit(await service.workspace())
        for method in ("get", "wait", "cancel", "retry"):
            with pytest.raises(ApiError, match=f"TASK_NOT_FOUND: Task {other} does not exist"):
                await client.call(method, other)
        with pytest.raises(ApiError, match="TASK_NOT_FOUND"):
            [event async for event in client.each("events", other)]


@both
async def test_the_server_is_replaced(kind: Kind) -> None:
    """A server that shuts down, and another in its place: whoever waits for a task or follows it notices nothing."""
    store = MemoryStore()
    async with AsyncExitStack() as life:
        first = await life.enter_async_context(serving(store))
        caller = await first.workspace()
        who = {"workspace_id": caller.workspace_id, "workspace_secret": caller.secret}
        async with connected(kind, f"127.0.0.1:{first.port}", **who) as client:
            task = await client.call("submit", "echo")
            seen = asyncio.Event()

            async def follow() -> list[int]:
                sequences = []
                async for event in client.each("events", task):
                    sequences.append(event.sequence)
                    seen.set()
                return sequences

            following = asyncio.ensure_future(follow())
            waiting = asyncio.ensure_future(client.call("wait", task))
            await seen.wait()
            await until(lambda: first.app.events.open == 2)
            await life.aclose()
            assert not following.done()
            async with serving(store, settings=replace(SETTINGS, listen=f"127.0.0.1:{first.port}")) as second:
                worker = second.work(caller)
                await worker.hello()
                await worker.complete((await worker.task()).lease, {"n": 1})
                assert await following == [1, 2, 3]
                assert (await waiting).result == {"n": 1}
