"""How much a worker may say on its stream: past it, reports wait, are left out or refused; ends never are."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from support.engine import DistantStore
from support.service import NOBODYS, Caller, Service, serving, until

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain.domain.workspace import Scope
from openmcp_chain.transport import intake, reports


async def test_a_stream_that_says_too_much_is_held_up() -> None:
    """Past its plan's rate it is read no faster; all that it says is answered, and another's stream goes on."""
    async with serving() as service:
        flood, other = service.work(await service.workspace("free")), service.work(await service.workspace("free"))
        await flood.hello()
        await other.hello()
        began = asyncio.get_running_loop().time()
        for _ in range(25):
            await flood.say(heartbeat=workers_pb2.Heartbeat(lease=NOBODYS))
        await other.heartbeat(NOBODYS)
        assert [(await flood.ack()).error_code for _ in range(25)] == ["LEASE_LOST"] * 25
        assert asyncio.get_running_loop().time() - began > 0.4  # five beyond the burst, at ten a second
        await flood.end()


async def exhaust(service: Service, caller: Caller) -> None:
    """Takes what the plan would allow the workspace's workers to say, for a long time."""
    principal = await service.app.identity.check(caller.token, Scope.WORKER)
    service.app.leases._pace._said.take(principal, 10_000)


async def test_past_the_rate_lines_are_refused_and_nothing_else_suffers() -> None:
    """Progress is left out, heartbeats keep their leases, and ends count: none of them waits."""
    async with serving() as service:
        tenant = await service.workspace("free")
        worker = service.work(tenant)
        await worker.hello(concurrency=2)
        ids = [await service.submit(tenant) for _ in range(2)]
        chatty, other = (await worker.task()).lease, (await worker.task()).lease
        for _ in range(100):
            await worker.say(log=workers_pb2.Log(lease=chatty, message="a line"))
        told = Counter([(await worker.ack()).error_code for _ in range(100)])
        assert told.keys() == {"", "RATE_LIMITED"}
        await exhaust(service, tenant)
        progress = tasks_pb2.TaskProgress(fraction=0.5)
        for lease in (chatty, other):
            await worker.say(heartbeat=workers_pb2.Heartbeat(lease=lease, progress=progress))
            assert not (await worker.ack()).error_code
            assert not (await worker.complete(lease)).error_code
        for task_id in ids:
            task = await service.get(tenant, task_id)
            assert task.status == tasks_pb2.TASK_STATUS_SUCCEEDED
            assert not task.HasField("progress")
        await worker.end()


@pytest.mark.parametrize(("silent", "told"), [(None, ""), (Duration(seconds=1), "RATE_LIMITED")])
async def test_past_the_rate_heartbeats_that_no_lease_needs_do_nothing(silent: Duration | None, told: str) -> None:
    """They are answered; under a lease so short that it may have needed them, refused. As is a stop unasked for."""
    store = DistantStore()
    async with serving(store) as service:
        tenant = await service.workspace("free")
        worker = service.work(tenant)
        await worker.hello()
        await service.submit(tenant, heartbeat_timeout=silent)
        lease = (await worker.task()).lease
        await exhaust(service, tenant)
        codes = [(await worker.heartbeat(lease)).error_code for _ in range(30)]
        assert codes[:2] == ["", ""]
        assert set(codes) == {"", told}
        store.calls.clear()
        for _ in range(30):
            await worker.say(stopped=workers_pb2.Stopped(lease=lease))
        stops = [(await worker.ack()).error_code for _ in range(30)]
        assert stops == ["RATE_LIMITED"] * 30
        assert not store.calls["get_tasks"]
        await worker.end()


@pytest.mark.parametrize(
    ("report", "kept"),
    [
        (workers_pb2.Log(message="x" * 100_000), workers_pb2.Log(message="x" * 1024)),
        (
            workers_pb2.Heartbeat(progress=tasks_pb2.TaskProgress(fraction=0.5, message="x" * 100_000)),
            workers_pb2.Heartbeat(progress=tasks_pb2.TaskProgress(fraction=0.5, message="x" * 256)),
        ),
        (
            workers_pb2.Fail(code="x" * 10_000, message="y" * 100_000, retryable=True, retry_delay=Duration(seconds=5)),
            workers_pb2.Fail(code="x" * 64, message="y" * 2048, retryable=True, retry_delay=Duration(seconds=5)),
        ),
        (
            workers_pb2.Heartbeat.FromString(b"\x7a\xff\x7f" + bytes(16383) + b"\x7a\x64" + bytes(100)),
            workers_pb2.Heartbeat(),
        ),
    ],
    ids=["log", "heartbeat", "fail", "unknown fields"],
)
def test_of_a_large_report_only_what_is_kept_waits(report: Any, kept: Any) -> None:
    """However much a worker says: what it says may wait for the database, with many others."""
    report.lease.CopyFrom(NOBODYS)
    kept.lease.CopyFrom(NOBODYS)
    assert reports.cut(report) == kept


async def test_a_stream_that_ends_leaves_no_reports_behind() -> None:
    """Those that wait for others of their task are let go of, as their worker will say them again: none would end."""
    store = DistantStore()
    async with serving(store) as service:
        tenant = await service.workspace()
        worker = service.work(tenant)
        await worker.hello()
        await service.submit(tenant)
        lease = (await worker.task()).lease
        store.gates["update_tasks"] = gate = asyncio.Event()
        for _ in range(200):
            await worker.say(log=workers_pb2.Log(lease=lease, message="a line"))
        (stream,) = service.app.workers._streams
        await until(lambda: len(stream._intake.under_way) == 200)
        assert stream._intake._allowance._taken > 200 * intake.REPORT_MEMORY
        worker.call.cancel()
        await until(lambda: not stream._intake.under_way)
        assert not stream._intake._allowance._taken
        gate.set()
