"""A worker's conversation with the server: one stream after another, and the leases that it is about."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine

import grpc

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.client import errors
from openmcp_chain.worker.connection import Connection
from openmcp_chain.worker.held import Held

log = logging.getLogger(__name__)

BACKOFF_SECONDS = 0.2
BACKOFF_MAXIMUM_SECONDS = 5.0

Request = workers_pb2.WorkRequest


HUNG_SECONDS = 5.0
"""How long a function may go on whose task is not this worker's any more; past it, its place counts as lost."""
REFUSED_SECONDS = 10.0
"""How long credentials are tried that are refused: they may be so new that not every server knows them."""


class WorkerRefused(Exception):
    """The server will not have this worker, however often it asks.

    The text is the server's, from its error table, or names the settings at fault.
    """


class WorkerStuck(Exception):
    """As many functions as may run at a time do not end, though their tasks were given up: only a new process helps."""


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
        self._refused_at: float | None = None
        """Since when the credentials have been refused."""
        self._hung = 0
        """How many functions go on whose tasks were given up; each takes a place."""
        self._stuck = False
        self._closed = False

    async def talk(self) -> None:
        """One stream after another; returns when the worker stops and holds nothing more.

        Raises WorkerRefused, WorkerStuck.
        """
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
                    self._credentials_refused(error)
                elif error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT):
                    raise WorkerRefused(error.details()) from None
            # For leases that could not be kept no server is waited for.
            if self._stopping and all(held.given_up for held in self._held.values()):
                if self._stuck:
                    raise WorkerStuck(f"{self._hung} functions do not end, and no other may run beside them")
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
        self._closed = True
        for held in self._held.values():
            held.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _credentials_refused(self, error: grpc.aio.AioRpcError) -> None:
        refusal = errors.read(error.code().name, error.details() or "", error.trailing_metadata() or ())
        if refusal.code != "CREDENTIALS_INVALID":
            return
        now = asyncio.get_running_loop().time()
        if self._refused_at is None:
            self._refused_at = now
        elif now - self._refused_at >= REFUSED_SECONDS:
            raise WorkerRefused(
                "the workspace and its secret are not accepted (OPENMCP_WORKSPACE_ID, OPENMCP_WORKSPACE_SECRET or "
                f"OPENMCP_WORKSPACE_SECRET_FILE): {refusal.message}"
            ) from None

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
        room = 1 if self._stopping else hello.max_concurrency - self._hung
        hello.max_concurrency = max(len(self._held), room)
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
            self._refused_at = None
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
        held = Held(
            leased,
            self._say,
            lambda held: self._look_later(held, running),
            lambda held: self._let_go(held, running),
        )
        self._held[leased.lease.lease_token] = held
        running = asyncio.create_task(self._run(held))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def _say(self, request: Request) -> None:
        self._outbox.put_nowait(request)

    def _let_go(self, held: Held, running: asyncio.Task[None]) -> None:
        del self._held[held.lease.lease_token]
        if not running.done() and not held.given_up:
            self._look_later(held, running)
        self._hang_up_if_done()

    def _look_later(self, held: Held, running: asyncio.Task[None]) -> None:
        asyncio.get_running_loop().call_later(HUNG_SECONDS, self._look_whether_hung, held, running)

    def _look_whether_hung(self, held: Held, running: asyncio.Task[None]) -> None:
        if running.done() or self._closed:
            return
        self._hung += 1
        if self._held.pop(held.lease.lease_token, None) is not None:  # given up, but the lease's end is not known yet
            held.close()
            self._hang_up_if_done()
        told = {"task_id": held.lease.task_id, "task_type": held.leased.type}
        log.error("a function does not end, though its task was given up: it keeps its place", extra=told)
        running.add_done_callback(self._ended_after_all)
        if self._hung < self._hello.max_concurrency:
            self._go_round()
        elif not self._stopping:
            self._stuck = True
            self.stop()

    def _ended_after_all(self, _: asyncio.Task[None]) -> None:
        self._hung -= 1
        if not self._closed:
            log.warning("a function that was given up has ended: it has left its place")
            self._go_round()

    def _go_round(self) -> None:
        """Opens another stream, since how many tasks there is room for is said at a stream's beginning."""
        if not self._stopping:
            self._outbox.put_nowait(None)


async def _requests(outbox: asyncio.Queue[Request | None]) -> AsyncIterator[Request]:
    while (request := await outbox.get()) is not None:
        yield request
