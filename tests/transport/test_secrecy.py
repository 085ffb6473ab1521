"""An exception's text goes nowhere: not to the client, not to the log, not to the trace, wherever it was raised."""

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.service import NOBODYS, PATIENCE, Caller, Refusal, Service, refused, serving, until

from openmcp.chain.v1 import auth_pb2, rest_pb2, tasks_pb2, workspaces_pb2
from openmcp_chain import logs
from openmcp_chain.transport import codec

LIST = workspaces_pb2.ListWorkspacesRequest()
SECRET = "mongodb://user:S3CRET@db"


class Poison(Exception):
    """Has the secret in its text, its arguments and its cause."""

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.__cause__ = ValueError(SECRET)


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What this process logs during the test, by its own formatter: one object for each line."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    root = logging.getLogger()
    level, others = root.level, root.handlers
    root.handlers = [handler]
    root.setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers = others
    root.setLevel(level)


Lines = Callable[[], list[dict[str, Any]]]


def nothing_told(told: Refusal, lines: Lines, *, code: str = "INTERNAL") -> None:
    """The client knows only that it was our fault; the log says where it was, and neither says more."""
    assert told.code == code
    assert "S3CRET" not in told.text
    assert "Poison" not in told.text
    logged = json.dumps(lines())
    assert "S3CRET" not in logged
    assert any("Poison" in json.dumps(line.get("exception", "")) for line in lines()), "the log must say where it was"


def poison(*_: object, **__: object) -> Any:
    raise Poison


async def poison_soon(*_: object, **__: object) -> Any:
    raise Poison


UNARY: dict[str, Callable[[Service, Caller], Any]] = {
    "SubmitTask": lambda service, caller: service.tasks.SubmitTask(
        tasks_pb2.SubmitTaskRequest(type="echo"), metadata=caller.metadata, timeout=PATIENCE
    ),
    "GetTask": lambda service, caller: service.tasks.GetTask(
        tasks_pb2.GetTaskRequest(task_id="x"), metadata=caller.metadata, timeout=PATIENCE
    ),
    "Authenticate": lambda service, caller: service.auth.Authenticate(
        auth_pb2.AuthRequest(workspace_id=caller.workspace_id, workspace_secret=caller.secret), timeout=PATIENCE
    ),
    "ServeJsonWebKeySet": lambda service, _: service.rest.ServeJsonWebKeySet(
        rest_pb2.ServeJsonWebKeySetRequest(), timeout=PATIENCE
    ),
}
BEHIND = {
    "SubmitTask": "submission.submit",
    "GetTask": "tasks.get",
    "Authenticate": "identity.authenticate",
    "ServeJsonWebKeySet": "keys.key_set",
}


def break_part(monkeypatch: pytest.MonkeyPatch, service: Service, path: str, by: Callable[..., Any]) -> None:
    part, _, name = path.partition(".")
    monkeypatch.setattr(getattr(service.app, part), name, by)


@pytest.mark.parametrize("method", sorted(UNARY))
async def test_in_a_method(method: str, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """Raised behind a unary method."""
    async with serving() as service:
        caller = await service.workspace()
        break_part(monkeypatch, service, BEHIND[method], poison_soon)
        nothing_told(await refused(UNARY[method](service, caller)), lines)


async def test_in_authorisation(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """Raised while the token is looked at, for a unary call and for each kind of stream."""
    async with serving() as service:
        caller = await service.workspace()
        break_part(monkeypatch, service, "identity.check", poison_soon)
        nothing_told(await refused(UNARY["GetTask"](service, caller)), lines)
        request = tasks_pb2.StreamTaskEventsRequest(task_id="x")
        nothing_told(await refused(service.tasks.StreamTaskEvents(request, metadata=caller.metadata)), lines)
        nothing_told(await refused(service.workers.Work(metadata=caller.metadata)), lines)


async def test_in_decoding(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """Raised while a request is decoded."""
    from openmcp_chain.transport import wire  # noqa: PLC0415 - only this test breaks it

    async with serving() as service:
        caller = await service.workspace()
        monkeypatch.setattr(wire, "blame", poison)
        get = service.raw.unary_unary("/openmcp.chain.v1.TaskService/GetTask")
        nothing_told(await refused(get(b"\xff\xff", metadata=caller.metadata, timeout=PATIENCE)), lines)
        work = service.raw.stream_stream("/openmcp.chain.v1.WorkerService/Work")(metadata=caller.metadata)
        await work.write(b"\xff\xff")
        nothing_told(await refused(work), lines)


class Unencodable(Message):
    """Answers with its text when it is encoded."""

    __slots__ = ()

    def SerializeToString(self, **_: object) -> bytes:  # noqa: N802 - protobuf's name
        raise Poison


async def test_in_encoding(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """Raised while an answer is encoded, of a unary call and in the middle of a stream."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await service.submit(caller)
        monkeypatch.setattr(codec, "summary", lambda _: Unencodable())
        nothing_told(await refused(UNARY["SubmitTask"](service, caller)), lines)
        monkeypatch.setattr(codec, "event", lambda *_: Unencodable())
        request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        nothing_told(await refused(service.tasks.StreamTaskEvents(request, metadata=caller.metadata)), lines)
        await until(lambda: service.app.events.open == 0)


@pytest.mark.parametrize("stream", ["typed", "sse"])
async def test_in_the_middle_of_a_stream(stream: str, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """Raised after a stream's first message."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await service.submit(caller)
        service.app.events.poll = 0.01
        call: Any = (
            service.tasks.StreamTaskEvents(tasks_pb2.StreamTaskEventsRequest(task_id=task_id), metadata=caller.metadata)
            if stream == "typed"
            else service.rest.ServeTaskEvents(
                rest_pb2.ServeTaskEventsRequest(task_id=task_id), metadata=caller.metadata
            )
        )
        await call.read()
        break_part(monkeypatch, service, "events.is_as_of", poison_soon)
        nothing_told(await refused(call), lines)
        await until(lambda: service.app.events.open == 0)


@pytest.mark.parametrize("part", ["leases.heartbeat", "dispatcher.join"])
async def test_in_a_workers_stream(part: str, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """Raised while a worker's message is taken, and while a report is carried out beside the stream."""
    async with serving() as service:
        operator = await service.operator("echo")
        worker = service.work(operator)
        if part == "leases.heartbeat":
            await worker.hello()
            break_part(monkeypatch, service, part, poison_soon)
            from openmcp.chain.v1 import workers_pb2  # noqa: PLC0415

            await worker.say(heartbeat=workers_pb2.Heartbeat(lease=NOBODYS))
        else:
            break_part(monkeypatch, service, part, poison)
            await worker.hello()
        nothing_told(await refused(worker.call), lines)


async def test_in_reflection(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """Raised in the service that others wrote."""
    async with serving() as service:
        from grpc_reflection.v1alpha import _async  # noqa: PLC0415

        monkeypatch.setattr(_async.ReflectionServicer, "_list_services", poison)
        ask = reflection_pb2_grpc.ServerReflectionStub(service.channel).ServerReflectionInfo
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        nothing_told(await refused(ask(iter([request]), timeout=PATIENCE)), lines)


async def test_in_the_store(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """Raised by the store, inside a batch that others share."""
    async with serving() as service:
        caller = await service.workspace()
        monkeypatch.setattr(service.app.ledger._inserts, "_flush", poison_soon)
        nothing_told(await refused(UNARY["SubmitTask"](service, caller)), lines)


async def test_in_the_background(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """Raised in the sweep, the health watch, and a task that nobody waits for; each loop goes on."""
    logs.guard(asyncio.get_running_loop())
    async with serving() as service:
        monkeypatch.setattr(service.app._store, "expired_leases", poison_soon)
        monkeypatch.setattr(service.app._store, "ping", poison_soon)
        forgotten = asyncio.create_task(poison_soon())
        await asyncio.wait([forgotten])
        del forgotten
        wanted = {"openmcp_chain.engine.sweep", "openmcp_chain.transport.server", "openmcp_chain.logs"}
        await until(lambda: wanted <= {line["logger"] for line in lines() if "exception" in line})
        assert all(not loop.done() for loop in service.app._loops)
        check = health_pb2_grpc.HealthStub(service.channel).Check
        answer = await check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert "S3CRET" not in json.dumps(lines())


async def test_no_credential_or_payload_is_ever_logged(lines: Lines) -> None:
    """Over sign-in, submit, refusals and a whole life: no secret, token, payload or metadata value in any line."""
    async with serving() as service:
        caller, operator = await service.workspace(), await service.operator("echo")
        worker = service.work(operator)
        await worker.hello()
        task_id = await service.submit(caller, payload={"canary": "CANARY"}, metadata={"canary": "CANARY"})
        await worker.complete((await worker.task()).lease, {"canary": "CANARY"})
        await service.get(caller, task_id)
        wrong = auth_pb2.AuthRequest(workspace_id=caller.workspace_id, workspace_secret="CANARY")
        await refused(service.auth.Authenticate(wrong, timeout=PATIENCE))
        bad = tasks_pb2.SubmitTaskRequest(type="CANARY CANARY", request_id="CANARY")
        await refused(service.tasks.SubmitTask(bad, metadata=caller.metadata, timeout=PATIENCE))
        broken = (("authorization", "Bearer CANARY"), ("x-canary", "CANARY"))
        await refused(service.tasks.GetTask(tasks_pb2.GetTaskRequest(task_id="CANARY"), metadata=broken))
        await worker.end()
    logged = json.dumps(lines())
    assert lines()
    for canary in ("CANARY", caller.secret, caller.token, operator.secret, operator.token):
        assert canary not in logged


async def test_request_id_and_method_are_in_every_line_of_a_call(lines: Lines) -> None:
    """A refused call is found by the id its client chose, but by no secret; what would forge a line is escaped."""
    async with serving() as service:
        caller = await service.workspace()
        metadata = (*caller.metadata, ("x-request-id", 'call-1 "quoted"'))
        await refused(service.tasks.GetTask(tasks_pb2.GetTaskRequest(task_id="x"), metadata=metadata))
        longer = (*caller.metadata, ("x-request-id", caller.secret))
        await refused(service.tasks.GetTask(tasks_pb2.GetTaskRequest(task_id="x"), metadata=longer))
    refusals = [line for line in lines() if line["message"] == "call refused"]
    assert [line["method"] for line in refusals] == ["/openmcp.chain.v1.TaskService/GetTask"] * 2
    assert refusals[0]["request_id"] == 'call-1 "quoted"'
    assert len(refusals[1]["request_id"]) == 36
    assert grpc.StatusCode.NOT_FOUND.name not in refusals[0]["message"]


async def test_a_refused_call_is_found_by_whose_it_was(lines: Lines) -> None:
    """By a token that lacks the scope, or has ended, and at a sign-in by the name that was tried; never by a secret."""
    async with serving() as service:
        caller, gone = await service.workspace(), await service.workspace()
        await refused(service.workspaces.ListWorkspaces(LIST, metadata=caller.metadata, timeout=PATIENCE))
        await service.app._store.delete_workspace(await service.app.administration.workspaces.get(gone.workspace_id))
        service.app.identity.forget(gone.workspace_id)
        await refused(service.workspaces.ListWorkspaces(LIST, metadata=gone.metadata, timeout=PATIENCE))
        for name in (caller.workspace_id, caller.secret):
            wrong = auth_pb2.AuthRequest(workspace_id=name, workspace_secret="x")
            await refused(service.auth.Authenticate(wrong, timeout=PATIENCE))
        await refused(service.workspaces.ListWorkspaces(LIST, timeout=PATIENCE))
    told = [(line["code"], line.get("workspace")) for line in lines() if line["message"] == "call refused"]
    assert told == [
        ("SCOPE_MISSING", caller.workspace_id),
        ("TOKEN_INVALID", gone.workspace_id),
        ("CREDENTIALS_INVALID", caller.workspace_id),
        ("CREDENTIALS_INVALID", None),
        ("TOKEN_MISSING", None),
    ]


async def test_a_line_is_found_by_request_and_trace(lines: Lines) -> None:
    """What is logged of a call, unary or stream, has its request id and its trace; a trace's state is not repeated."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    sent = (
        ("x-request-id", "request-1"),
        ("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01"),
        ("tracestate", f"{SECRET}{{}}=={SECRET}"),
    )
    async with serving() as service:
        metadata = (await service.workspace()).metadata + sent
        request = tasks_pb2.GetTaskRequest(task_id="none")
        await refused(service.tasks.GetTask(request, metadata=metadata))
        await refused(
            service.tasks.StreamTaskEvents(tasks_pb2.StreamTaskEventsRequest(task_id="none"), metadata=metadata)
        )
    told = [line for line in lines() if line["message"] == "call refused"]
    assert [line["code"] for line in told] == ["TASK_NOT_FOUND", "TASK_NOT_FOUND"]
    assert [(line["request_id"], line["trace_id"]) for line in told] == [("request-1", trace_id)] * 2
    assert SECRET not in json.dumps(lines())
