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
from support.engine import DistantStore
from support.service import PATIENCE, SETTINGS, Service, serving, until
from support.workers import ended, worker, working

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.worker import Cancelled, Context, WorkerStuck, conversation, threads

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
            (held,) = service.app.leases._held
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
            service.app.leases._held.keep(key, lambda _: False)
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


async def test_a_worker_that_gave_a_task_up_is_given_others(caplog: pytest.LogCaptureFixture) -> None:
    """What it could not keep while the database was away, for longer than a lease, it says: it may have room again."""
    store, patient = DistantStore(), Patient()

    async def wait(payload: object, context: Context) -> None:
        if context.attempt == 1:
            await patient.wait(payload, context)

    async with serving(store, settings=SHORT_LEASES) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, wait, concurrency=1):
            task_id = await service.submit(tenant)
            await until(patient.started.is_set)
            store.cut = "update_tasks"
            await until(patient.stopped.is_set)
            await until(lambda: bool(service.app.leases.silent()))
            store.cut = ""
            detail = await ended(service, tenant, task_id)
    assert (detail.status, detail.attempt) == (tasks_pb2.TASK_STATUS_SUCCEEDED, 2)
    assert "lease could not be kept" in caplog.text
    assert caplog.text.count("connection lost") == 0, "all that was said on the stream it had"


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


class Deaf:
    """A plain function that hangs, on the first task or on all, until it is let go."""

    def __init__(self, hangs: int = 1) -> None:
        self.hangs = hangs
        self.go = threading.Event()
        self.hung = 0
        self.done = 0

    def __call__(self, payload: dict[str, Any]) -> dict[str, Any]:
        if self.hung < self.hangs:
            self.hung += 1
            self.go.wait(PATIENCE)
            self.done += 1
        return payload


async def lose(service: Service, store: MemoryStore) -> None:
    """The lease on the only task is lost, and the task gone; its worker's stream gets the credit back."""
    await until(lambda: bool(service.app.leases._held))
    (key,) = (task.key for task in store._tasks.values() if not task.status.terminal)
    del store._tasks[key]
    service.app.leases._held.keep(key, lambda _: False)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function hangs after a short time."""
    monkeypatch.setattr(conversation, "HUNG_SECONDS", 0.5)
    monkeypatch.setattr(threads, "ROOM_SECONDS", 0.5)


async def test_a_function_that_does_not_stop_does_not_disturb_what_comes_after() -> None:
    """A plain function that ends late keeps its thread; what it returns in the end is reported to nobody."""
    deaf, store = Deaf(), MemoryStore()
    async with serving(store, settings=SHORT_LEASES) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, deaf, concurrency=1):
            await service.submit(tenant, payload={"n": 1})
            await until(lambda: deaf.hung == 1)
            await lose(service, store)
            # It waits for the only thread, with its lease kept.
            second = await service.submit(tenant, payload={"n": 2})
            await until(lambda: bool(service.app.leases._held))
            deaf.go.set()
            detail = await ended(service, tenant, second)
    assert deaf.done == 1
    assert (detail.attempt, detail.result["n"]) == (1, 2)


@pytest.mark.usefixtures("impatient")
async def test_a_function_that_hangs_takes_no_task_with_it(caplog: pytest.LogCaptureFixture) -> None:
    """One that found no thread is handed back, and run by another worker; the one that hangs is named in the log.

    The worker all of whose places are lost ends, and says why.
    """
    deaf, store = Deaf(), MemoryStore()
    async with serving(store, settings=SHORT_LEASES) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        hanging = asyncio.create_task(worker(service, operator, deaf, concurrency=1).serve())
        await service.submit(tenant, payload={"n": 1})
        await until(lambda: deaf.hung == 1)
        (lost,) = (task.id for task in store._tasks.values())
        await lose(service, store)
        second = await service.submit(tenant, payload={"n": 2})
        async with working(service, operator, deaf, concurrency=1):
            detail = await ended(service, tenant, second)
            events = await service.events(tenant, second)
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(WorkerStuck, match="1 functions do not end"):
                    await hanging
        deaf.go.set()
    assert detail.result["n"] == 2
    assert [event.context["code"] for event in events if "code" in event.context] in ([], ["WORKER_BUSY"])
    (named,) = (record for record in caplog.records if "does not end" in record.getMessage())
    assert (named.levelname, vars(named)["task_id"], vars(named)["task_type"]) == ("ERROR", lost, "echo")


@pytest.mark.usefixtures("impatient")
async def test_a_function_that_hangs_costs_its_own_place_only() -> None:
    """The server is told of less room, so it sends nothing in vain; and of all of it when the function has ended."""
    deaf, store = Deaf(), MemoryStore()
    async with serving(store, settings=SHORT_LEASES) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")

        def room() -> list[int]:
            return [stream._session.credits for stream in service.app.workers._streams if stream._session]

        async with working(service, operator, deaf, concurrency=3):
            await service.submit(tenant, payload={"n": 1})
            await until(lambda: deaf.hung == 1)
            await lose(service, store)
            await until(lambda: room() == [2])
            tasks = [await service.submit(tenant, payload={"n": n}) for n in range(5)]
            assert [(await ended(service, tenant, task)).attempt for task in tasks] == [1] * 5
            deaf.go.set()
            await until(lambda: room() == [3])
