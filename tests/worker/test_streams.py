"""A worker's streams: cut, refused, drained, refreshed, and ended."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import self_signed
from support.proxy import running_proxy
from support.rogue import running_rogue
from support.service import PATIENCE, SETTINGS, Caller, ManualClock, Service, serving, until
from support.workers import ended, worker, working

from openmcp.chain.v1 import auth_pb2, tasks_pb2
from openmcp_chain.client.connection import Credentials, Server
from openmcp_chain.domain.workspace import Scope
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.worker import TaskFailed, Worker, WorkerRefused, connection, conversation
from openmcp_chain.worker.connection import Connection

SUCCEEDED = tasks_pb2.TASK_STATUS_SUCCEEDED
PENDING = tasks_pb2.TASK_STATUS_PENDING


class Gate:
    """An async function that says when it has started, and ends when it is let."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.open = asyncio.Event()
        self.interrupted = False

    async def __call__(self, payload: dict[str, Any]) -> dict[str, Any]:
        self.started.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.interrupted = True
            raise
        return payload


@asynccontextmanager
async def again(store: MemoryStore, service: Service) -> AsyncIterator[Service]:
    """The server's successor on the same port."""
    async with serving(store, settings=replace(SETTINGS, listen=f"127.0.0.1:{service.port}")) as successor:
        yield successor


def sessions(service: Service) -> list[object]:
    """Those that hold a lease."""
    return [held.session for held in service.app.leases._held if held.session is not None]


async def test_goes_on_after_the_server_restarted() -> None:
    """A task that outlives its server is reported to the next one on that port, under the same lease, once."""
    gate, store = Gate(), MemoryStore()
    async with serving(store) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        context = working(service, operator, gate)
        await context.__aenter__()
        task_id = await service.submit(tenant, payload={"n": 1})
        await gate.started.wait()
    # Nobody serves now: the task ends, and its report has nowhere to go.
    gate.open.set()
    async with again(store, service) as successor:
        detail = await ended(successor, tenant, task_id)
        after = await ended(successor, tenant, await successor.submit(tenant))
        await context.__aexit__(None, None, None)
        events = await successor.events(tenant, task_id)
    assert (detail.status, detail.result["n"]) == (SUCCEEDED, 1)
    assert [event.sequence for event in events] == [1, 2, 3]
    assert after.status == SUCCEEDED


async def test_a_report_whose_answer_is_lost_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    """After a cut between report and answer, the report is repeated, accepted as the same, and counts once."""
    caplog.set_level(logging.INFO)
    async with serving() as service, running_proxy(service.port) as proxy:
        tenant, operator = await service.workspace(), await service.operator("echo")
        there = worker(service, operator, lambda _: {"mark": "M-A-R-K"}, port=proxy.port)
        proxy.lose_reply_to(b"M-A-R-K")
        running = asyncio.create_task(there.serve())
        task_id = await service.submit(tenant)
        events = await service.events(tenant, task_id)
        await until(lambda: proxy.lost == 1)
        assert (await ended(service, tenant, await service.submit(tenant))).status == SUCCEEDED
        there.stop()
        async with asyncio.timeout(PATIENCE):
            await running
    assert [event.sequence for event in events] == [1, 2, 3]
    assert "report refused" not in caplog.text


async def test_a_task_that_came_before_an_answer_counts_when_the_worker_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker may hold a task more than it takes at a time while an answer is missing; then too it is taken on."""
    second, gate = asyncio.Event(), asyncio.Event()

    async def work(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["n"] == 2:
            second.set()
            await gate.wait()
        return payload

    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        complete = service.app.leases.complete

        async def cut(*arguments: Any) -> None:
            monkeypatch.undo()
            await complete(*arguments)
            await second.wait()
            raise ValueError("the stream ends before the answer")

        monkeypatch.setattr(service.app.leases, "complete", cut)
        async with working(service, operator, work, concurrency=1):
            await until(lambda: bool(service.app.workers._streams))
            cut_streams = set(service.app.workers._streams)
            tasks = [await service.submit(tenant, payload={"n": n}) for n in (1, 2)]
            await second.wait()
            await until(lambda: service.app.workers._streams not in (set(), cut_streams))
            await until(lambda: len(sessions(service)) == 1)
            gate.set()
            details = [await ended(service, tenant, task_id) for task_id in tasks]
    assert [(detail.status, detail.attempt) for detail in details] == [(SUCCEEDED, 1)] * 2


async def test_a_server_that_drains_is_left_for_another() -> None:
    """On the server's word the worker ends the stream and opens a new one; what it holds goes on."""
    gate, store = Gate(), MemoryStore()
    async with serving(store) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, gate):
            task_id = await service.submit(tenant)
            await gate.started.wait()
            (stream,) = service.app.workers._streams
            stream.drain()
            await until(lambda: service.app.workers._streams not in (set(), {stream}) and bool(sessions(service)))
            gate.open.set()
            detail = await ended(service, tenant, task_id)
    assert (detail.status, detail.attempt, gate.interrupted) == (SUCCEEDED, 1, False)


async def test_the_token_is_refreshed_on_the_stream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream outlives the token that it was opened with: a new one is sent in time, and nothing is cut."""
    for name in ("USED", "LEAST_SECONDS"):
        monkeypatch.setattr(connection, name, 0.0)
    monkeypatch.setattr(connection, "FRESH_SECONDS", 10.0**9)  # a new one each second
    clock = ManualClock()
    async with serving(now=clock) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        check, refreshed = service.app.identity.check, asyncio.Event()

        async def note(token: str, scope: Scope) -> Any:
            principal = await check(token, scope)
            if scope is Scope.WORKER:
                refreshed.set()
            return principal

        async with working(service, operator, lambda payload: payload):
            await until(lambda: bool(service.app.workers._streams))
            streams = set(service.app.workers._streams)
            monkeypatch.setattr(service.app.identity, "check", note)
            clock.advance(10 * 60)
            refreshed.clear()
            await refreshed.wait()
            clock.advance(10 * 60)  # the first token's time is over
            await service.app.bearers.run_once()
            tenant = replace(tenant, token=await _token(service, tenant))
            detail = await ended(service, tenant, await service.submit(tenant))
            assert service.app.workers._streams == streams
    assert detail.status == SUCCEEDED
    assert "connection lost" not in caplog.text


async def _token(service: Service, caller: Caller) -> str:
    request = auth_pb2.AuthRequest(workspace_id=caller.workspace_id, workspace_secret=caller.secret)
    return (await service.auth.Authenticate(request, timeout=PATIENCE)).token


async def test_a_worker_asks_for_no_more_than_it_needs() -> None:
    """A tenant's worker could submit and read tasks with its secret; with the token that it works with it can't."""
    async with serving() as service:
        tenant = await service.workspace()
        async with working(service, tenant, Gate()):
            await until(lambda: bool(service.app.workers._streams))
            (stream,) = service.app.workers._streams
            assert stream._bearer.principal.scopes == {Scope.WORKER}


async def test_stop_ends_what_runs_and_takes_nothing_new() -> None:
    """After `stop`, the task at hand is finished and reported, and `serve` returns; the next is left in the queue."""
    gate = Gate()
    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, gate, concurrency=1) as there:
            first = await service.submit(tenant)
            await gate.started.wait()
            there.stop()
            await until(lambda: not service.app.dispatcher.demands())
            second = await service.submit(tenant)
            gate.open.set()
        assert (await service.get(tenant, first)).status == SUCCEEDED
        assert (await service.get(tenant, second)).status == PENDING


async def test_a_worker_that_stops_while_the_server_is_away_takes_nothing_when_it_is_back() -> None:
    """It comes back to report what it holds, and is given no new task."""
    gate, store = Gate(), MemoryStore()
    async with serving(store) as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        context = working(service, operator, gate, concurrency=2)
        there = await context.__aenter__()
        first = await service.submit(tenant)
        await gate.started.wait()
    there.stop()
    async with again(store, service) as successor:
        second = await successor.submit(tenant)
        await until(lambda: bool(sessions(successor)))
        gate.open.set()
        await ended(successor, tenant, first)
        await context.__aexit__(None, None, None)
        assert (await successor.get(tenant, second)).status == PENDING


@pytest.mark.parametrize("hurried", [True, False])
async def test_tasks_that_do_not_end_in_time_are_handed_back(hurried: bool) -> None:
    """When the drain is over, or `stop` is called again, what runs is stopped; and another worker tries it at once."""
    gate = Gate()
    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        async with working(service, operator, gate, drain=PATIENCE * 10 if hurried else 0.05) as there:
            task_id = await service.submit(tenant)
            await gate.started.wait()
            if hurried:
                there.stop()
        assert gate.interrupted
        async with working(service, operator, lambda payload: payload):
            events = await service.events(tenant, task_id)
    assert events[2].context["code"] == "WORKER_STOPPED"
    assert events[-1].status == SUCCEEDED


async def test_a_task_may_still_end_when_it_is_stopped() -> None:
    """What a function returns, or how it fails, as it is stopped at the drain's end is reported as it is."""
    started = asyncio.Event()

    async def tidy(payload: dict[str, Any]) -> dict[str, Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if "fail" in payload:
                raise TaskFailed("HALF_DONE", "") from None
            return {"n": 1}
        return {}

    for payload, status in (({}, SUCCEEDED), ({"fail": True}, tasks_pb2.TASK_STATUS_FAILED)):
        started.clear()
        async with serving() as service:
            tenant, operator = await service.workspace(), await service.operator("echo")
            async with working(service, operator, tidy, drain=0.0):
                task_id = await service.submit(tenant, payload=payload)
                await started.wait()
            assert (await service.get(tenant, task_id)).status == status


async def test_a_worker_that_the_server_will_not_have_ends() -> None:
    """What no repetition mends, here a type that the operator may not take, is raised rather than tried for ever."""
    async with serving() as service:
        there = worker(service, await service.operator("other"), lambda payload: payload)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(WorkerRefused, match="does not cover"):
                await there.serve()


async def test_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the right authority the server is signed in to; with gRPC's own list, no secret is sent to it."""
    chain, key = self_signed()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(chain)
    async with running_rogue(grpc.ssl_server_credentials([(key, chain)])) as rogue:
        for options, status in ({"secure": True}, "UNAVAILABLE"), ({"ca": ca}, "UNIMPLEMENTED"):
            caplog.clear()
            there = Worker(rogue.target, workspace_id="ws-1", workspace_secret="S3CRET", **options)
            there.task("echo")(lambda payload: payload)
            running = asyncio.create_task(there.serve())
            await until(lambda: bool(caplog.records))
            there.stop()
            await running
            assert caplog.records[0].getMessage() == f"connection lost: {status}"
            assert rogue.sign_ins == (1 if "ca" in options else 0)


async def test_a_refused_sign_in_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A worker whose secret is refused keeps trying, tells of no secret, and leaves nothing running when stopped."""
    async with serving() as service:
        operator = await service.operator("echo")
        there = worker(service, replace(operator, secret="omcp_S3CRET"), lambda payload: payload)
        running = asyncio.create_task(there.serve())
        await until(lambda: [r.getMessage() for r in caplog.records].count("connection lost: UNAUTHENTICATED") >= 2)
        there.stop()
        async with asyncio.timeout(PATIENCE):
            await running
        left = {task for task in asyncio.all_tasks() if "openmcp_chain/worker" in repr(task.get_coro())}
    assert not left
    assert "S3CRET" not in caplog.text
    assert "S3CRET" not in repr(vars(there))


async def test_a_worker_whose_credentials_are_refused_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries, with a message that names the settings, and no secret."""
    monkeypatch.setattr(conversation, "REFUSED_SECONDS", 0.5)
    async with serving() as service:
        operator = await service.operator("echo")
        there = worker(service, replace(operator, secret="omcp_S3CRET"), lambda payload: payload)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(WorkerRefused, match="OPENMCP_WORKSPACE_ID, OPENMCP_WORKSPACE_SECRET") as refused:
                await there.serve()
    assert "S3CRET" not in str(refused.value)


async def test_a_short_lived_token_is_used_for_most_of_its_life() -> None:
    """Not replaced all the time, as one that is always about to expire would be, nor by a clock that is fast."""
    for life in (timedelta(seconds=100), timedelta(seconds=-3600)):
        async with running_rogue() as rogue:
            rogue.life = life
            there = Connection(Server(rogue.target), Credentials("ws-1", "secret", ("worker",)))
            for _ in range(3):
                await there.token()
            waiting = asyncio.create_task(there.until_stale())
            done, _ = await asyncio.wait({waiting}, timeout=1.5)
            waiting.cancel()
            await there.close()
            assert (rogue.sign_ins, done) == (1, set())


async def test_a_worker_can_be_stopped_before_it_has_found_a_server() -> None:
    """`serve` returns at once if there is no server and nothing to report; also if it was stopped before it began."""
    nowhere = Worker("127.0.0.1:1", workspace_id="x", workspace_secret="x")
    nowhere.task("echo")(lambda payload: payload)
    nowhere.stop()
    async with asyncio.timeout(PATIENCE):
        await nowhere.serve()


async def test_serving_may_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """Who embeds a worker may cancel `serve`: the functions are cancelled too, and nothing is left or logged."""
    gate = Gate()
    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        running = asyncio.create_task(worker(service, operator, gate).serve())
        await service.submit(tenant)
        await gate.started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert gate.interrupted
    assert "gave itself up" not in caplog.text
