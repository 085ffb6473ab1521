"""The gRPC server: every service on one port, its limits, its health, and how it goes down."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from openmcp.chain.v1 import auth_pb2, rest_pb2, tasks_pb2, workers_pb2, workspaces_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.workspace import Scope
from openmcp_chain.store.base import Store
from openmcp_chain.transport import messages, rpc, status
from openmcp_chain.transport.auth import AuthService
from openmcp_chain.transport.health import Health
from openmcp_chain.transport.messages import Context
from openmcp_chain.transport.reflection import Reflection
from openmcp_chain.transport.rest import RestService, last_words
from openmcp_chain.transport.rpc import Access, Handler, Rpc
from openmcp_chain.transport.tasks import TaskService
from openmcp_chain.transport.workers import WorkerService
from openmcp_chain.transport.workspaces import WorkspaceService

log = logging.getLogger(__name__)

_PACKAGE = "/openmcp.chain.v1"
ACCESS: Mapping[str, Access] = {
    f"{_PACKAGE}.AuthService/Authenticate": Access(None),
    f"{_PACKAGE}.TaskService/SubmitTask": Access(Scope.TASKS_WRITE, bulky="payload"),
    f"{_PACKAGE}.TaskService/GetTask": Access(Scope.TASKS_READ),
    f"{_PACKAGE}.TaskService/StreamTaskEvents": Access(Scope.TASKS_READ),
    f"{_PACKAGE}.TaskService/WaitTask": Access(Scope.TASKS_READ),
    f"{_PACKAGE}.TaskService/ListTasks": Access(Scope.TASKS_READ),
    f"{_PACKAGE}.TaskService/CountTasks": Access(Scope.TASKS_READ),
    f"{_PACKAGE}.TaskService/CancelTask": Access(Scope.TASKS_WRITE),
    f"{_PACKAGE}.TaskService/RetryTask": Access(Scope.TASKS_WRITE),
    f"{_PACKAGE}.TaskService/BatchSubmitTasks": Access(Scope.TASKS_WRITE, bulky="requests"),
    f"{_PACKAGE}.TaskService/BatchGetTasks": Access(Scope.TASKS_READ),
    f"{_PACKAGE}.TaskService/BatchRetryTasks": Access(Scope.TASKS_WRITE),
    f"{_PACKAGE}.TaskService/ListTaskTypes": Access(Scope.TASKS_READ),
    f"{_PACKAGE}.TaskService/PauseTaskType": Access(Scope.TASKS_WRITE),
    f"{_PACKAGE}.TaskService/ResumeTaskType": Access(Scope.TASKS_WRITE),
    f"{_PACKAGE}.RestService/ServeTaskEvents": Access(Scope.TASKS_READ, last_words=last_words),
    f"{_PACKAGE}.RestService/ServeJsonWebKeySet": Access(None, begins_trace=False),
    f"{_PACKAGE}.WorkerService/Work": Access(Scope.WORKER, bulky="complete.result"),
    f"{_PACKAGE}.WorkerService/LeaseTasks": Access(Scope.WORKER),
    f"{_PACKAGE}.WorkerService/HeartbeatTask": Access(Scope.WORKER),
    f"{_PACKAGE}.WorkerService/CompleteTask": Access(Scope.WORKER, bulky="result"),
    f"{_PACKAGE}.WorkerService/FailTask": Access(Scope.WORKER),
    f"{_PACKAGE}.WorkerService/StopTask": Access(Scope.WORKER),
    f"{_PACKAGE}.WorkspaceService/CreateWorkspace": Access(Scope.ADMIN),
    f"{_PACKAGE}.WorkspaceService/GetWorkspace": Access(Scope.ADMIN),
    f"{_PACKAGE}.WorkspaceService/ListWorkspaces": Access(Scope.ADMIN),
    f"{_PACKAGE}.WorkspaceService/UpdateWorkspace": Access(Scope.ADMIN),
    f"{_PACKAGE}.WorkspaceService/DisableWorkspace": Access(Scope.ADMIN),
    f"{_PACKAGE}.WorkspaceService/EnableWorkspace": Access(Scope.ADMIN),
    f"{_PACKAGE}.WorkspaceService/DeleteWorkspace": Access(Scope.ADMIN),
    f"{_PACKAGE}.WorkspaceService/RotateSecret": Access(Scope.ADMIN),
    f"{_PACKAGE}.WorkspaceService/RevokeSecret": Access(Scope.ADMIN),
    f"{_PACKAGE}.WorkspaceService/ListSecrets": Access(Scope.ADMIN),
    f"{_PACKAGE}.WorkspaceService/ListAuditEvents": Access(Scope.ADMIN),
    # Health is asked by those who have no token; reflection tells only what proto/ publishes.
    "/grpc.health.v1.Health/Check": Access(None, begins_trace=False),
    "/grpc.health.v1.Health/List": Access(None, begins_trace=False),
    "/grpc.health.v1.Health/Watch": Access(None, begins_trace=False),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Access(None),
}
"""What each method needs. A method without a line stops the server from starting."""

STREAMS = 1000
"""Calls under way at a time on one connection: each may hold a message that is not complete. One beyond is refused with
UNAVAILABLE, unless its client waits; Envoy opens as many connections as it needs."""

OPTIONS: Sequence[tuple[str, int]] = (
    # Two servers on one port would share its calls without a word; the second must fail instead.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", messages.RECEIVE_BYTES),
    ("grpc.max_send_message_length", messages.SEND_BYTES),
    # The same number twice: between a soft and a hard limit, gRPC refuses at random.
    ("grpc.max_metadata_size", messages.RECEIVE_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", messages.RECEIVE_METADATA_BYTES),
    ("grpc.max_concurrent_streams", STREAMS),
    # gRPC would cancel calls at random that wait for Python, from 1,000 on; past CALLS we refuse them in our own words.
    ("grpc.server.max_pending_requests", 2 * rpc.CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 2 * rpc.CALLS),
    # Clients may ping to keep idle streams; a dead peer is noticed within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 5),
)

HEALTH_SECONDS = 1.0
"""How often the database is asked."""


class Server:
    """The services, served."""

    def __init__(
        self,
        calls: Rpc,
        *,
        auth: AuthService,
        tasks: TaskService,
        rest: RestService,
        workers: WorkerService,
        workspaces: WorkspaceService,
        store: Store,
    ) -> None:
        self._calls = calls
        self._store = store
        served: dict[ServiceDescriptor, object] = {
            auth_pb2.DESCRIPTOR.services_by_name["AuthService"]: auth,
            tasks_pb2.DESCRIPTOR.services_by_name["TaskService"]: tasks,
            rest_pb2.DESCRIPTOR.services_by_name["RestService"]: rest,
            workers_pb2.DESCRIPTOR.services_by_name["WorkerService"]: workers,
            workspaces_pb2.DESCRIPTOR.services_by_name["WorkspaceService"]: workspaces,
        }
        names = [service.full_name for service in served]
        self._health = Health(names)
        served[health_pb2.DESCRIPTOR.services_by_name["Health"]] = self._health
        self._reflection = Reflection((*names, health.SERVICE_NAME))
        served[reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]] = self._reflection
        handlers = {}
        for descriptor, servicer in served.items():
            handlers.update(rpc.methods(calls, descriptor, servicer, ACCESS))
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers((_Methods(handlers),))
        self._probes = {path: one for path, one in handlers.items() if path.startswith(f"/{health.SERVICE_NAME}/")}
        self._probed: grpc.aio.Server | None = None

    async def start(self, address: str, credentials: grpc.ServerCredentials | None = None, probed: str = "") -> int:
        """Listens on `host:port` and serves; returns the port. Raises OSError if it can't.

        Without credentials it speaks plain text. `probed` is where it tells of its health alone, in plain text: those
        who probe it need no certificate then. Empty for nowhere.
        """
        if credentials is None:
            port = _listen(address, self._server.add_insecure_port)
        else:
            port = _listen(address, lambda where: self._server.add_secure_port(where, credentials))
        if probed:
            self._probed = grpc.aio.server(options=OPTIONS)
            self._probed.add_generic_rpc_handlers((_Methods(self._probes),))
            _listen(probed, self._probed.add_insecure_port)
        self._health.set(serving=await self._database_answers())
        await self._server.start()
        if self._probed is not None:
            await self._probed.start()
        return port

    async def watch_health(self) -> None:
        """Tells by the health service whether calls can be served, until cancelled."""
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            self._health.set(serving=await self._database_answers())

    async def _database_answers(self) -> bool:
        try:
            await self._store.ping()
        except errors.Unavailable:
            return False
        except Exception:
            # A watch that ended here would show the last health for ever.
            log.exception("unforeseen")
            return False
        return True

    async def announce_shutdown(self) -> None:
        """NOT_SERVING from here on, whatever the database says."""
        self._health.shut_down()

    async def quiet(self, seconds: float) -> None:
        """Goes on serving until balancers have heard and nobody calls any more; `seconds` at most."""
        await self._calls.quiet(seconds)

    async def stop(self, grace: float) -> None:
        """Takes no new calls, and returns when those under way have ended, or after `grace` seconds."""
        self._reflection.drain()
        await self._server.stop(grace)
        if self._probed is not None:
            await self._probed.stop(None)


def _listen(address: str, add_port: Callable[[str], int]) -> int:
    try:
        return add_port(address)
    except RuntimeError:
        raise OSError(f"cannot listen on {address}: is the port in use?") from None


class _Methods(grpc.GenericRpcHandler):
    """All methods by path; one that isn't there is refused with details like any other failure."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._unknown: Handler = grpc.stream_stream_rpc_method_handler(_refuse_unknown)

    def service(self, details: grpc.HandlerCallDetails) -> Handler:
        return self._handlers.get(details.method, self._unknown)


async def _refuse_unknown(_: object, context: Context) -> None:
    await status.refuse(context, status.refusal(errors.MethodNotFound()))
