"""Our own server, as people run it: the `openmcp server` process, and workspaces made as `openmcp workspaces` does."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench import task
from bench.lab import Lab
from openmcp.chain.v1 import auth_pb2, auth_pb2_grpc, tasks_pb2, tasks_pb2_grpc
from openmcp_chain import config
from openmcp_chain.engine.administration import local_actor
from openmcp_chain.engine.sealing import MasterKey
from openmcp_chain.stack import administration, database, ports

PLAN = "unlimited"
WORKSPACE = "bench"
BATCH = 250
"""Submits under way at a time while tasks are queued."""


LARGEST = 1000
"""Tasks in a batch."""
LARGE = (("grpc.max_receive_message_length", 16 * 1024 * 1024),)

RECONNECT = (("grpc.max_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100))
"""The channel is there before the server is; gRPC's own patience would be most of a run."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server that serves, and who we are to it."""

    target: str
    workspace: str
    secret: str
    token: str
    environment: Mapping[str, str] = field(repr=False)
    """What the server was told."""


async def serve(lab: Lab) -> Served:
    """Starts a database and a server on it."""
    uri = await lab.start_database()
    (port,) = ports.choose({"the server's port": 0})
    target = f"{ports.HOST}:{port}"
    environment = {
        "OPENMCP_MONGODB_URI": uri,
        "OPENMCP_GRPC_LISTEN": target,
        "OPENMCP_MASTER_KEY": MasterKey.generate(),
    }
    async with administration.opened(config.from_environment(environment)) as opened:
        _, secret = await opened.workspaces.create(local_actor(), PLAN, WORKSPACE)
    command = database.find("openmcp")
    assert command, "the project is not installed"
    lab.start("server", [command, "server"], environment)
    async with grpc.aio.insecure_channel(target, options=RECONNECT) as channel:
        await lab.until("server", lambda: _serves(channel))
        stub: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)
        answer = await stub.Authenticate(auth_pb2.AuthRequest(workspace_id=WORKSPACE, workspace_secret=secret))
    return Served(target, WORKSPACE, secret, answer.token, environment)


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
