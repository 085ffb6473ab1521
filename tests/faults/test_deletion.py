"""A workspace is deleted while the servers that delete it are killed: all of it goes, and nothing of another's."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.fleet import ADMIN_SECRET, SETTINGS, Fleet, running_fleet
from support.workspaces import Credentials

from openmcp.chain.v1 import auth_pb2, auth_pb2_grpc, tasks_pb2, tasks_pb2_grpc, workspaces_pb2, workspaces_pb2_grpc
from openmcp_chain import config
from openmcp_chain.domain import filters
from openmcp_chain.store.mongo import store as mongo
from openmcp_chain.store.mongo.store import MongoStore

pytestmark = pytest.mark.slow

TASKS = 6000
BATCH = 1000
Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(tmp_path, servers=2) as running:
        yield running


@pytest.fixture
def tenants(fleet: Fleet) -> tuple[Credentials, Credentials]:
    return fleet.workspace(), fleet.workspace()


async def sign_in(channel: grpc.aio.Channel, who: Credentials) -> Metadata:
    stub: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)
    request = auth_pb2.AuthRequest(workspace_id=who.workspace_id, workspace_secret=who.workspace_secret)
    return (("authorization", f"Bearer {(await stub.Authenticate(request, wait_for_ready=True)).token}"),)


async def submit(channel: grpc.aio.Channel, who: Credentials, tasks: int) -> None:
    """Tasks that nobody takes, each with a time by which somebody must."""
    stub: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
    metadata = await sign_in(channel, who)
    one = tasks_pb2.SubmitTaskRequest(type="nobody_takes_this")
    one.schedule_to_start_timeout.FromSeconds(3600)
    for start in range(0, tasks, BATCH):
        batch = tasks_pb2.BatchSubmitTasksRequest(requests=[one] * min(BATCH, tasks - start))
        answer = await stub.BatchSubmitTasks(batch, metadata=metadata)
        assert all(result.HasField("task") for result in answer.results)


async def remains(store: MongoStore, workspace: str) -> dict[str, int]:
    """What there is of a workspace in any collection."""
    of_it = {"$or": [{"_id": workspace}, {"_id": {"$gte": f"{workspace}/", "$lt": f"{workspace}0"}}]}
    found = {}
    for name in await store._database.list_collection_names():
        found[name] = len(await store._database[name].find(of_it, {"_id": 1}).to_list(None))
    return {name: count for name, count in found.items() if count}


@pytest.mark.timeout(400)  # a workspace stays for 45 s at least
async def test_servers_die_in_the_middle_of_a_deletion(fleet: Fleet, tenants: tuple[Credentials, Credentials]) -> None:
    """`kill -9` of both, one after the other, amid thousands of tasks; both come back, and finish it."""
    one, other = tenants
    admin = Credentials("admin", ADMIN_SECRET)
    settings = config.from_environment({**SETTINGS, "OPENMCP_MONGODB_URI": fleet.mongodb_uri})
    store = await mongo.connect(fleet.mongodb_uri, settings.mongodb_database, settings.mongodb_driver)
    async with grpc.aio.insecure_channel(fleet.servers[0].target) as channel:
        await submit(channel, one, TASKS)
        await submit(channel, other, 10)
        stub: workspaces_pb2_grpc.WorkspaceServiceAsyncStub = workspaces_pb2_grpc.WorkspaceServiceStub(channel)
        metadata = await sign_in(channel, admin)
        request = workspaces_pb2.DeleteWorkspaceRequest(workspace_id=one.workspace_id)
        deleting = asyncio.ensure_future(stub.DeleteWorkspace(request, metadata=metadata))
        for server in fleet.servers:
            before = await left(store, one)
            async with asyncio.timeout(120):
                while (now := await left(store, one)) == before:  # noqa: ASYNC110 - another process's work
                    await asyncio.sleep(0.05)
            assert now > 0, "it was over before the kill"
            server.kill()
        await asyncio.gather(deleting, return_exceptions=True)
        assert (await remains(store, one.workspace_id))["workspaces"] == 1
        for server in fleet.servers:
            server.start()
        metadata = await sign_in(channel, admin)
        read = workspaces_pb2.GetWorkspaceRequest(workspace_id=one.workspace_id)
        async with asyncio.timeout(300):
            while True:
                try:
                    answer = await stub.GetWorkspace(read, metadata=metadata)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.NOT_FOUND:
                        raise
                    break
                assert answer.workspace.state == workspaces_pb2.WORKSPACE_STATE_DELETING
                await asyncio.sleep(0.5)
    assert await remains(store, one.workspace_id) == {}
    assert await remains(store, other.workspace_id) == {"workspaces": 1, "tasks": 10, "timers": 10, "queues": 1}
    await store.close()


async def left(store: MongoStore, who: Credentials) -> int:
    """How many tasks it has."""
    return sum((await store.count_tasks(who.workspace_id, filters.EVERYTHING)).values())
