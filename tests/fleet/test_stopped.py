"""A server that was stopped for a while, and believes what was true before: nothing slips through a pause."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from support import stopping
from support.fleet import PAUSE_SECONDS, Fleet, running_fleet
from support.service import PATIENCE

from openmcp.chain.v1 import auth_pb2, auth_pb2_grpc, tasks_pb2, tasks_pb2_grpc, workers_pb2, workers_pb2_grpc

pytestmark = pytest.mark.slow

Metadata = tuple[tuple[str, str], ...]
Work: TypeAlias = "Callable[[Caller, str, asyncio.Event], Awaitable[list[workers_pb2.LeasedTask]]]"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("stopped"), servers=2) as running:
        yield running


class Caller:
    """A workspace's calls to one of the servers."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self.metadata = metadata
        self.tasks: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
        self.workers: workers_pb2_grpc.WorkerServiceAsyncStub = workers_pb2_grpc.WorkerServiceStub(channel)

    async def submit(self, task_type: str) -> tasks_pb2.TaskSummary:
        request = tasks_pb2.SubmitTaskRequest(type=task_type)
        return await self.tasks.SubmitTask(request, metadata=self.metadata, timeout=PATIENCE)

    async def given_back(self, task_type: str) -> None:
        """Returns when the type's one task was given back because of a pause."""
        listed = await self.tasks.ListTasks(tasks_pb2.ListTasksRequest(), metadata=self.metadata, timeout=PATIENCE)
        (task,) = (task for task in listed.tasks if task.type == task_type)
        events = tasks_pb2.StreamTaskEventsRequest(task_id=task.task_id)
        async for event in self.tasks.StreamTaskEvents(events, metadata=self.metadata, timeout=PATIENCE):
            if event.context.fields["code"].string_value == "TYPE_PAUSED":
                return


async def callers(fleet: Fleet, channels: list[grpc.aio.Channel]) -> list[Caller]:
    """The same workspace's calls, to each server."""
    credentials = await asyncio.to_thread(fleet.workspace)
    auth: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channels[0])
    request = auth_pb2.AuthRequest(workspace_id=credentials.workspace_id, workspace_secret=credentials.workspace_secret)
    token = await auth.Authenticate(request, timeout=PATIENCE)
    return [Caller(channel, (("authorization", f"Bearer {token.token}"),)) for channel in channels]


async def by_stream(caller: Caller, task_type: str, ready: asyncio.Event) -> list[workers_pb2.LeasedTask]:
    """The first task that a worker's stream gets."""
    stream = caller.workers.Work(metadata=caller.metadata)
    hello = workers_pb2.Hello(worker_name="worker", task_types=[task_type], max_concurrency=1)
    await stream.write(workers_pb2.WorkRequest(hello=hello))
    async for response in stream:
        if response.HasField("welcome"):
            ready.set()
        if response.HasField("task"):
            stream.cancel()
            return [response.task]
    return []


async def by_calls(caller: Caller, task_type: str, ready: asyncio.Event) -> list[workers_pb2.LeasedTask]:
    """The first task that a worker gets that calls again and again."""
    request = workers_pb2.LeaseTasksRequest(worker_name="worker", task_types=[task_type], wait=Duration(seconds=5))
    ready.set()
    while True:
        answer = await caller.workers.LeaseTasks(request, metadata=caller.metadata, timeout=2 * PATIENCE)
        if answer.tasks:
            return list(answer.tasks)


@pytest.mark.parametrize("work", [by_stream, by_calls])
async def test_a_server_that_was_stopped_during_a_pause_gives_nothing_out(
    fleet: Fleet, work: Work, request: pytest.FixtureRequest
) -> None:
    """Stopped with a task claimed and on its way to the worker, it gives it back when it goes on, after the answer."""
    task_type = request.node.callspec.id
    server = fleet.servers[1]
    server.kill()
    server.command = [sys.executable, stopping.__file__, task_type]
    await asyncio.to_thread(server.start)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with (
        grpc.aio.insecure_channel(fleet.servers[0].target, options) as first,
        grpc.aio.insecure_channel(server.target, options) as second,
    ):
        here, there = await callers(fleet, [first, second])
        ready = asyncio.Event()
        working = asyncio.ensure_future(work(there, task_type, ready))
        await ready.wait()
        submitting = asyncio.create_task(there.submit(task_type))
        async with asyncio.timeout(PATIENCE):
            while not server.stopped:  # noqa: ASYNC110 - another process' state
                await asyncio.sleep(PAUSE_SECONDS)
        paused = tasks_pb2.PauseTaskTypeRequest(type=task_type)
        await here.tasks.PauseTaskType(paused, metadata=here.metadata, timeout=PATIENCE)
        server.go_on()
        giving_back = asyncio.create_task(here.given_back(task_type))
        await asyncio.wait({working, giving_back}, return_when=asyncio.FIRST_COMPLETED)
        assert not working.done()
        await giving_back
        summary = await submitting
        resumed = tasks_pb2.ResumeTaskTypeRequest(type=task_type)
        await here.tasks.ResumeTaskType(resumed, metadata=here.metadata, timeout=PATIENCE)
        async with asyncio.timeout(PATIENCE):
            (task,) = await working
        assert task.lease.task_id == summary.task_id
