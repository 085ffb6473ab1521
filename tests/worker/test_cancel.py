"""A task that is cancelled while it runs: how the function is told, and what becomes of the task."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.service import PATIENCE, Caller, Service, serving, until
from support.workers import working

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.worker import Cancelled, Context, TaskFailed

CANCELLED = tasks_pb2.TASK_STATUS_CANCELLED
SUCCEEDED = tasks_pb2.TASK_STATUS_SUCCEEDED


async def cancel(service: Service, caller: Caller, task_id: str, reason: str = "") -> None:
    """Asks for the task's cancellation."""
    request = tasks_pb2.CancelTaskRequest(task_id=task_id, reason=reason)
    await service.tasks.CancelTask(request, metadata=caller.metadata, timeout=PATIENCE)


async def cancelled(function: Callable[..., Any], started: threading.Event) -> tasks_pb2.TaskDetail:
    """What becomes of a task that this function runs, and that is cancelled once it has started."""
    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, function):
            task_id = await service.submit(tenant)
            await until(started.is_set)
            await cancel(service, tenant, task_id, "no longer wanted")
            await service.events(tenant, task_id)
            return await service.get(tenant, task_id)


async def test_an_async_function_is_interrupted() -> None:
    """It gets a CancelledError where it waits, may clean up, and the task is CANCELLED."""
    started, cleaned = threading.Event(), threading.Event()

    async def wait(_: object, context: Context) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert context.cancelled
            await asyncio.sleep(0)
            cleaned.set()

    detail = await cancelled(wait, started)
    assert (detail.status, detail.error) == (CANCELLED, "CANCELLED: no longer wanted")
    assert cleaned.is_set()


@pytest.mark.parametrize("say", [Context.check, lambda context: context.progress(0.5)], ids=["check", "progress"])
@pytest.mark.parametrize("plain", [True, False])
async def test_a_function_that_asks_is_told(say: Callable[[Context], None], plain: bool) -> None:
    """`check` and `progress` raise Cancelled with the reason; a function that ends by it has stopped."""
    started, reasons = threading.Event(), list[str]()

    def work(_: object, context: Context) -> None:
        started.set()
        try:
            while True:
                say(context)
                time.sleep(0.01)
        except Cancelled as stop:
            reasons.append(str(stop))
            raise

    async def work_async(_: object, context: Context) -> None:
        started.set()
        try:
            # An interruption that is not let through is made up for by asking.
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            work(_, context)

    assert (await cancelled(work if plain else work_async, started)).status == CANCELLED
    assert reasons == ["no longer wanted"]


@pytest.mark.parametrize("plain", [True, False])
async def test_a_function_may_end_well_after_all(plain: bool) -> None:
    """If what it returns comes after the request, the task has succeeded all the same."""
    started = threading.Event()

    def work(_: object, context: Context) -> dict[str, Any]:
        started.set()
        while not context.cancelled:
            time.sleep(0.01)
        return {"n": 1}

    async def work_async(_: object) -> dict[str, Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"n": 1}
        raise AssertionError("not interrupted")

    detail = await cancelled(work if plain else work_async, started)
    assert (detail.status, detail.result["n"]) == (SUCCEEDED, 1)


async def test_a_function_may_fail_instead() -> None:
    """A failure after the request ends the task: what was to stop is not tried again."""
    started = threading.Event()

    async def work(_: object) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise TaskFailed("HALF_DONE", "some rows are written", retryable=True) from None

    assert (await cancelled(work, started)).status == CANCELLED


async def test_a_second_request_does_not_interrupt_the_cleaning_up() -> None:
    """The function is interrupted once, however often its cancellation is asked for."""
    started, cleaning, clean = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(_: object) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await clean.wait()

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, wait):
            task_id = await service.submit(tenant)
            await started.wait()
            await cancel(service, tenant, task_id)
            await cleaning.wait()
            (held,) = service.app.leases._held
            assert held.session is not None
            assert held.task is not None
            held.session.cancel(held.task)  # as after a cut stream
            other = await service.submit(tenant)
            await until(lambda: len(service.app.leases._held) == 2)
            clean.set()
            events = await service.events(tenant, task_id)
            await cancel(service, tenant, other)
            await service.events(tenant, other)
    assert events[-1].status == CANCELLED


async def test_a_cancellation_during_a_cut_is_told_afterwards() -> None:
    """A worker that was away when the cancellation was asked for hears of it when it is back, without being asked."""
    started = asyncio.Event()

    async def wait(_: object) -> None:
        started.set()
        await asyncio.Event().wait()

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, wait):
            task_id = await service.submit(tenant)
            await started.wait()
            (stream,) = service.app.workers._streams
            stream._outbox.put_nowait(None)
            await until(lambda: not service.app.workers._streams)
            await cancel(service, tenant, task_id)
            events = await service.events(tenant, task_id)
    assert events[-1].status == CANCELLED
    assert [event.sequence for event in events] == [1, 2, 3, 4]
