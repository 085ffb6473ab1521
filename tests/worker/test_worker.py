"""The worker's runtime against a real server: what it reports, what it repeats, what it gives up, how it stops."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from support.service import PATIENCE, SETTINGS, Caller, Service, serving, until

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.domain import errors
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.worker import Task, TaskFailed, TaskFunction, worker
from openmcp_chain.worker.connection import Connection
from openmcp_chain.worker.worker import Worker

SHORT_LEASES = replace(SETTINGS, lease_duration=timedelta(seconds=0.6))


@asynccontextmanager
async def working(
    service: Service, operator: Caller, function: TaskFunction, *, concurrency: int = 4
) -> AsyncIterator[Worker]:
    """A worker for `echo` for the length of the block; it ends by itself if it is stopped in it."""
    connection = Connection(f"127.0.0.1:{service.port}", operator.workspace_id, operator.secret)
    runtime = Worker(connection, {"echo": function}, name="worker-1", version="1", concurrency=concurrency)
    running = asyncio.create_task(runtime.run())
    try:
        yield runtime
        runtime.stop()
        async with asyncio.timeout(PATIENCE):
            await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def ended(service: Service, caller: Caller, task_id: str) -> tasks_pb2.TaskDetail:
    """The task's state once it has ended."""
    await service.events(caller, task_id)
    return await service.get(caller, task_id)


async def echo(task: Task) -> Mapping[str, Any]:
    return task.payload


async def test_runs_a_task_with_what_was_submitted() -> None:
    """A function gets payload, metadata, ids and attempt as submitted; what it returns is the result."""
    seen: list[Task] = []

    async def note(task: Task) -> Mapping[str, Any]:
        seen.append(task)
        return {"text": "ü", "list": [1, None, True, {"a.b": "$c"}], "": {}}

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, note):
            task_id = await service.submit(tenant, payload={"n": 1}, metadata={"k": "v"})
            detail = await ended(service, tenant, task_id)
    assert (seen[0].workspace_id, seen[0].task_id, seen[0].type) == (tenant.workspace_id, task_id, "echo")
    assert (seen[0].payload, seen[0].metadata, seen[0].attempt) == ({"n": 1}, {"k": "v"}, 1)
    assert detail.status == tasks_pb2.TASK_STATUS_SUCCEEDED
    assert MessageToDict(detail.result) == {"text": "ü", "list": [1, None, True, {"a.b": "$c"}], "": {}}


async def test_task_failed_is_what_the_owner_is_told() -> None:
    """TaskFailed gives the task's error as `CODE: message`, at once if it is not retryable."""

    async def refuse(_: Task) -> Mapping[str, Any]:
        raise TaskFailed("INPUT_NOT_FOUND", "file://x: no such file")

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, refuse):
            detail = await ended(service, tenant, await service.submit(tenant))
    assert detail.error == "INPUT_NOT_FOUND: file://x: no such file"


async def test_unforeseen_exception_is_retried_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other exception costs an attempt; its text reaches neither the error nor any event."""

    async def stumble(task: Task) -> Mapping[str, Any]:
        if task.attempt < 3:
            raise ValueError("S3CRET")
        return {}

    async with serving() as service:
        monkeypatch.setattr(service.app.leases, "_chance", lambda: 0.0)
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, stumble):
            task_id = await service.submit(tenant)
            events = await service.events(tenant, task_id)
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert events[2].context["code"] == "WORKER_ERROR"
    assert "S3CRET" not in str(events)


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("result", "told"),
    [
        pytest.param({"n": float("nan")}, "finite", id="not a number"),
        pytest.param({"n": "\ud800"}, "not JSON", id="lone surrogate"),
        pytest.param({"n": object()}, "not JSON", id="an object"),
        pytest.param(_deep(32), "32 levels", id="33 levels"),
        pytest.param(_deep(3000), "not JSON", id="3000 levels"),
        pytest.param({"n": "x" * (1024 * 1024)}, "at most 1048576", id="a mebibyte and more"),
        pytest.param({"n": "x" * (5 * 1024 * 1024)}, "at most 1048576", id="more than a message may have"),
        pytest.param({"n": "x" * (22 * 1024 * 1024)}, "at most 1048576", id="more than gRPC takes"),
    ],
)
async def test_result_that_cannot_be_kept_fails_the_task_alone(result: dict[str, Any], told: str) -> None:
    """A result that is no JSON, too deep or too large fails its task for good; the worker works on."""
    results = [result, {}]

    async def give(_: Task) -> Mapping[str, Any]:
        return results.pop(0)

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, give):
            detail = await ended(service, tenant, await service.submit(tenant))
            after = await ended(service, tenant, await service.submit(tenant))
    assert detail.error.startswith("RESULT_INVALID: ")
    assert told in detail.error
    assert after.status == tasks_pb2.TASK_STATUS_SUCCEEDED


@pytest.mark.parametrize("message", ["x" * (5 * 1024 * 1024), "\ud800 half a character"], ids=["huge", "surrogate"])
async def test_failure_that_cannot_be_sent_as_it_is_is_cut(message: str) -> None:
    """A failure's message is cut and cleaned until it can be sent; the task fails with the code that it named."""

    async def refuse(_: Task) -> Mapping[str, Any]:
        raise TaskFailed("BROKEN", message)

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, refuse):
            detail = await ended(service, tenant, await service.submit(tenant))
    assert detail.error.startswith("BROKEN: ")
    assert len(detail.error) <= 8 + 2048


async def test_function_that_gives_itself_up_does_not_hold_its_lease_for_ever() -> None:
    """A function that raises CancelledError of its own counts as failed: the next attempt is made."""

    async def give_up(task: Task) -> Mapping[str, Any]:
        if task.attempt == 1:
            raise asyncio.CancelledError
        return {}

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, give_up):
            events = await service.events(tenant, await service.submit(tenant))
    assert events[2].context["code"] == "WORKER_ERROR"
    assert events[-1].status == tasks_pb2.TASK_STATUS_SUCCEEDED


async def test_heartbeats_keep_a_task_past_its_lease() -> None:
    """A task that runs for several leases stays its worker's: one attempt, no event in between."""
    over, store = asyncio.Event(), MemoryStore()

    async def wait(_: Task) -> Mapping[str, Any]:
        await over.wait()
        return {}

    async with serving(store, settings=SHORT_LEASES) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, wait):
            task_id = await service.submit(tenant)
            # Versions 1 and 2 are submit and claim; each heartbeat adds one. Six are two leases and more.
            await until(lambda: any(task.version >= 8 for task in store._tasks.values()))
            over.set()
            events = await service.events(tenant, task_id)
    assert [event.sequence for event in events] == [1, 2, 3]


async def test_answer_to_a_heartbeat_is_not_taken_for_the_reports_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report stays with the worker until it is itself answered, even if a heartbeat before it is answered first."""
    beaten, over, reported = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(_: Task) -> Mapping[str, Any]:
        await over.wait()
        return {"n": 1}

    async with serving(settings=SHORT_LEASES) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        leases = service.app.leases
        heartbeat, complete = leases.heartbeat, leases.complete

        async def slow_heartbeat(*arguments: Any) -> None:
            beaten.set()
            await reported.wait()
            await heartbeat(*arguments)

        async def failing_complete(*arguments: Any) -> None:
            if not reported.is_set():
                reported.set()
                # Answered after the heartbeat, and with what must make the worker say it again.
                await until(lambda: leases.heartbeat is heartbeat)
                raise errors.Unavailable
            await complete(*arguments)

        monkeypatch.setattr(leases, "heartbeat", slow_heartbeat)
        monkeypatch.setattr(leases, "complete", failing_complete)
        async with working(service, operator, wait) as runtime:
            task_id = await service.submit(tenant)
            await beaten.wait()
            over.set()
            await reported.wait()
            held = next(iter(runtime._held.values()))
            await until(lambda: held.unanswered == 1)
            monkeypatch.setattr(leases, "heartbeat", heartbeat)
            detail = await ended(service, tenant, task_id)
            assert detail.status == tasks_pb2.TASK_STATUS_SUCCEEDED
            await until(lambda: not runtime._held)
        events = await service.events(tenant, task_id)
    assert len(events) == 3


async def test_goes_on_after_the_server_restarted() -> None:
    """A task that outlives its server is reported to the next one on that port, under the same lease, once."""
    over, started = asyncio.Event(), asyncio.Event()
    store = MemoryStore()

    async def wait(_: Task) -> Mapping[str, Any]:
        started.set()
        await over.wait()
        return {"n": 1}

    async with serving(store) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        settings = replace(SETTINGS, listen=f"127.0.0.1:{service.port}")
        context = working(service, operator, wait)
        runtime = await context.__aenter__()
        task_id = await service.submit(tenant)
        await started.wait()
    # Nobody serves now: the task ends, and its report has nowhere to go.
    over.set()
    held = next(iter(runtime._held.values()))
    await until(lambda: held.report is not None)
    async with serving(store, settings=settings) as service:
        detail = await ended(service, tenant, task_id)
        again = await ended(service, tenant, await service.submit(tenant))
        await context.__aexit__(None, None, None)
        events = await service.events(tenant, task_id)
    assert (detail.status, detail.result["n"]) == (tasks_pb2.TASK_STATUS_SUCCEEDED, 1)
    assert [event.sequence for event in events] == [1, 2, 3]
    assert again.status == tasks_pb2.TASK_STATUS_SUCCEEDED


async def test_stops_the_task_when_its_lease_is_lost() -> None:
    """A worker that hears LEASE_LOST to a heartbeat cancels the function."""
    started, stopped = asyncio.Event(), asyncio.Event()
    store = MemoryStore()

    async def wait(_: Task) -> Mapping[str, Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return {}

    async with serving(store, settings=SHORT_LEASES) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, wait) as runtime:
            task_id = await service.submit(tenant)
            await started.wait()
            (key,) = store._tasks
            del store._tasks[key]  # as retention would
            async with asyncio.timeout(PATIENCE):
                await stopped.wait()
            await until(lambda: not runtime._held)
    assert task_id == key.id


async def test_stops_the_task_when_the_lease_cannot_be_kept() -> None:
    """A worker that can't reach a server cancels the function before the lease is over."""
    started, stopped = asyncio.Event(), asyncio.Event()

    async def wait(_: Task) -> Mapping[str, Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return {}

    async with serving(settings=SHORT_LEASES) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        context = working(service, operator, wait)
        await context.__aenter__()
        await service.submit(tenant)
        await started.wait()
    async with asyncio.timeout(PATIENCE):
        await stopped.wait()
    await context.__aexit__(None, None, None)


async def test_stop_ends_what_runs_and_takes_nothing_new() -> None:
    """After `stop`, the task at hand is finished and reported, and `run` returns; the next one is left in the queue."""
    over, started = asyncio.Event(), asyncio.Event()

    async def wait(_: Task) -> Mapping[str, Any]:
        started.set()
        await over.wait()
        return {}

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, wait, concurrency=1) as runtime:
            first = await service.submit(tenant)
            await started.wait()
            runtime.stop()
            await until(lambda: not service.app.dispatcher._takers)
            second = await service.submit(tenant)
            over.set()
        assert (await service.get(tenant, first)).status == tasks_pb2.TASK_STATUS_SUCCEEDED
        assert (await service.get(tenant, second)).status == tasks_pb2.TASK_STATUS_PENDING


async def test_worker_that_stops_while_the_server_is_away_takes_nothing_when_it_is_back() -> None:
    """It comes back to report what it holds, and is given no new task."""
    over, started = asyncio.Event(), asyncio.Event()
    store = MemoryStore()

    async def wait(_: Task) -> Mapping[str, Any]:
        started.set()
        await over.wait()
        return {}

    async with serving(store) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        settings = replace(SETTINGS, listen=f"127.0.0.1:{service.port}")
        context = working(service, operator, wait, concurrency=2)
        runtime = await context.__aenter__()
        first = await service.submit(tenant)
        await started.wait()
    runtime.stop()
    async with serving(store, settings=settings) as service:
        second = await service.submit(tenant)
        await until(lambda: runtime._welcome)
        over.set()
        await context.__aexit__(None, None, None)
        assert (await service.get(tenant, first)).status == tasks_pb2.TASK_STATUS_SUCCEEDED
        assert (await service.get(tenant, second)).status == tasks_pb2.TASK_STATUS_PENDING


async def test_stop_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that does not end holds up the stop for DRAIN_SECONDS at most, and is then cancelled."""
    started, stopped = asyncio.Event(), asyncio.Event()

    async def wait(_: Task) -> Mapping[str, Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return {}

    monkeypatch.setattr(worker, "DRAIN_SECONDS", 0.05)
    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, wait):
            await service.submit(tenant)
            await started.wait()
        assert stopped.is_set()


async def test_wrong_type_ends_the_worker() -> None:
    """What no repetition mends, here a type that the operator may not take, is raised rather than tried for ever."""
    async with serving() as service:
        operator = await service.operator("other")
        connection = Connection(f"127.0.0.1:{service.port}", operator.workspace_id, operator.secret)
        runtime = Worker(connection, {"echo": echo}, name="worker-1")
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(Exception, match="does not cover"):
                await runtime.run()


async def test_refused_sign_in_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A worker whose secret is refused keeps trying, and leaves nothing running when it is stopped."""
    async with serving() as service:
        operator = await service.operator("echo")
        connection = Connection(f"127.0.0.1:{service.port}", operator.workspace_id, "omcp_wrong")
        runtime = Worker(connection, {"echo": echo}, name="worker-1")
        running = asyncio.create_task(runtime.run())
        await until(lambda: [r.message for r in caplog.records].count("connection lost") >= 2)
        mine = {task for task in asyncio.all_tasks() if "Worker._refresh_token" in repr(task.get_coro())}
        assert not mine
        runtime.stop()
        async with asyncio.timeout(PATIENCE):
            await running
