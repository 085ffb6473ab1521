"""A call's own life: cancelled inside, given up by its client, too slow, too many; and a server's."""

import asyncio
import gc
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.methods import METHODS, call
from support.service import PATIENCE, SETTINGS, Service, refused, serving, until

from openmcp.chain.v1 import rest_pb2, tasks_pb2
from openmcp_chain import app
from openmcp_chain.app import App, StartError
from openmcp_chain.domain import errors
from openmcp_chain.domain.workspace import State
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.transport import messages, reflection, rpc, server
from openmcp_chain.transport.health import LIVENESS

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def get(service: Service, metadata: Any, *, timeout: float | None = PATIENCE) -> Any:
    return service.tasks.GetTask(tasks_pb2.GetTaskRequest(task_id="x"), metadata=metadata, timeout=timeout)


async def test_call_that_is_cancelled_inside_is_aborted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that raises CancelledError of its own does not leave its client waiting: ABORTED, with a retry."""

    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    async with serving() as service:
        caller = await service.workspace()
        task_id = await service.submit(caller)
        monkeypatch.setattr(service.app.tasks, "get", cancelled)
        told = await refused(get(service, caller.metadata, timeout=None))
        assert (told.status, told.code) == (grpc.StatusCode.ABORTED, "ABORTED")
        assert "RetryInfo" in told.details
        monkeypatch.setattr(service.app.events, "history", cancelled)
        monkeypatch.setattr(service.app.events, "recent", lambda _: None)
        request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        told = await refused(service.tasks.StreamTaskEvents(request, metadata=caller.metadata))
        assert told.code == "ABORTED"


async def test_no_unary_call_takes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without a deadline is ended by the server's own: DEADLINE_EXCEEDED; a TimeoutError inside is not that."""
    monkeypatch.setattr(rpc, "UNARY_SECONDS", 0.05)

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async def timed_out(*_: object) -> None:
        raise TimeoutError

    async with serving() as service:
        caller = await service.workspace()
        monkeypatch.setattr(service.app.tasks, "get", never)
        assert (await refused(get(service, caller.metadata, timeout=None))).code == "DEADLINE_EXCEEDED"
        monkeypatch.setattr(service.app.tasks, "get", timed_out)
        assert (await refused(get(service, caller.metadata, timeout=None))).code == "INTERNAL"


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
async def test_call_given_up_by_its_client_leaves_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its client goes, or its deadline passes, a method is cancelled, and counted no more."""
    began, gone = asyncio.Event(), asyncio.Event()

    async def never(*_: object) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    async with serving() as service:
        caller = await service.workspace()
        monkeypatch.setattr(service.app.tasks, "get", never)
        call = get(service, caller.metadata, timeout=0.1 if how == "deadline" else None)
        waiting = asyncio.ensure_future(call)
        await began.wait()
        if how == "cancelled":
            call.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(PATIENCE):
            await gone.wait()
        assert (await refused(service.tasks.GetTask(tasks_pb2.GetTaskRequest(), metadata=caller.metadata))).fields


@contextmanager
def collecting() -> Iterator[list[str]]:
    """What of ours only the garbage collector frees, of all that the block leaves: known when it has ended."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        for thing in gc.garbage:
            if isinstance(thing, FrameType) and "openmcp_chain" in thing.f_code.co_filename:
                found.append(thing.f_code.co_qualname)
            elif isinstance(thing, errors.Error | grpc.aio.AbortError | rpc.Call):
                found.append(type(thing).__name__)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_refused_calls_wait_for_no_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a call is refused for, it and its request are gone when it has ended: nothing of it is in a circle."""
    began = asyncio.Event()

    async def never(*_: object) -> None:
        began.set()
        await asyncio.Event().wait()

    async def broken(*_: object) -> None:
        raise ValueError

    async def away(*_: object) -> None:
        raise errors.Unavailable

    with collecting() as found:
        async with serving() as service:
            caller = await service.workspace()
            for path in (*METHODS, "/nobody.Home/Ring"):
                await call(service, path, b"")
                await call(service, path, b"\xff" * 100, caller.metadata)
                await call(service, path, b"\x0a\x80\x80\x80\x02" + b"x" * messages.REQUEST_BYTES, caller.metadata)
            missing = tasks_pb2.GetTaskRequest(task_id="019a0000-0000-7000-8000-000000000000")
            for fault in (None, away):
                if fault:
                    monkeypatch.setattr(service.app._store, "get_tasks", fault)
                    monkeypatch.setattr(service.app._store, "histories", fault)
                await refused(service.tasks.GetTask(missing, metadata=caller.metadata))
                events = tasks_pb2.StreamTaskEventsRequest(task_id=missing.task_id)
                await refused(service.tasks.StreamTaskEvents(events, metadata=caller.metadata))
            monkeypatch.setattr(rpc.log, "disabled", True)  # the test's own log keeps exceptions
            monkeypatch.setattr(service.app.tasks, "get", broken)
            await refused(get(service, caller.metadata))
            monkeypatch.setattr(service.app.tasks, "get", never)
            given_up = asyncio.ensure_future(get(service, caller.metadata))
            await began.wait()
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
            monkeypatch.setattr(rpc, "UNARY_SECONDS", 0.05)
            await refused(get(service, caller.metadata))
    assert not found


async def test_answered_calls_wait_for_no_garbage_collector() -> None:
    """What a call has sent is gone when it is answered: ten requests of 2 MB leave less than one of them behind."""
    size = 2 * 1024 * 1024
    path = "/openmcp.chain.v1.RestService/ServeJsonWebKeySet"
    data = b"\x7a\x80\x80\x80\x01" + bytes(size)  # a field that the message has not
    async with serving() as service:
        await call(service, path, data)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(10):
                assert await call(service, path, data) is None
            # Of the last one something may be there for a moment, when its answer has come already.
            await until(lambda: tracemalloc.get_traced_memory()[0] < size)
        finally:
            tracemalloc.stop()
            gc.enable()


async def test_streams_given_up_by_their_clients_leave_nothing() -> None:
    """After 200 event and worker streams were cancelled at random moments: no subscription, no session, no stream."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await service.submit(caller, "other")
        typed = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        sse = rest_pb2.ServeTaskEventsRequest(task_id=task_id)
        for round_ in range(5):
            calls: list[Any] = []
            for number in range(40):
                if number % 3 == 0:
                    calls.append(service.tasks.StreamTaskEvents(typed, metadata=caller.metadata))
                elif number % 3 == 1:
                    calls.append(service.rest.ServeTaskEvents(sse, metadata=caller.metadata))
                else:
                    worker = service.work(caller)
                    await worker.hello()
                    calls.append(worker.call)
            for _ in range(round_):
                await asyncio.sleep(0.002)
            for call in calls:
                call.cancel()
        await until(lambda: service.app.events.open == 0)
        await until(lambda: not service.app.workers._streams)
        assert not service.app.events._followers
        assert not service.app.dispatcher.demands()
        assert not service.app.dispatcher._idle
        await service.get(caller, task_id)


async def test_too_many_calls_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit a call is refused at once, OVERLOADED with a retry; when others have ended it is served."""
    monkeypatch.setattr(rpc, "CALLS", 2)
    gate, began = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(*_: object) -> None:
        began.release()
        await gate.wait()
        raise errors.TaskNotFound("x")

    async with serving() as service:
        caller = await service.workspace()
        monkeypatch.setattr(service.app.tasks, "get", wait)
        first = [asyncio.ensure_future(refused(get(service, caller.metadata))) for _ in range(2)]
        for _ in first:
            await began.acquire()
        told = await refused(get(service, caller.metadata))
        assert (told.status, told.code) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
        assert "RetryInfo" in told.details
        gate.set()
        assert {refusal.code for refusal in await asyncio.gather(*first)} == {"TASK_NOT_FOUND"}
        assert (await refused(get(service, caller.metadata))).code == "TASK_NOT_FOUND"


async def test_a_server_goes_on_serving_until_it_is_left_alone() -> None:
    """A shutdown is told by health first; calls that still come are answered, and it ends soon after the last."""
    async with serving(settings=replace(SETTINGS, lame_duck=30.0)) as service:
        caller = await service.workspace()
        health = health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        await service.submit(caller)
        stopping = asyncio.create_task(service.app.stop())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await health.read() is grpc.aio.EOF
        for _ in range(20):
            await service.submit(caller)
            assert not stopping.done()
        await asyncio.wait_for(stopping, PATIENCE)


async def test_second_server_on_a_port_is_refused() -> None:
    """Two servers never share a port in silence: the second can't start."""
    async with serving() as service:
        second = App(replace(SETTINGS, listen=f"127.0.0.1:{service.port}"), MemoryStore())
        with pytest.raises(StartError, match=str(service.port)):
            await second.start()
        await second.stop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        third = App(replace(SETTINGS, listen=f"127.0.0.1:{listener.getsockname()[1]}"), MemoryStore())
        with pytest.raises(StartError, match="cannot listen"):
            await third.start()
        await third.stop()


async def test_a_server_does_not_wait_for_an_administrators_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves, since the deletion is its own work too; when that is done, it makes the first one with its secret."""
    monkeypatch.setattr(app, "ADMIT_SECONDS", 0.01)
    old, new = (f"omcp_{number:08x}_{'s' * 43}" for number in range(2))
    store = MemoryStore()
    async with serving(store, settings=replace(SETTINGS, admin_secret=old)):
        leaving = await store.get_workspace("admin")
        assert leaving is not None
    leaving = replace(leaving, state=State.DELETING, version=2)
    assert await store.put_workspace(leaving)
    async with serving(store, settings=replace(SETTINGS, admin_secret=new)) as service:
        await service.workspace()
        assert await store.get_workspace("admin") == leaving
        assert await store.delete_workspace(leaving)
        await until(lambda: "admin" in store._workspaces)
        assert [one.id for one in store._workspaces["admin"].secrets] == ["00000001"]


async def test_health_follows_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health is NOT_SERVING while the database is away, for the server and each service, and recovers by itself."""
    monkeypatch.setattr(server, "HEALTH_SECONDS", 0.01)
    away = False

    async def ping() -> None:
        if away:
            raise errors.Unavailable

    async with serving() as service:
        monkeypatch.setattr(service.app._store, "ping", ping)
        stub = health_pb2_grpc.HealthStub(service.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="openmcp.chain.v1.TaskService"))
        assert (await watch.read()).status == SERVING
        away = True
        assert (await watch.read()).status == NOT_SERVING
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        listed = await stub.List(health_pb2.HealthListRequest())
        alive = {name for name, answer in listed.statuses.items() if answer.status == SERVING}
        assert alive == {LIVENESS}, "what asks whether the process lives must not restart it for its database"
        away = False
        assert (await watch.read()).status == SERVING
        watch.cancel()
        told = await refused(stub.Check(health_pb2.HealthCheckRequest(service="nobody")))
        assert told.code == "SERVICE_UNKNOWN"


async def test_reflection_names_every_service() -> None:
    """Reflection lists what is served, and gives the contract's files."""
    async with serving() as service:
        stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
        request = reflection_pb2.ServerReflectionRequest
        call = stub.ServerReflectionInfo(
            iter([request(list_services=""), request(file_containing_symbol="openmcp.chain.v1.TaskService"), request()])
        )
        answers = [answer async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"openmcp.chain.v1.TaskService", "openmcp.chain.v1.WorkerService", "grpc.health.v1.Health"} <= names
    assert answers[1].file_descriptor_response.file_descriptor_proto
    assert answers[2].HasField("error_response")


async def test_reflection_is_asked_little_by_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked is part of its answer, and waits with it for who may never read it."""
    monkeypatch.setattr(reflection, "STREAMS", 2)
    monkeypatch.setattr(reflection, "OWN_STREAMS", 1)
    monkeypatch.setattr(reflection, "QUESTIONS", 3)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    long = reflection_pb2.ServerReflectionRequest(file_containing_symbol="x" * reflection.QUESTION_BYTES)
    async with serving() as service:
        ask: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel).ServerReflectionInfo
        one, other, third = [(await service.workspace()).metadata for _ in range(3)]
        first = ask(metadata=one)
        await first.write(question)
        await first.read()
        assert (await refused(ask(iter([question]), metadata=one))).code == "OVERLOADED"
        second = ask(metadata=other)
        await second.write(question)
        await second.read()
        assert (await refused(ask(iter([question]), metadata=third))).code == "OVERLOADED"
        await first.write(long)
        assert (await refused(first)).code == "REQUEST_TOO_LARGE"
        assert [answer.HasField("list_services_response") async for answer in ask(iter([question] * 3))] == [True] * 3
        for _ in range(2):
            await second.write(question)
            await second.read()
        await second.write(question)
        assert (await refused(second)).code == "RATE_LIMITED"


async def test_idle_streams_do_not_hold_up_a_shutdown() -> None:
    """Watches of any service, known or not, and reflection that is asked nothing more end with the server: cleanly."""
    unknown = health_pb2.HealthCheckRequest(service="nobody")
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    async with serving(settings=replace(SETTINGS, drain=10 * PATIENCE)) as service:
        health = health_pb2_grpc.HealthStub(service.channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()), health.Watch(unknown)]
        assert [(await watch.read()).status for watch in watches] == [SERVING, SERVICE_UNKNOWN]
        asked: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel).ServerReflectionInfo()
        await asked.write(question)
        await asked.read()
        async with asyncio.timeout(PATIENCE):
            await service.app.stop()
        assert (await watches[0].read()).status == NOT_SERVING
        for stream in (*watches, asked):
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK


async def test_a_watch_has_its_news_of_a_server_that_is_ending() -> None:
    """A watch that begins when health has said NOT_SERVING for good is told so too, and ends."""
    async with serving() as service:
        await service.app.server.announce_shutdown()
        watch = health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest())
        assert [answer.status async for answer in watch] == [NOT_SERVING]


async def test_draining_ends_streams_with_what_is_known_and_answers_what_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On shutdown: health says so, event streams end SERVER_DRAINING, a unary call under way is answered."""
    began, gate = asyncio.Event(), asyncio.Event()
    async with serving() as service:
        caller = await service.workspace()
        task_id = await service.submit(caller, "other")
        events = service.tasks.StreamTaskEvents(
            tasks_pb2.StreamTaskEventsRequest(task_id=task_id), metadata=caller.metadata
        )
        sse = service.rest.ServeTaskEvents(rest_pb2.ServeTaskEventsRequest(task_id=task_id), metadata=caller.metadata)
        worker = service.work(caller)
        await worker.hello()
        await events.read()
        await sse.read()
        watch = health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        original = service.app.tasks.get

        async def slow(*arguments: Any) -> Any:
            began.set()
            await gate.wait()
            return await original(*arguments)

        monkeypatch.setattr(service.app.tasks, "get", slow)
        call = asyncio.ensure_future(service.get(caller, task_id))
        await began.wait()
        stopping = asyncio.create_task(service.app.stop())
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
        told = await refused(events)
        assert (told.status, told.code) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
        assert (await refused(sse)).code == "SERVER_DRAINING"
        await worker.next("drain")
        await worker.end()
        gate.set()
        assert (await call).task_id == task_id
        async with asyncio.timeout(PATIENCE):
            await stopping
