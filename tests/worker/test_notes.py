"""What a function says while it runs: progress and lines, in order, and before its end."""

import asyncio
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from support.service import Service, serving, until
from support.workers import working

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Key, View
from openmcp_chain.worker import Context, TaskFailed, held


def said(events: list[tasks_pb2.TaskEvent], field: str) -> list[Any]:
    """What the events have under this name."""
    return [MessageToDict(event.context)[field] for event in events if field in event.context.fields]


def told(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The progress that the server is sent, as it comes."""
    fractions: list[float] = []
    heartbeat = service.app.leases.heartbeat

    async def note(principal: Any, ref: Any, progress: Any = None, line: str = "") -> Any:
        task = await heartbeat(principal, ref, progress, line)
        if progress is not None:
            fractions.append(progress.fraction)
        return task

    monkeypatch.setattr(service.app.leases, "heartbeat", note)
    return fractions


@pytest.mark.parametrize("plain", [True, False])
async def test_the_last_progress_and_every_line_come_before_the_end(plain: bool) -> None:
    """However fast a function talks, all its lines are there, in order; of its progress the newest, and little else."""

    def talk(_: object, context: Context) -> None:
        for number in range(100):
            context.progress(number / 100, f"at {number}")
            if number % 10 == 0:
                context.log(f"line {number}")

    async def talk_async(payload: object, context: Context) -> None:
        talk(payload, context)

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, talk if plain else talk_async):
            task_id = await service.submit(tenant)
            events = await service.events(tenant, task_id)
            detail = await service.get(tenant, task_id)
    assert said(events, "log") == [f"line {number}" for number in range(0, 100, 10)]
    assert said(events, "progress")[-1] == 0.99
    assert said(events, "message")[-1] == "at 99"
    assert len(said(events, "progress")) <= 2
    assert events[-1].status == tasks_pb2.TASK_STATUS_SUCCEEDED
    assert detail.progress.fraction == 0.99


async def test_progress_is_sent_while_the_function_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is sent at once; of those that come within a second, the newest, when the second is over."""
    over = asyncio.Event()

    async def work(_: object, context: Context) -> None:
        context.progress(0.1)
        await until(lambda: fractions == [0.1])
        for fraction in (0.2, 0.3, 0.4):
            context.progress(fraction)
            await asyncio.sleep(0)
        await over.wait()

    async with serving() as service:
        fractions = told(service, monkeypatch)
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, work):
            task_id = await service.submit(tenant)
            await until(lambda: len(fractions) == 2)
            detail = await service.get(tenant, task_id)
            over.set()
    assert fractions == [0.1, 0.4]
    assert (detail.status, detail.progress.fraction) == (tasks_pb2.TASK_STATUS_RUNNING, 0.4)


async def test_progress_is_brought_into_bounds() -> None:
    """A part below 0, above 1 or that is no number, and a message that is too long, are made fit to be sent."""

    def work(payload: dict[str, float], context: Context) -> None:
        context.progress({0: -1.0, 1: 2.0, 2: float("nan")}[int(payload["n"])], "\ud800" + "x" * 300)

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, work):
            for number, fraction in enumerate((0.0, 1.0, 0.0)):
                task_id = await service.submit(tenant, payload={"n": number})
                events = await service.events(tenant, task_id)
                assert said(events, "progress") == [fraction]
                assert said(events, "message") == ["?" + "x" * 255]


async def test_more_lines_than_a_task_keeps_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task keeps 200 lines, over all its attempts; the function may write more, of any length."""

    def work(_: object, context: Context) -> None:
        for number in range(150 if context.attempt == 1 else 1000):
            context.log(f"{context.attempt}.{number} \ud800" + "x" * 2000)
        if context.attempt == 1:
            raise TaskFailed("ONCE_MORE", "", retryable=True)

    async with serving() as service:
        monkeypatch.setattr(service.app.leases, "_chance", lambda: 0.0)
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, work):
            events = await service.events(tenant, await service.submit(tenant))
    lines = said(events, "log")
    assert [line.split()[0] for line in lines] == [f"1.{n}" for n in range(150)] + [f"2.{n}" for n in range(50)]
    assert {len(line) for line in lines} == {1024}
    assert events[-1].status == tasks_pb2.TASK_STATUS_SUCCEEDED


async def test_what_could_not_be_kept_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines, progress and result that the server can't carry out for the moment are said again, in order."""
    monkeypatch.setattr(held, "AGAIN_SECONDS", 0.01)
    notes = iter([errors.Unavailable(), None, errors.Aborted(), errors.Unavailable(), None, errors.Aborted(), None])
    ends = iter([errors.Unavailable(), errors.Aborted(), None])

    async with serving() as service:
        leases = service.app.leases
        heartbeat, complete = leases.heartbeat, leases.complete

        async def note(*arguments: Any) -> Any:
            if fault := next(notes):
                raise fault
            return await heartbeat(*arguments)

        async def end(*arguments: Any) -> None:
            if fault := next(ends):
                raise fault
            await complete(*arguments)

        monkeypatch.setattr(leases, "heartbeat", note)
        monkeypatch.setattr(leases, "complete", end)

        def work(_: object, context: Context) -> None:
            context.log("one")
            context.log("two")
            context.progress(0.5)

        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, work):
            events = await service.events(tenant, await service.submit(tenant))
    assert (said(events, "log"), said(events, "progress")) == (["one", "two"], [0.5])
    assert events[-1].status == tasks_pb2.TASK_STATUS_SUCCEEDED
    assert list(notes) == list(ends) == []


async def test_what_is_said_after_the_end_is_lost() -> None:
    """A thread that a function left behind may go on talking: nobody listens, and nothing breaks."""
    contexts: list[Context] = []

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, lambda _, context: contexts.append(context)):
            events = await service.events(tenant, await service.submit(tenant))
            contexts[0].progress(1.0)
            contexts[0].log("too late")
            again = await service.events(tenant, await service.submit(tenant))
        contexts[0].log("much too late")
        assert await service.events(tenant, events[0].task_id) == events
    assert [event.sequence for event in again] == [1, 2, 3]


async def test_lines_past_the_plans_rate_come_later_and_in_their_order() -> None:
    """While the function runs; its lease is kept meanwhile, and its end waits for nothing."""
    lines = [f"line {number}" for number in range(30)]  # more than the smallest plan's burst
    all_there = asyncio.Event()

    async def talk(_: object, context: Context) -> None:
        for line in lines:
            context.log(line)
        await all_there.wait()
        for line in lines:
            context.log(line)

    async with serving() as service:
        tenant = await service.workspace("free")
        async with working(service, tenant, talk):
            task_id = await service.submit(tenant)
            key = Key(tenant.workspace_id, task_id)

            async def logged() -> list[Any]:
                task = await service.app.ledger.get(key, View.HISTORY)
                return [event.context["log"] for event in task.events if "log" in event.context] if task else []

            while await logged() != lines:  # noqa: ASYNC110 - by the worker's own pauses
                await asyncio.sleep(0.05)
            all_there.set()
            events = await service.events(tenant, task_id)
    assert events[-1].status == tasks_pb2.TASK_STATUS_SUCCEEDED
    assert len(said(events, "log")) < 2 * len(lines)


async def test_an_end_that_was_refused_for_the_rate_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is worth an end; and an end that is not heard has its task run twice."""
    monkeypatch.setattr(held, "LIMITED_SECONDS", 0.05)
    async with serving() as service:
        refused = iter([False, False])
        monkeypatch.setattr(service.app.leases, "takes", lambda *_, **__: next(refused, True))
        tenant = await service.workspace()
        async with working(service, tenant, lambda _: {"n": 1}):
            task_id = await service.submit(tenant)
            events = await service.events(tenant, task_id)
    assert [event.status for event in events][1:] == [tasks_pb2.TASK_STATUS_RUNNING, tasks_pb2.TASK_STATUS_SUCCEEDED]
    assert next(refused, None) is None
