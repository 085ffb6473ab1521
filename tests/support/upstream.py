"""A gRPC server to put behind Envoy: the contract's services on a real port, with content made up by the task's id.

It stands in for what the server says, not for how Envoy is spoken to: real gRPC, real errors of
`transport.status`, real ES256 tokens.
"""
# ruff: noqa: N802 - a method's name is the contract's

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from jwt.algorithms import ECAlgorithm

from openmcp.chain.v1 import auth_pb2, rest_pb2, tasks_pb2, workers_pb2
from openmcp_chain.domain import errors
from openmcp_chain.stack.envoy import view
from openmcp_chain.transport import status

Context = grpc.aio.ServicerContext[Any, Any]


class Key:
    """A signing key, and tokens signed with it."""

    def __init__(self) -> None:
        self.kid = str(uuid.uuid4())
        self.private = ec.generate_private_key(ec.SECP256R1())

    @property
    def public(self) -> dict[str, Any]:
        jwk = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**jwk, "kid": self.kid, "alg": "ES256", "use": "sig"}

    def token(self, workspace: str = "ws-1", plan: str | None = "unlimited", **changed: object) -> str:
        """A token as the server makes it, with claims changed; None leaves a claim out."""
        now = int(time.time())
        claims: dict[str, object] = {
            "iss": "openmcp-chain",
            "aud": "openmcp-chain",
            "sub": workspace,
            "workspace_id": workspace,
            "plan": plan,
            "scope": "tasks:read tasks:write",
            "sid": "12345678",
            "iat": now,
            "exp": now + 900,
            "jti": str(uuid.uuid4()),
        }
        kept = {name: value for name, value in (claims | changed).items() if value is not None}
        return jwt.encode(kept, self.private, "ES256", headers={"kid": self.kid})


class Tasks:
    """Tasks by id: what each does is told in `GetTask`."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        """The metadata of the last call."""
        self.cancelled = asyncio.Event()
        """Set when a call that would never have been answered was given up."""

    def _note(self, context: Context) -> None:
        self.metadata = _text(context)

    async def SubmitTask(self, request: tasks_pb2.SubmitTaskRequest, context: Context) -> tasks_pb2.TaskSummary:
        self._note(context)
        summary = tasks_pb2.TaskSummary(task_id=request.type, status=tasks_pb2.TASK_STATUS_PENDING)
        summary.submitted_at.FromJsonString("2024-01-01T00:00:00Z")
        return summary

    async def GetTask(self, request: tasks_pb2.GetTaskRequest, context: Context) -> tasks_pb2.TaskDetail:
        self._note(context)
        detail = tasks_pb2.TaskDetail(task_id=request.task_id, status=tasks_pb2.TASK_STATUS_RUNNING)
        detail.submitted_at.FromJsonString("2024-01-01T00:00:00Z")
        detail.updated_at.FromJsonString("2024-01-01T00:05:12.345678Z")
        match request.task_id.split("_"):
            case ["missing"]:
                await status.refuse(context, status.refusal(errors.TaskNotFound('quote " brace } and \\')))
            case ["revoked"]:
                await status.refuse(context, status.refusal(errors.TokenInvalid()))
            case ["expired"]:
                await status.refuse(context, status.refusal(errors.TokenExpired()))
            case ["credentials"]:
                await status.refuse(context, status.refusal(errors.CredentialsInvalid()))
            case ["busy"]:
                await status.refuse(context, status.refusal(errors.TooManyStreams(10)))
            case ["large"]:
                await status.refuse(context, status.refusal(errors.RequestTooLarge("payload", 5, 4)))
            case ["bare", number]:
                code = next(code for code in grpc.StatusCode if code.value[0] == int(number))
                await context.abort(code, "mongodb://user:S3CRET@db")
            case ["silent"]:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.cancelled.set()
            case ["deadline"]:
                detail.error = str(context.time_remaining())
            case ["failed"]:
                detail.error = "INPUT_NOT_FOUND: no such file"
            case ["done"]:
                detail.result.update(TRICKY)
            case ["wide", size]:
                detail.result.update({"text": "x" * int(size)})
            case ["big", size]:
                detail.result.update({"text": "\x01" * int(size)})
        return detail

    async def StreamTaskEvents(
        self, request: tasks_pb2.StreamTaskEventsRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.TaskEvent]:
        self._note(context)
        _, _, size = request.task_id.partition("wide_")
        for sequence in (1, 2, 3):
            yield tasks_pb2.TaskEvent(task_id="x" * int(size) if size else request.task_id, sequence=sequence)


TRICKY: dict[str, Any] = {
    '"error":""': '"error":""',
    '"<error>":""': ['"<error>":""', "<error>", "<result>"],
    "error": "",
    "result": None,
    "<error>": "",
    "nested": {"error": "", "<result>": {"error": None}},
}
"""A result that holds everything that the JSON around it is recognised by."""


class Rest:
    """Event streams by task id, and the key set."""

    def __init__(self) -> None:
        self.keys: list[Key] = [Key()]
        self.served: asyncio.Queue[None] = asyncio.Queue()
        """One entry for each time that the key set was read."""
        self.more = asyncio.Event()
        """Lets an open stream go on after its first message."""

    async def ServeTaskEvents(
        self, request: rest_pb2.ServeTaskEventsRequest, context: Context
    ) -> AsyncIterator[HttpBody]:
        metadata = _text(context)
        if request.task_id == "missing":
            await status.refuse(context, status.refusal(errors.TaskNotFound("missing")))
            return
        if request.task_id == "ended":
            await context.send_initial_metadata((("x-openmcp-end-of-stream", "1"),))
            return
        if request.task_id.startswith("wide_"):
            yield HttpBody(content_type="text/event-stream", data=b": " + b"x" * int(request.task_id[5:]) + b"\n\n")
            return
        after = metadata.get("last-event-id", request.after_sequence)
        yield HttpBody(content_type="text/event-stream", data=f"id: 1\ndata: after {after}\n\n".encode())
        await self.more.wait()
        yield HttpBody(data=b"id: 2\ndata: last\n\n")

    async def ServeJsonWebKeySet(self, _: rest_pb2.ServeJsonWebKeySetRequest, __: Context) -> HttpBody:
        self.served.put_nowait(None)
        key_set = {"keys": [key.public for key in self.keys]}
        return HttpBody(content_type="application/json", data=json.dumps(key_set).encode())


class Auth:
    """Gives anyone a token."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self.metadata: dict[str, str] = {}
        """The metadata of the last call."""

    async def Authenticate(self, request: auth_pb2.AuthRequest, context: Context) -> auth_pb2.AuthToken:
        self.metadata = _text(context)
        token = auth_pb2.AuthToken(token=self._rest.keys[-1].token(request.workspace_id))
        token.expires_at.FromJsonString("2024-01-01T00:00:00Z")
        return token


def _text(context: Context) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


class Workers:
    """Answers each heartbeat."""

    async def Work(
        self, requests: AsyncIterator[workers_pb2.WorkRequest], _: Context
    ) -> AsyncIterator[workers_pb2.WorkResponse]:
        async for request in requests:
            yield workers_pb2.WorkResponse(ack=workers_pb2.Ack(lease=request.heartbeat.lease))


class Upstream:
    """The server, which can be stopped and started again on its port."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        """Speaks TLS if there are credentials."""
        self.port = 0
        self._credentials = credentials
        self.requests: dict[str, Message] = {}
        """The last request of each method for which there is no function here."""
        self.answers: dict[str, Message] = {}
        """What these methods answer, where it is not to be an empty message."""
        self.tasks = Tasks()
        self.rest = Rest()
        self.auth = Auth(self.rest)
        self.health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    @property
    def key(self) -> Key:
        return self.rest.keys[-1]

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self._handler(),))
        self.health = health.aio.HealthServicer()
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self._credentials)
        await self._server.start()

    def _handler(self) -> grpc.GenericRpcHandler:
        served = {
            "AuthService": self.auth,
            "TaskService": self.tasks,
            "RestService": self.rest,
            "WorkerService": Workers(),
        }
        handlers = {}
        for file in view.CONTRACT:
            for service in file.services_by_name.values():
                for method in service.methods:
                    path = f"/{service.full_name}/{method.name}"
                    behaviour = getattr(served.get(service.name), method.name, None)
                    handlers[path] = _handler_of(method, behaviour or self._other(method))
        return _Handlers(handlers)

    def _other(self, method: MethodDescriptor) -> Any:
        async def answer(request: Message, _: Context) -> Message:
            self.requests[method.name] = request
            return self.answers.get(method.name) or GetMessageClass(method.output_type)()

        return answer

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(details.method)


def _handler_of(method: MethodDescriptor, behaviour: Any) -> Any:
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make: Any = kinds[method.client_streaming, method.server_streaming]
    request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    return make(behaviour, request_deserializer=request.FromString, response_serializer=answer.SerializeToString)
