"""What several server processes on one database are to those who use them: as fair, and as ordered, as one."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
from support.fleet import Fleet, running_fleet
from support.service import PATIENCE
from support.workspaces import Credentials

from openmcp.chain.v1 import auth_pb2, auth_pb2_grpc, tasks_pb2, tasks_pb2_grpc
from openmcp_chain.worker import Context, Worker

pytestmark = pytest.mark.slow

FLOOD = 10_000
BATCH = 1000
CONCURRENCY = 2
TASK_SECONDS = 0.05
SUBSCRIBERS = 10
LINES = 40

Metadata = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet"), servers=2) as running:
        yield running


class Tenant:
    """A workspace's calls to one of the servers."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.tasks: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
        self.metadata: Metadata = ()

    async def sign_in(self, credentials: Credentials) -> None:
        auth: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(self.channel)
        request = auth_pb2.AuthRequest(
            workspace_id=credentials.workspace_id, workspace_secret=credentials.workspace_secret
        )
        token = await auth.Authenticate(request, timeout=PATIENCE)
        self.metadata = (("authorization", f"Bearer {token.token}"),)


@asynccontextmanager
async def tenant(fleet: Fleet, credentials: Credentials, server: int = 0) -> AsyncIterator[Tenant]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(fleet.servers[server].target, options) as channel:
        signed_in = Tenant(channel)
        await signed_in.sign_in(credentials)
        yield signed_in


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    serving = asyncio.create_task(worker.serve())
    try:
        yield
    finally:
        worker.stop()
        await serving


def worker_of(fleet: Fleet, credentials: Credentials, *, concurrency: int) -> Worker:
    return Worker(
        fleet.servers[0].target,
        workspace_id=credentials.workspace_id,
        workspace_secret=credentials.workspace_secret,
        secure=False,
        concurrency=concurrency,
        name="worker",
    )


async def test_flood_does_not_hold_up_anothers_single_task(fleet: Fleet) -> None:
    """With 10,000 tasks of one workspace queued, another's single one starts within three task-times.

    That is, before three times as many tasks of the flood as run side by side have begun; whichever of the two servers
    takes the single task, the worker's own or the other.
    """
    flood, single, operator = await asyncio.gather(
        *(asyncio.to_thread(make) for make in (fleet.workspace, fleet.workspace, lambda: fleet.operator("count")))
    )
    begun: list[str] = []
    under_way = asyncio.Event()
    worker = worker_of(fleet, operator, concurrency=CONCURRENCY)

    @worker.task("count")
    async def count(_: dict[str, str], context: Context) -> None:
        begun.append(context.workspace_id)
        if len(begun) >= 5 * CONCURRENCY:
            under_way.set()
        await asyncio.sleep(TASK_SECONDS)

    async with tenant(fleet, flood) as many, tenant(fleet, single, 0) as here, tenant(fleet, single, 1) as there:
        batch = tasks_pb2.BatchSubmitTasksRequest(
            requests=[tasks_pb2.SubmitTaskRequest(type="count") for _ in range(BATCH)]
        )
        for _ in range(FLOOD // BATCH):
            answer = await many.tasks.BatchSubmitTasks(batch, metadata=many.metadata, timeout=PATIENCE)
            assert all(result.HasField("task") for result in answer.results)
        async with working(worker):
            async with asyncio.timeout(PATIENCE):
                await under_way.wait()
            for one in (here, there):
                begun.clear()
                summary = await one.tasks.SubmitTask(
                    tasks_pb2.SubmitTaskRequest(type="count"), metadata=one.metadata, timeout=PATIENCE
                )
                before = len(begun)
                wait = tasks_pb2.WaitTaskRequest(task_id=summary.task_id)
                detail = await one.tasks.WaitTask(wait, metadata=one.metadata, timeout=PATIENCE * 2)
                assert detail.status == tasks_pb2.TASK_STATUS_SUCCEEDED
                assert begun.index(single.workspace_id) - before <= 3 * CONCURRENCY
        # The next test is not to inherit the rest.
        paused = tasks_pb2.PauseTaskTypeRequest(type="count")
        await many.tasks.PauseTaskType(paused, metadata=many.metadata, timeout=PATIENCE)


async def test_what_goes_first_goes_first_whichever_server_took_it(fleet: Fleet) -> None:
    """With a backlog of one workspace at the worker's server, its task of a better priority at the other is next.

    And one that is as good and older than what is left has its turn, though newer ones come all the time.
    """
    credentials = await asyncio.to_thread(fleet.workspace)
    begun: list[str] = []
    under_way = asyncio.Event()
    worker = worker_of(fleet, credentials, concurrency=CONCURRENCY)
    low = tasks_pb2.SubmitTaskRequest(type="order", priority=5)

    async with tenant(fleet, credentials, 0) as here, tenant(fleet, credentials, 1) as there:

        @worker.task("order")
        async def order(_: dict[str, str], context: Context) -> None:
            begun.append(context.task_id)
            under_way.set()
            await asyncio.gather(
                here.tasks.SubmitTask(low, metadata=here.metadata, timeout=PATIENCE), asyncio.sleep(TASK_SECONDS)
            )

        batch = tasks_pb2.BatchSubmitTasksRequest(requests=[low] * 100)
        await here.tasks.BatchSubmitTasks(batch, metadata=here.metadata, timeout=PATIENCE)
        async with working(worker):
            await under_way.wait()
            for priority, before in ((1, 3 * CONCURRENCY), (5, 600)):
                begun.clear()
                request = tasks_pb2.SubmitTaskRequest(type="order", priority=priority)
                summary = await there.tasks.SubmitTask(request, metadata=there.metadata, timeout=PATIENCE)
                submitted = len(begun)
                wait = tasks_pb2.WaitTaskRequest(task_id=summary.task_id)
                detail = await there.tasks.WaitTask(wait, metadata=there.metadata, timeout=PATIENCE * 2)
                assert detail.status == tasks_pb2.TASK_STATUS_SUCCEEDED
                assert begun.index(summary.task_id) - submitted <= before
        paused = tasks_pb2.PauseTaskTypeRequest(type="order")
        await here.tasks.PauseTaskType(paused, metadata=here.metadata, timeout=PATIENCE)


async def test_all_subscribers_see_one_sequence(fleet: Fleet) -> None:
    """Ten subscribers to one task, at two servers and cut at random: each sees every event once, in the same order."""
    credentials = await asyncio.to_thread(fleet.workspace)
    chance = random.Random(7)  # noqa: S311 - a seed to repeat it by
    go = asyncio.Event()
    worker = worker_of(fleet, credentials, concurrency=1)

    @worker.task("talk")
    async def talk(_: dict[str, str], context: Context) -> None:
        await go.wait()
        for number in range(LINES):
            context.log(f"line {number}")
            await asyncio.sleep(0)

    async with tenant(fleet, credentials, 0) as first, tenant(fleet, credentials, 1) as second:
        summary = await first.tasks.SubmitTask(
            tasks_pb2.SubmitTaskRequest(type="talk"), metadata=first.metadata, timeout=PATIENCE
        )
        subscribers = [
            asyncio.create_task(_follow((first, second)[number % 2], summary.task_id, chance))
            for number in range(SUBSCRIBERS)
        ]
        async with working(worker):
            go.set()
            async with asyncio.timeout(2 * PATIENCE):
                seen = await asyncio.gather(*subscribers)
    assert [event.sequence for event in seen[0]] == list(range(1, LINES + 4))
    assert [event.context["log"] for event in seen[0][2:-1]] == [f"line {number}" for number in range(LINES)]
    assert all(events == seen[0] for events in seen)


async def _follow(caller: Tenant, task_id: str, chance: random.Random) -> list[tasks_pb2.TaskEvent]:
    """All events to the terminal one, over streams that are cut after a few events each."""
    events: list[tasks_pb2.TaskEvent] = []
    while not (events and events[-1].status == tasks_pb2.TASK_STATUS_SUCCEEDED):
        after = events[-1].sequence if events else 0
        request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id, after_sequence=after)
        stream = caller.tasks.StreamTaskEvents(request, metadata=caller.metadata)
        for _ in range(chance.randrange(1, 12)):
            event = await stream.read()
            if not isinstance(event, tasks_pb2.TaskEvent):
                break
            events.append(event)
        stream.cancel()
    return events
