"""A worker's conversation with the server: one stream after another, and the leases that it is about."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine

import grpc

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.worker.connection import Connection
from openmcp_chain.worker.held import Held

log = logging.getLogger(__name__)

BACKOFF_SECONDS = 0.2
BACKOFF_MAXIMUM_SECONDS = 5.0

Request = workers_pb2.WorkRequest


class WorkerRefused(Exception):
    """The server will not have this worker, however often it asks. The text is the server's, from its error table."""


class Conversation:
    """Streams to the server until `stop`, and beyond it until nothing is held any more."""

    def __init__(
        self,
        connection: Connection,
        hello: workers_pb2.Hello,
        run: Callable[[Held], Coroutine[None, None, None]],
        on_connection: Callable[[bool], None],
    ) -> None:
        """`run` runs a task. `on_connection` is told True when a server has taken the worker on, else False."""
        self._connection = connection
        self._hello = hello
        self._run = run
        self._on_connection = on_connection
        self._held: dict[str, Held] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._outbox: asyncio.Queue[Request | None] = asyncio.Queue()
        self._stopping = False
        self._welcome = False
        """Whether there is a stream on which tasks may come."""
        self._failures = 0

    async def talk(self) -> None:
        """One stream after another; returns when the worker stops and holds nothing more. Raises WorkerRefused."""
        while True:
            try:
                await self._stream()
                self._failures = 0
            except grpc.aio.AioRpcError as error:
                self._failures += 1
                # The status alone: details may come from anywhere.
                log.warning("connection lost: %s", error.code().name)
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    self._connection.forget_token()
                elif error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT):
                    raise WorkerRefused(error.details()) from None
            if self._stopping and not self._held:
                return
            # Full jitter, so that a thousand workers don't come back at once.
            ceiling = min(BACKOFF_SECONDS * 2.0**self._failures, BACKOFF_MAXIMUM_SECONDS)
            await asyncio.sleep(random.random() * ceiling)  # noqa: S311 - no secret hangs on it

    @property
    def tasks(self) -> int:
        """How many tasks are held."""
        return len(self._held)

    def stop(self) -> bool:
        """Takes no more tasks; `talk` ends when none is left. Returns whether there is anything to wait for."""
        self._stopping = True
        self._outbox.put_nowait(Request(drain=workers_pb2.Drain()))
        self._hang_up_if_done()
        return self._welcome or bool(self._held)

    def hand_back(self) -> None:
        """Stops the tasks that still run, and reports those that have stopped, for other workers to try."""
        for held in list(self._held.values()):
            held.hand_back()

    async def close(self) -> None:
        """Ends whatever runs, without a word more to the server."""
        for held in self._held.values():
            held.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _hang_up_if_done(self) -> None:
        """Half-closes the stream once a worker that stops holds nothing.

        What the server had sent by then still comes before its end, and is not lost: it runs as well.
        """
        if self._stopping and not self._held:
            self._outbox.put_nowait(None)

    async def _stream(self) -> None:
        """One stream, from hello to its end."""
        self._outbox = asyncio.Queue()
        self._outbox.put_nowait(Request(hello=self._introduction()))
        if self._stopping:
            self._outbox.put_nowait(Request(drain=workers_pb2.Drain()))
        for held in self._held.values():
            held.resume()
        stream = await self._connection.work(_requests(self._outbox))
        refresher = asyncio.create_task(self._refresh_token())
        try:
            async for response in stream:
                self._take(response)
        finally:
            self._welcome = False
            self._on_connection(False)
            refresher.cancel()
            self._outbox.put_nowait(None)
            stream.cancel()

    def _introduction(self) -> workers_pb2.Hello:
        hello = workers_pb2.Hello()
        hello.CopyFrom(self._hello)
        hello.held.extend(held.lease for held in self._held.values())
        # A new task may have come before the answer to the report that made room for it. One that stops only reports.
        hello.max_concurrency = max(len(self._held), 1 if self._stopping else hello.max_concurrency)
        return hello

    async def _refresh_token(self) -> None:
        while True:
            await self._connection.until_stale()
            try:
                token = await self._connection.token()
            except grpc.aio.AioRpcError as error:
                log.warning("token not refreshed: %s", error.code().name)
                continue
            self._outbox.put_nowait(Request(refresh=workers_pb2.Refresh(token=token)))

    def _take(self, response: workers_pb2.WorkResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "welcome":
            self._failures = 0
            self._welcome = True
            self._on_connection(True)
        elif kind == "task":
            self._start(response.task)
        elif kind == "ack":
            if held := self._held.get(response.ack.lease.lease_token):
                held.answered(response.ack)
        elif kind == "cancel":
            if held := self._held.get(response.cancel.lease.lease_token):
                held.cancel(response.cancel.reason)
        elif kind == "drain":
            # Half-close: the server answers what it has read, then ends the stream, and we go elsewhere.
            self._outbox.put_nowait(None)

    def _start(self, leased: workers_pb2.LeasedTask) -> None:
        held = Held(leased, self._say, self._let_go)
        self._held[leased.lease.lease_token] = held
        running = asyncio.create_task(self._run(held))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def _say(self, request: Request) -> None:
        self._outbox.put_nowait(request)

    def _let_go(self, held: Held) -> None:
        del self._held[held.lease.lease_token]
        self._hang_up_if_done()


async def _requests(outbox: asyncio.Queue[Request | None]) -> AsyncIterator[Request]:
    while (request := await outbox.get()) is not None:
        yield request
