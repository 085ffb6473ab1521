"""A real server process's parts in this process: `App` over a store in memory, served by grpc.aio on a free port."""

import asyncio
import base64
import gc
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct
from google.rpc import error_details_pb2, status_pb2

from openmcp.chain.v1 import (
    auth_pb2,
    auth_pb2_grpc,
    errors_pb2,
    rest_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
    workers_pb2,
    workers_pb2_grpc,
    workspaces_pb2_grpc,
)
from openmcp_chain import config
from openmcp_chain.app import App
from openmcp_chain.config import Config
from openmcp_chain.domain.audit import Actor
from openmcp_chain.domain.workspace import Workspace
from openmcp_chain.engine import clock
from openmcp_chain.store.base import Store
from openmcp_chain.store.memory import MemoryStore

PATIENCE = 20.0
"""Seconds that a test waits for what must come; only a fault makes it wait so long."""

SETTINGS: Config = replace(
    config.from_environment(
        {
            "OPENMCP_MONGODB_URI": "mongodb://not-used",
            "OPENMCP_MASTER_KEY": base64.b64encode(b"k" * 32).decode(),
            "OPENMCP_GRPC_LISTEN": "127.0.0.1:0",
        }
    ),
    lame_duck=0.0,
    drain=5.0,
)


class ManualClock:
    """The machine's time, and as much more as a test has said."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return clock.system() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)


class StoppedClock:
    """Always the same time, a whole second, for what is decided to the second."""

    def __init__(self) -> None:
        self._now = clock.system().replace(microsecond=0)

    def __call__(self) -> datetime:
        return self._now


LOCAL = Actor("local:test")
"""Who makes the workspaces of tests."""
NOBODYS = workers_pb2.LeaseRef(workspace_id="nobody", task_id="none", lease_token="none")
"""A lease that nobody has."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who can sign in."""

    workspace_id: str
    secret: str = field(repr=False)
    token: str = field(repr=False)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)


class Service:
    """A served `App`, a channel to it, and the stubs on that channel."""

    def __init__(self, app: App, port: int) -> None:
        self.app = app
        self.port = port
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}",
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.raw: Any = self.channel
        """The same channel, for methods called with bytes, which the stubs' types don't know."""
        self.auth: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(self.channel)
        self.tasks: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(self.channel)
        self.rest: rest_pb2_grpc.RestServiceAsyncStub = rest_pb2_grpc.RestServiceStub(self.channel)
        self.workers: workers_pb2_grpc.WorkerServiceAsyncStub = workers_pb2_grpc.WorkerServiceStub(self.channel)
        self.workspaces: workspaces_pb2_grpc.WorkspaceServiceAsyncStub = workspaces_pb2_grpc.WorkspaceServiceStub(
            self.channel
        )

    async def workspace(self, plan: str = "unlimited", workspace_id: str = "") -> Caller:
        """A new workspace, signed in."""
        created, secret = await self.app.administration.workspaces.create(LOCAL, plan, workspace_id)
        return await self.sign_in(created, secret)

    async def operator(self, *task_types: str) -> Caller:
        """A new operator for these task types, signed in."""
        created, secret = await self.app.administration.workspaces.create_operator(LOCAL, task_types)
        return await self.sign_in(created, secret)

    async def administrator(self) -> Caller:
        """A new administrator, signed in."""
        created, secret = await self.app.administration.workspaces.create_administrator(LOCAL)
        return await self.sign_in(created, secret)

    async def sign_in(self, workspace: Workspace, secret: str) -> Caller:
        answer = await self.auth.Authenticate(
            auth_pb2.AuthRequest(workspace_id=workspace.id, workspace_secret=secret), timeout=PATIENCE
        )
        return Caller(workspace.id, secret, answer.token)

    async def submit(self, caller: Caller, task_type: str = "echo", **fields: Any) -> str:
        """Submits a task; returns its id."""
        request = tasks_pb2.SubmitTaskRequest(type=task_type, **fields)
        return (await self.tasks.SubmitTask(request, metadata=caller.metadata, timeout=PATIENCE)).task_id

    async def get(self, caller: Caller, task_id: str) -> tasks_pb2.TaskDetail:
        return await self.tasks.GetTask(
            tasks_pb2.GetTaskRequest(task_id=task_id), metadata=caller.metadata, timeout=PATIENCE
        )

    async def events(self, caller: Caller, task_id: str, after: int = 0) -> list[tasks_pb2.TaskEvent]:
        """A task's events up to the terminal one, which this waits for."""
        request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id, after_sequence=after)
        return [
            event async for event in self.tasks.StreamTaskEvents(request, metadata=caller.metadata, timeout=PATIENCE)
        ]

    def work(self, caller: Caller) -> "WorkStream":
        """A worker's stream, not greeted yet."""
        return WorkStream(self.workers.Work(metadata=caller.metadata))


@asynccontextmanager
async def serving(
    store: Store | None = None, *, settings: Config = SETTINGS, now: clock.Clock = clock.system
) -> AsyncIterator[Service]:
    """A served `App` for the length of the block."""
    app = App(settings, store if store is not None else MemoryStore(), now)
    service = Service(app, await app.start())
    try:
        yield service
    finally:
        await service.channel.close()
        await app.stop()
        # A call that was cut is in a circle with its exception; if gRPC were gone before it is, Python would crash.
        gc.collect()


def as_struct(values: Mapping[str, Any]) -> Struct:
    """Plain values as a Struct."""
    struct = Struct()
    struct.update(values)
    return struct


class WorkStream:
    """A worker's stream, spoken by hand."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[workers_pb2.WorkRequest, workers_pb2.WorkResponse]") -> None:
        self.call = call

    async def say(self, **message: Any) -> None:
        await self.call.write(workers_pb2.WorkRequest(**message))

    async def hello(
        self,
        *task_types: str,
        concurrency: int = 1,
        name: str = "worker",
        held: Sequence[workers_pb2.LeaseRef] = (),
    ) -> workers_pb2.Welcome:
        """Greets the server and returns its welcome."""
        await self.say(
            hello=workers_pb2.Hello(
                worker_name=name, task_types=task_types or ("echo",), max_concurrency=concurrency, held=held
            )
        )
        return (await self.next("welcome")).welcome

    async def next(self, kind: str) -> workers_pb2.WorkResponse:
        """The next message, which is of this kind."""
        async with asyncio.timeout(PATIENCE):
            answer: Any = await self.call.read()
        assert answer is not grpc.aio.EOF, "the server ended the stream"
        assert answer.WhichOneof("message") == kind, answer
        told: workers_pb2.WorkResponse = answer
        return told

    async def task(self) -> workers_pb2.LeasedTask:
        return (await self.next("task")).task

    async def ack(self) -> workers_pb2.Ack:
        return (await self.next("ack")).ack

    async def complete(self, lease: workers_pb2.LeaseRef, result: Any = None) -> workers_pb2.Ack:
        """Reports success and returns the answer to it."""
        await self.say(complete=workers_pb2.Complete(lease=lease, result=as_struct(result or {})))
        return await self.ack()

    async def fail(
        self, lease: workers_pb2.LeaseRef, code: str = "BROKEN", *, retryable: bool = True
    ) -> workers_pb2.Ack:
        """Reports a failure and returns the answer to it."""
        await self.say(fail=workers_pb2.Fail(lease=lease, code=code, message="it broke", retryable=retryable))
        return await self.ack()

    async def heartbeat(self, lease: workers_pb2.LeaseRef) -> workers_pb2.Ack:
        await self.say(heartbeat=workers_pb2.Heartbeat(lease=lease))
        return await self.ack()

    async def end(self) -> None:
        """Hangs up, and returns when the server has too."""
        await self.call.done_writing()
        async with asyncio.timeout(PATIENCE):
            while await self.call.read() is not grpc.aio.EOF:
                pass


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call failed, as its client saw it."""

    status: grpc.StatusCode
    message: str
    code: str
    """Of our `Error` detail."""
    details: dict[str, Any]
    """By message name."""
    text: str
    """All that the client was sent, in one string, to look for what must not be there."""

    @property
    def fields(self) -> list[str]:
        """The fields that the refusal names."""
        bad = self.details.get("BadRequest")
        return [violation.field for violation in bad.field_violations] if bad else []


_DETAILS = {
    message.DESCRIPTOR.full_name: message
    for message in (
        errors_pb2.Error,
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.ResourceInfo,
    )
}


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Reads a failure, and holds it to the contract: our Error and an ErrorInfo, of one code and one message."""
    trailing = list(error.trailing_metadata())
    raw = next((value for key, value in trailing if key == "grpc-status-details-bin"), b"")
    assert isinstance(raw, bytes)
    status = status_pb2.Status.FromString(raw)
    details: dict[str, Any] = {}
    for packed in status.details:
        kind = _DETAILS[packed.type_url.rpartition("/")[2]]
        assert kind.DESCRIPTOR.name not in details, "each kind of detail comes once"
        details[kind.DESCRIPTOR.name] = kind.FromString(packed.value)
    assert "Error" in details, f"no details: {error!r}"
    assert (status.code, status.message) == (error.code().value[0], error.details())
    assert details["Error"].message == status.message
    assert (details["ErrorInfo"].reason, details["ErrorInfo"].domain) == (details["Error"].code, "openmcp.chain")
    return Refusal(
        error.code(),
        status.message,
        details["Error"].code,
        details,
        repr((error.code(), error.details(), error.debug_error_string(), trailing)),
    )


async def refused(call: Coroutine[Any, Any, Any] | Any) -> Refusal:
    """The refusal that the call, a unary one or a stream, must end with."""
    try:
        async with asyncio.timeout(PATIENCE):
            if hasattr(call, "read"):
                while await call.read() is not grpc.aio.EOF:
                    pass
            else:
                await call
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    raise AssertionError("the call was not refused")


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; for states that nothing signals."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.002)
