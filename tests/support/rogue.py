"""A gRPC server that misbehaves as a test says: the contract's services on a real port, answering by a script."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from openmcp.chain.v1 import auth_pb2, auth_pb2_grpc, tasks_pb2, tasks_pb2_grpc
from openmcp_chain.domain import errors
from openmcp_chain.transport import status

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Act: TypeAlias = Callable[[Context], Awaitable[Message | None]]
"""What is done with a unary call: an answer is returned, or the call aborted."""
StreamAct: TypeAlias = Callable[[Context], AsyncIterator[Message]]

METHODS = [method.name for method in tasks_pb2.DESCRIPTOR.services_by_name["TaskService"].methods]


@dataclass(frozen=True, slots=True)
class Received:
    """A call as it came."""

    request: Any
    metadata: Mapping[str, str | bytes]

    @property
    def token(self) -> str:
        return str(self.metadata.get("authorization", "")).removeprefix("Bearer ")


class Rogue:
    """What the server does, and what it was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.received: defaultdict[str, list[Received]] = defaultdict(list)
        """Calls by method, all but `Authenticate`."""
        self.sign_ins = 0
        """How often a token was given; the n-th is `token-n`."""
        self.life = timedelta(minutes=15)
        """Of a token, as it is told."""
        self.sign_in: deque[Act] = deque()
        """Done with the next sign-ins in place of giving a token."""
        self.script: defaultdict[str, deque[Act]] = defaultdict(deque)
        """Done with the next calls of a method. What comes after these is refused as INTERNAL."""
        self.streams: deque[StreamAct] = deque()
        """The same for streams of events."""

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def tokens(self, method: str) -> list[str]:
        """With which the calls of a method came."""
        return [received.token for received in self.received[method]]

    async def authenticate(self, _: auth_pb2.AuthRequest, context: Context) -> auth_pb2.AuthToken | None:
        if self.sign_in:
            await self.sign_in.popleft()(context)
            return None
        self.sign_ins += 1
        token = auth_pb2.AuthToken(token=f"token-{self.sign_ins}")
        token.expires_at.FromDatetime(datetime.now(UTC) + self.life)
        return token

    async def unary(self, method: str, request: Message, context: Context) -> Message | None:
        self.received[method].append(Received(request, dict(context.invocation_metadata() or ())))
        act = self.script[method].popleft() if self.script[method] else refuse(errors.Internal())
        return await act(context)

    async def stream(self, request: Message, context: Context) -> AsyncIterator[Message]:
        self.received["StreamTaskEvents"].append(Received(request, dict(context.invocation_metadata() or ())))
        if not self.streams:
            await refuse(errors.Internal())(context)
        async for message in self.streams.popleft()(context):
            yield message


def answer(message: Message) -> Act:
    """Answers with the message."""

    async def act(_: Context) -> Message:
        return message

    return act


def refuse(error: errors.Error) -> Act:
    """Refuses as the real server does, with details."""

    async def act(context: Context) -> None:
        await status.refuse(context, status.refusal(error))

    return act


def bare(code: grpc.StatusCode, text: str = "") -> Act:
    """Refuses as something on the way does, without details."""

    async def act(context: Context) -> None:
        await context.abort(code, text)

    return act


def events(*sequences: int, then: Act | None = None, ends: int = 0) -> StreamAct:
    """Sends events with these sequences, RUNNING but for `ends`, SUCCEEDED; and then ends well, or does `then`."""

    async def act(context: Context) -> AsyncIterator[Message]:
        for sequence in sequences:
            state = tasks_pb2.TASK_STATUS_SUCCEEDED if sequence == ends else tasks_pb2.TASK_STATUS_RUNNING
            yield tasks_pb2.TaskEvent(task_id="task-1", sequence=sequence, status=state)
        if then is not None:
            await then(context)

    return act


async def silence(_: Context) -> None:
    """Never comes to an end by itself."""
    await asyncio.Event().wait()


def detail(state: "tasks_pb2.TaskStatus.ValueType", **fields: Any) -> tasks_pb2.TaskDetail:
    """The task that all of it is about."""
    return tasks_pb2.TaskDetail(task_id="task-1", status=state, **fields)


@asynccontextmanager
async def running_rogue(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Rogue]:
    """Serves for the length of the block; with TLS, if credentials are given."""
    rogue = Rogue()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, Any] = {method: _unary(rogue, method) for method in METHODS}
    handlers["Authenticate"], handlers["StreamTaskEvents"] = rogue.authenticate, rogue.stream
    servicer: Any = SimpleNamespace(**handlers)
    auth_pb2_grpc.add_AuthServiceServicer_to_server(servicer, server)
    tasks_pb2_grpc.add_TaskServiceServicer_to_server(servicer, server)
    address = "127.0.0.1:0"
    rogue.port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield rogue
    finally:
        await server.stop(None)


def _unary(rogue: Rogue, method: str) -> Callable[[Message, Context], Awaitable[Message | None]]:
    async def handle(request: Message, context: Context) -> Message | None:
        return await rogue.unary(method, request, context)

    return handle
