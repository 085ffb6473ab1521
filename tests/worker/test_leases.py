"""Leases, as a worker keeps, loses and gives them up."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from support.service import PATIENCE, SETTINGS, Service, serving, until
from support.workers import ended, working

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.worker import Cancelled, Context

SHORT_LEASES = replace(SETTINGS, lease_duration=timedelta(seconds=1))


class Patient:
    """A function that runs until it is told to stop, async or plain."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.stopped = threading.Event()
        self.reasons: list[str] = []

    async def wait(self, _: object, context: Context) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self._told(context)

    def work(self, _: object, context: Context) -> None:
        self.started.set()
        while not context.cancelled:
            time.sleep(0.01)
        self._told(context)

    def _told(self, context: Context) -> None:
        with pytest.raises(Cancelled) as caught:
            context.check()
        self.reasons.append(str(caught.value))
        self.stopped.set()


def both(patient: Patient, plain: bool) -> Callable[..., Any]:
    return patient.work if plain else patient.wait


def reports(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which ends the server is told, as they come."""
    told: list[str] = []

    def spied(name: str) -> Callable[..., Any]:
        method = getattr(service.app.leases, name)

        async def spy(*args: Any, **options: Any) -> Any:
            told.append(name)
            return await method(*args, **options)

        return spy

    for name in ("complete", "fail", "stop"):
        monkeypatch.setattr(service.app.leases, name, spied(name))
    return told


async def test_heartbeats_keep_a_task_past_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that runs for several leases stays its worker's: one attempt, no event in between."""
    over, beats = asyncio.Event(), 0

    async def wait(_: object) -> None:
        await over.wait()

    async with serving(settings=SHORT_LEASES) as service:
        heartbeat = service.app.leases.heartbeat

        async def count(*args: Any) -> Any:
            nonlocal beats
            beats += 1
            if beats > 6:  # at a third of the lease each: two leases and more
                over.set()
            return await heartbeat(*args)

        monkeypatch.setattr(service.app.leases, "heartbeat", count)
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, wait):
            events = await service.events(tenant, await service.submit(tenant))
    assert [event.sequence for event in events] == [1, 2, 3]


async def test_heartbeats_go_by_the_tasks_own_timeout() -> None:
    """A task with a `heartbeat_timeout` of its own is heard of in time, though the server's leases are long."""
    over = asyncio.Event()

    async def wait(_: object) -> None:
        await over.wait()

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, wait):
            task_id = await service.submit(tenant, heartbeat_timeout=Duration(seconds=1))
            await until(lambda: bool(service.app.leases._held))
            (held,) = next(iter(service.app.leases._held.values()))
            heard_at = held.heard_at
            await until(lambda: held.heard_at > heard_at + 1)
            over.set()
            events = await service.events(tenant, task_id)
    assert [event.sequence for event in events] == [1, 2, 3]


@pytest.mark.parametrize("plain", [True, False])
async def test_a_lost_lease_stops_the_function(monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    """A worker that hears LEASE_LOST to a heartbeat stops the function, and reports nothing of it."""
    patient, store = Patient(), MemoryStore()
    async with serving(store, settings=SHORT_LEASES) as service:
        told = reports(service, monkeypatch)
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, both(patient, plain)):
            await service.submit(tenant)
            await until(patient.started.is_set)
            (key,) = store._tasks
            del store._tasks[key]  # as retention would
            service.app.leases._held.clear()
            await until(patient.stopped.is_set)
    assert patient.reasons == ["the lease is lost"]
    assert told == []


@pytest.mark.parametrize("plain", [True, False])
async def test_a_lease_that_cannot_be_kept_stops_the_function(plain: bool) -> None:
    """A worker that can't reach a server stops the function before the lease is over."""
    patient = Patient()
    async with serving(settings=SHORT_LEASES) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        context = working(service, operator, both(patient, plain))
        await context.__aenter__()
        await service.submit(tenant)
        await until(patient.started.is_set)
    await until(patient.stopped.is_set)
    await context.__aexit__(None, None, None)
    assert patient.reasons == ["the lease is lost"]


async def test_the_deadline_stops_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that has taken too long is stopped when it has, though its next heartbeat were due much later."""
    patient = Patient()
    hour = timedelta(hours=1)
    async with serving(settings=replace(SETTINGS, lease_duration=hour)) as service:
        told = reports(service, monkeypatch)
        tenant, operator = await service.workspace(), await service.operator("echo")
        seen: list[Context] = []

        async def wait(payload: object, context: Context) -> None:
            seen.append(context)
            if context.attempt == 1:
                await patient.wait(payload, context)

        async with working(service, operator, wait):
            task_id = await service.submit(tenant, start_to_close_timeout=Duration(seconds=1))
            detail = await ended(service, tenant, task_id)
            await until(patient.stopped.is_set)
            events = await service.events(tenant, task_id)
    assert detail.status == tasks_pb2.TASK_STATUS_SUCCEEDED
    assert events[2].context["code"] == "START_TO_CLOSE_TIMEOUT"
    assert seen[0].deadline is not None
    claimed = events[1].occurred_at.ToDatetime(seen[0].deadline.tzinfo)
    assert seen[0].deadline - claimed == timedelta(seconds=1)
    assert patient.reasons == ["the lease is lost"]
    assert told == ["complete"]


async def test_a_function_that_does_not_stop_does_not_disturb_what_comes_after() -> None:
    """A plain function that never asks keeps its thread; what it returns in the end is reported to nobody."""
    go, done = threading.Event(), threading.Event()
    store = MemoryStore()

    def deaf(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["n"] == 1:
            go.wait(PATIENCE)
            done.set()
        return payload

    async with serving(store, settings=SHORT_LEASES) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, deaf, concurrency=1):
            await service.submit(tenant, payload={"n": 1})
            await until(lambda: bool(service.app.leases._held))
            (key,) = store._tasks
            del store._tasks[key]
            (held,) = service.app.leases._held.pop(key)
            assert held.session is not None
            service.app.dispatcher.credit(held.session)
            # It waits for the only thread, with its lease kept.
            second = await service.submit(tenant, payload={"n": 2})
            await until(lambda: bool(service.app.leases._held))
            (held,) = next(iter(service.app.leases._held.values()))
            heard_at = held.heard_at
            await until(lambda: held.heard_at > heard_at + 1)
            go.set()
            detail = await ended(service, tenant, second)
    assert done.is_set()
    assert (detail.attempt, detail.result["n"]) == (1, 2)
