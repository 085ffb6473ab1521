"""Our own server, as people run it: `openmcp server` processes, and workspaces made as `openmcp workspaces` does."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench import task
from bench.lab import Lab
from openmcp.chain.v1 import auth_pb2, auth_pb2_grpc, tasks_pb2, tasks_pb2_grpc, workers_pb2, workers_pb2_grpc
from openmcp_chain import config
from openmcp_chain.engine.administration import local_actor
from openmcp_chain.engine.sealing import MasterKey
from openmcp_chain.engine.signals import BEAT_SECONDS
from openmcp_chain.stack import administration, database, ports

PLAN = "unlimited"
WORKSPACE = "bench"
BATCH = 250
"""Submits under way at a time while tasks are queued."""
ACQUAINTED_SECONDS = 2 * BEAT_SECONDS + 1.0
"""When two processes have surely heard of each other."""

LARGEST = 1000
"""Tasks in a batch."""
LARGE = (("grpc.max_receive_message_length", 16 * 1024 * 1024),)

RECONNECT = (("grpc.max_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100))
"""The channel is there before the server is; gRPC's own patience would be most of a run."""


@dataclass(frozen=True, slots=True)
class Served:
    """Servers that serve, and who we are to them."""

    targets: Sequence[str]
    workspace: str
    secret: str
    token: str
    environment: Mapping[str, str] = field(repr=False)
    """What the servers were told."""

    @property
    def target(self) -> str:
        """The first server's."""
        return self.targets[0]


async def serve(lab: Lab, servers: int = 1, argv: Sequence[str] = ()) -> Served:
    """Starts a database and servers on it; returns when they serve, and know of each other.

    `argv` starts a server; by default it is `openmcp server`.
    """
    environment = {"OPENMCP_MONGODB_URI": await lab.start_database(), "OPENMCP_MASTER_KEY": MasterKey.generate()}
    targets = [f"{ports.HOST}:{port}" for port in ports.choose({f"a server's port {n}": 0 for n in range(servers)})]
    async with administration.opened(config.from_environment(environment)) as opened:
        _, secret = await opened.workspaces.create(local_actor(), PLAN, WORKSPACE)
    command = database.find("openmcp")
    assert command, "the project is not installed"
    for target in targets:
        told = {**environment, **lab.server_environment, "OPENMCP_GRPC_LISTEN": target}
        lab.start("server", argv or [command, "server"], told)
        async with grpc.aio.insecure_channel(target, options=RECONNECT) as channel:
            await lab.until("server", partial(_serves, channel))
    if servers > 1:
        await asyncio.sleep(ACQUAINTED_SECONDS)
    async with grpc.aio.insecure_channel(targets[0]) as channel:
        stub: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)
        answer = await stub.Authenticate(auth_pb2.AuthRequest(workspace_id=WORKSPACE, workspace_secret=secret))
    return Served(targets, WORKSPACE, secret, answer.token, environment)


@asynccontextmanager
async def listening(served: Served) -> AsyncIterator[None]:
    """A worker at each server, of a type of which there are no tasks."""
    metadata = (("authorization", f"Bearer {served.token}"),)
    hello = workers_pb2.Hello(worker_name="bench", task_types=["another"], max_concurrency=1)
    async with AsyncExitStack() as opened:
        for target in served.targets:
            channel = await opened.enter_async_context(grpc.aio.insecure_channel(target))
            stub: workers_pb2_grpc.WorkerServiceAsyncStub = workers_pb2_grpc.WorkerServiceStub(channel)
            call = stub.Work(metadata=metadata)
            await call.write(workers_pb2.WorkRequest(hello=hello))
            await call.read()
        await asyncio.sleep(ACQUAINTED_SECONDS)
        yield


async def submit(served: Served, tasks: int) -> list[str]:
    """Queues tasks; returns their ids."""
    request = task.as_message(served.workspace)
    metadata = (("authorization", f"Bearer {served.token}"),)
    async with grpc.aio.insecure_channel(served.target) as channel:
        stub: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
        ids: list[str] = []
        while len(ids) < tasks:
            batch = (stub.SubmitTask(request, metadata=metadata) for _ in range(min(BATCH, tasks - len(ids))))
            ids += [summary.task_id for summary in await asyncio.gather(*batch)]
    return ids


async def fill(served: Served, tasks: int) -> None:
    """Queues tasks that nobody asks for by id, in the largest batches."""
    one = task.as_message(served.workspace)
    metadata = (("authorization", f"Bearer {served.token}"),)
    async with grpc.aio.insecure_channel(served.target, options=LARGE) as channel:
        stub: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
        for begin in range(0, tasks, LARGEST):
            batch = tasks_pb2.BatchSubmitTasksRequest(requests=[one] * min(LARGEST, tasks - begin))
            answer = await stub.BatchSubmitTasks(batch, metadata=metadata)
            if refused := [result.error.code for result in answer.results if result.HasField("error")]:
                raise RuntimeError(f"not queued: {refused[0]}")


async def _serves(channel: grpc.aio.Channel) -> bool:
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
