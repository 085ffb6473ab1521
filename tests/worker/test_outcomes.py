"""How an attempt ends, and what of it the task's owner is told."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from pydantic import BaseModel
from support.service import Caller, Service, serving
from support.workers import ended, working

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.worker import Cancelled, Context, TaskFailed


async def outcome(function: Callable[..., Any], **submit: Any) -> tasks_pb2.TaskDetail:
    """How a task ends that this function runs."""
    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, function):
            return await ended(service, tenant, await service.submit(tenant, **submit))


async def failure(function: Callable[..., Any]) -> dict[str, Any]:
    """What the event of the first attempt's end tells; the function fails but once."""
    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, function):
            events = await _events(service, tenant)
    return MessageToDict(events[2].context)


async def _events(service: Service, tenant: Caller) -> list[tasks_pb2.TaskEvent]:
    return await service.events(tenant, await service.submit(tenant))


@pytest.mark.parametrize("plain", [True, False])
async def test_a_function_gets_what_was_submitted(plain: bool) -> None:
    """Payload, metadata, labels, ids and attempt are as submitted; what is returned is the result."""
    seen: list[tuple[dict[str, Any], Context]] = []
    result = {"text": "ü", "list": [1, None, True, {"a.b": "$c"}], "": {}, "n": 2**53}

    def note(payload: dict[str, Any], context: Context) -> dict[str, Any]:
        seen.append((payload, context))
        return result

    async def note_async(payload: dict[str, Any], context: Context) -> dict[str, Any]:
        return note(payload, context)

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, note if plain else note_async):
            fields: dict[str, Any] = {
                "payload": {"n": 1, "x": 1.5},
                "metadata": {"k": "v"},
                "labels": {"team": "search"},
            }
            task_id = await service.submit(tenant, **fields)
            detail = await ended(service, tenant, task_id)
    ((payload, context),) = seen
    assert (context.workspace_id, context.task_id, context.type) == (tenant.workspace_id, task_id, "echo")
    assert (payload, context.metadata, context.labels) == ({"n": 1, "x": 1.5}, {"k": "v"}, {"team": "search"})
    assert isinstance(payload["n"], int)
    assert (context.attempt, context.deadline) == (1, None)
    assert detail.status == tasks_pb2.TASK_STATUS_SUCCEEDED
    assert MessageToDict(detail.result) == result


@dataclass
class Shown:
    n: int
    inner: list[Any]


class Model(BaseModel):
    n: int = 1


async def test_results_may_be_typed() -> None:
    """A dataclass, with models in it, is a result; so is nothing."""
    detail = await outcome(lambda _: Shown(3, [Model()]))
    assert MessageToDict(detail.result) == {"n": 3, "inner": [{"n": 1}]}
    detail = await outcome(lambda _: None)
    assert (detail.status, MessageToDict(detail.result)) == (tasks_pb2.TASK_STATUS_SUCCEEDED, {})


async def test_a_payload_that_does_not_fit_fails_the_task_for_good() -> None:
    """The owner is told which field it is; nothing is tried again."""

    def take(_: Shown) -> None:
        raise AssertionError("not called")

    detail = await outcome(take, payload={"n": 1.5, "inner": []})
    assert detail.error == "PAYLOAD_INVALID: payload.n: must be a whole number, of at most 2^53 either way"
    assert detail.attempt == 1


async def test_task_failed_is_what_the_owner_is_told() -> None:
    """TaskFailed gives the task's error as `CODE: message`, at once if it is not retryable."""

    def refuse(_: object) -> None:
        raise TaskFailed("INPUT_NOT_FOUND", "file://x: no such file")

    detail = await outcome(refuse)
    assert (detail.error, detail.attempt) == ("INPUT_NOT_FOUND: file://x: no such file", 1)


@pytest.mark.parametrize(
    ("delay", "least"),
    [(600, timedelta(minutes=9)), (timedelta(hours=2), timedelta(minutes=119)), (1e12, timedelta(hours=23))],
)
async def test_a_failure_may_say_when_to_try_again(delay: float | timedelta, least: timedelta) -> None:
    """`retry_delay` takes the place of the retry policy's time, and is cut at a day."""

    def refuse(_: object) -> None:
        raise TaskFailed("BUSY", "not now", retryable=True, retry_delay=delay)

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        request = tasks_pb2.StreamTaskEventsRequest
        async with working(service, operator, refuse):
            task_id = await service.submit(tenant)
            stream: Any = service.tasks.StreamTaskEvents(request(task_id=task_id), metadata=tenant.metadata)
            events = [await stream.read() for _ in range(3)]
            stream.cancel()
            detail = await service.get(tenant, task_id)
    assert events[-1].context["code"] == "BUSY"
    wait = detail.schedule_time.ToDatetime() - detail.updated_at.ToDatetime()
    assert least <= wait <= timedelta(hours=24)


async def test_an_unforeseen_exception_is_retried_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other exception costs an attempt; its text reaches neither the error nor any event."""

    def stumble(_: object, context: Context) -> None:
        if context.attempt < 3:
            raise ValueError("S3CRET")

    async with serving() as service:
        monkeypatch.setattr(service.app.leases, "_chance", lambda: 0.0)
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, stumble):
            events = await _events(service, tenant)
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert events[2].context["code"] == "WORKER_ERROR"
    assert "S3CRET" not in str(events)


def _cancel_itself(_: object) -> None:
    raise Cancelled("by itself")


def _stop_iterating(_: object) -> None:
    next(iter(()))


def _exit(_: object) -> None:
    sys.exit("S3CRET")


async def _give_up(_: object) -> None:
    raise asyncio.CancelledError


async def _exit_async(_: object) -> None:
    sys.exit("S3CRET")


@pytest.mark.parametrize("odd", [_cancel_itself, _stop_iterating, _exit, _give_up, _exit_async])
async def test_odd_ends_are_faults_of_the_function(odd: Callable[..., Any]) -> None:
    """What asyncio, threads or the interpreter treat apart costs an attempt, like any exception; nothing hangs."""

    def once(payload: object, context: Context) -> Any:
        return odd(payload) if context.attempt == 1 else None

    async def once_async(payload: object, context: Context) -> Any:
        return await odd(payload) if context.attempt == 1 else None

    assert (await failure(once_async if asyncio.iscoroutinefunction(odd) else once))["code"] == "WORKER_ERROR"


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("result", "told"),
    [
        pytest.param({"n": [float("nan")]}, "result.n[0]: is not a finite number", id="not a number"),
        pytest.param({"n": "\ud800"}, "result.n: has a lone surrogate", id="lone surrogate"),
        pytest.param({"n": object()}, "result.n: is not a JSON value but object", id="an object"),
        pytest.param({"n": 2**53 + 1}, "result.n: is an integer that a double can't hold", id="a large integer"),
        pytest.param({1: 2}, "result: has a key that is not a string", id="a number as key"),
        pytest.param([1], "result: must be a mapping", id="a list"),
        pytest.param(_deep(32), "32 levels", id="33 levels"),
        pytest.param(_deep(3000), "32 levels", id="3000 levels"),
        pytest.param({"n": "x" * (1024 * 1024)}, "result: has 1048", id="a mebibyte and more"),
        pytest.param({"n": "x" * (22 * 1024 * 1024)}, "result: has 2306", id="more than gRPC takes"),
    ],
)
async def test_a_result_that_cannot_be_kept_fails_its_task_alone(result: Any, told: str) -> None:
    """A result that is no JSON, too deep or too large fails its task for good; the worker works on."""
    results = [result, {}]

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, lambda _: results.pop(0)):
            detail = await ended(service, tenant, await service.submit(tenant))
            after = await ended(service, tenant, await service.submit(tenant))
    assert detail.error.startswith("RESULT_INVALID: result")
    assert told in detail.error
    assert after.status == tasks_pb2.TASK_STATUS_SUCCEEDED


@pytest.mark.parametrize("message", ["x" * (5 * 1024 * 1024), "\ud800 half a character"], ids=["huge", "surrogate"])
async def test_a_failure_that_cannot_be_sent_as_it_is_is_cut(message: str) -> None:
    """A failure's message is cut and cleaned until it can be sent; the task fails with the code that it named."""

    def refuse(_: object) -> None:
        raise TaskFailed("BROKEN", message)

    detail = await outcome(refuse)
    assert detail.error.startswith("BROKEN: ")
    assert len(detail.error) <= 8 + 2048
