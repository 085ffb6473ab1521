"""Tasks submitted and followed as a careful client does it: repeated by request_id, resumed after the last event."""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
from support.workspaces import Credentials

from openmcp.chain.v1 import auth_pb2, auth_pb2_grpc, tasks_pb2, tasks_pb2_grpc

SUBMITTERS = 8
FOLLOWERS = 40
"""Event streams at a time; Envoy takes 100 calls on a connection."""
CALL_SECONDS = 5.0
ROUND_SECONDS = 240.0
"""How long all tasks together may take to end."""
PAUSE_SECONDS = 0.05
TRY_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED)
"""What a client may repeat, as the error table says."""
TERMINAL = (tasks_pb2.TASK_STATUS_SUCCEEDED, tasks_pb2.TASK_STATUS_FAILED)
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # For a target of several servers.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
]


@dataclass(slots=True)
class Story:
    """What the client came to know of one task."""

    request: tasks_pb2.SubmitTaskRequest
    task_id: str = ""
    submits: int = 0
    events: list[tasks_pb2.TaskEvent] = field(default_factory=list)
    detail: tasks_pb2.TaskDetail = field(default_factory=tasks_pb2.TaskDetail)

    @property
    def attempts(self) -> int:
        return sum(event.status == tasks_pb2.TASK_STATUS_RUNNING for event in self.events)


class Load:
    """One round's tasks."""

    def __init__(
        self,
        target: str,
        credentials: Credentials,
        requests: Sequence[tasks_pb2.SubmitTaskRequest],
        seconds: float = 0.0,
    ) -> None:
        """`seconds`: over how long the submits are spread; else each follows the one before."""
        self._target = target
        self._seconds = seconds
        self._credentials = credentials
        self.stories = [Story(request) for request in requests]
        self._waiting = list(reversed(self.stories))
        self._metadata: tuple[tuple[str, str | bytes], ...] = ()
        self._acknowledged = 0
        self._enough = asyncio.Event()
        self._threshold = 0
        self._first_after: float | None = None
        self._killed_at = float("inf")
        self._following = asyncio.Semaphore(FOLLOWERS)
        self.recovery: float | None = None
        """Seconds from the kill to the first acknowledgement of a later submit; None if there was none left."""
        self.duration = 0.0
        """Seconds from the kill to the end of the last task."""

    async def run(self, chance: random.Random, kill: Callable[[], Awaitable[None]]) -> None:
        """Submits all; kills once a random number of them is acknowledged; returns when all have ended.

        If they are spread, the killing begins with the first.
        """
        acknowledged = chance.randrange(len(self.stories) // 10, len(self.stories) * 3 // 4)
        self._threshold = 1 if self._seconds else acknowledged
        async with grpc.aio.insecure_channel(self._target, options=OPTIONS) as channel:
            self._tasks: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
            self._metadata = await self._sign_in(channel)
            async with asyncio.timeout(ROUND_SECONDS), asyncio.TaskGroup() as group:
                for _ in range(SUBMITTERS):
                    group.create_task(self._submit_all(group))
                await self._enough.wait()
                await asyncio.sleep(chance.random() * PAUSE_SECONDS)
                self._killed_at = time.monotonic()
                await kill()
        self.duration = time.monotonic() - self._killed_at
        self.recovery = self._first_after - self._killed_at if self._first_after else None

    async def _sign_in(self, channel: grpc.aio.Channel) -> tuple[tuple[str, str | bytes], ...]:
        stub: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)
        known = self._credentials
        request = auth_pb2.AuthRequest(workspace_id=known.workspace_id, workspace_secret=known.workspace_secret)
        while True:
            try:
                token = await stub.Authenticate(request, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:  # the round before may have left the server on its way up
                await _allow(error)
                continue
            return (("authorization", f"Bearer {token.token}"),)

    async def _submit_all(self, group: asyncio.TaskGroup) -> None:
        began = time.monotonic()
        while self._waiting:
            story = self._waiting.pop()
            done = len(self.stories) - len(self._waiting)
            await asyncio.sleep(began + self._seconds * done / len(self.stories) - time.monotonic())
            await self._submit(story)
            group.create_task(self._follow(story))

    async def _submit(self, story: Story) -> None:
        while not story.task_id:
            story.submits += 1
            began = time.monotonic()
            try:
                summary = await self._tasks.SubmitTask(story.request, metadata=self._metadata, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                await _allow(error)
                continue
            story.task_id = summary.task_id
            if began > self._killed_at and self._first_after is None:
                self._first_after = time.monotonic()
        self._acknowledged += 1
        if self._acknowledged == self._threshold:
            self._enough.set()

    async def _follow(self, story: Story) -> None:
        """Reads the task's events to the terminal one, over as many streams as it takes; then the task."""
        async with self._following:
            while not (story.events and story.events[-1].status in TERMINAL):
                request = tasks_pb2.StreamTaskEventsRequest(
                    task_id=story.task_id, after_sequence=story.events[-1].sequence if story.events else 0
                )
                try:
                    async for event in self._tasks.StreamTaskEvents(request, metadata=self._metadata):
                        story.events.append(event)
                except grpc.aio.AioRpcError as error:
                    # A stream that has begun can't be answered any more: Envoy resets it, and gRPC calls that INTERNAL.
                    if not (error.code() is grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or "")):
                        await _allow(error)
            while not story.detail.task_id:
                try:
                    story.detail = await self._tasks.GetTask(
                        tasks_pb2.GetTaskRequest(task_id=story.task_id), metadata=self._metadata, timeout=CALL_SECONDS
                    )
                except grpc.aio.AioRpcError as error:
                    await _allow(error)


async def _allow(error: grpc.aio.AioRpcError) -> None:
    """Waits a moment, if the failure is one that a client is told to expect; else raises it."""
    if error.code() not in TRY_AGAIN:
        raise error
    await asyncio.sleep(PAUSE_SECONDS)


def request_id(chance: random.Random) -> str:
    """A UUID that the round's seed determines, and the moment: rounds of two runs don't share theirs."""
    return str(uuid.UUID(int=chance.getrandbits(64) << 64 | uuid.uuid4().int >> 64, version=4))
