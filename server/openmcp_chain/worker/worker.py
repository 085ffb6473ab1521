"""The worker's runtime: takes tasks from the server, runs their functions, keeps their leases, reports how they ended.

A report counts as made when the server has acknowledged it. Until then it is kept, over any number of cut streams; the
lease is what makes a repeated one harmless. Heartbeats go out at a third of the lease; a worker that can't send them
stops the task when two thirds of the lease are over, before the server gives it to another.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import grpc
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.worker import outcome
from openmcp_chain.worker.connection import Connection
from openmcp_chain.worker.task import TaskFunction

log = logging.getLogger(__name__)

BACKOFF_SECONDS = 0.2
BACKOFF_MAXIMUM_SECONDS = 5.0
DRAIN_SECONDS = 20.0
"""How long running tasks may go on after a signal to stop."""

_tracer = trace.get_tracer("openmcp_chain.worker")
_propagator = TraceContextTextMapPropagator()

Request = workers_pb2.WorkRequest


@dataclass(slots=True)
class Held:
    """A leased task in this worker's hands."""

    leased: workers_pb2.LeasedTask
    running: asyncio.Task[None] | None = None
    confirmed: float = 0.0
    """When the lease was last known to be ours, by the loop's clock."""
    report: Request | None = None
    """How it ended, until the server has acknowledged it."""
    unanswered: int = 0
    """What was said of it on this stream and has no answer yet. An answer does not tell what it answers: the report
    counts as acknowledged when nothing is unanswered, lest the answer to an earlier heartbeat be taken for its own."""
    repeat: bool = False
    """Whether one of the answers was that it could not be done now."""


class Worker:
    """Runs task functions for a server until it is told to stop."""

    def __init__(
        self,
        connection: Connection,
        functions: Mapping[str, TaskFunction],
        *,
        name: str,
        version: str = "",
        concurrency: int = 4,
        on_connection: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`functions` by task type. `name` appears in the events of each task that it runs.

        `on_connection` is told True when a server has taken the worker on, and False when the stream to it has ended.
        """
        self._connection = connection
        self._functions = functions
        self._name = name
        self._version = version
        self._concurrency = concurrency
        self._on_connection = on_connection
        self._held: dict[str, Held] = {}
        self._outbox: asyncio.Queue[Request | None] = asyncio.Queue()
        self._lease_seconds = 15.0
        self._greeted = asyncio.Event()
        self._stopping = asyncio.Event()
        self._welcome = False
        """Whether there is a stream on which tasks may come."""
        self._failures = 0

    async def run(self) -> None:
        """Works until `stop`; then ends what is running, for DRAIN_SECONDS at most."""
        keeper = asyncio.create_task(self._keep_leases())
        stopper = asyncio.create_task(self._drain())
        talker = asyncio.create_task(self._talk_for_ever())
        try:
            done, _ = await asyncio.wait({keeper, stopper, talker}, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            running = [held.running for held in self._held.values() if held.running is not None]
            for task in (keeper, stopper, talker, *running):
                task.cancel()
            await asyncio.gather(keeper, stopper, talker, *running, return_exceptions=True)
            await self._connection.close()

    def stop(self) -> None:
        """Takes no more tasks; `run` returns when those at hand have ended and are reported."""
        self._stopping.set()

    async def _drain(self) -> None:
        """After `stop`: ends the run, at the latest after DRAIN_SECONDS; `_talk_for_ever` usually does so before."""
        await self._stopping.wait()
        if not self._held and not self._welcome:
            return
        self._outbox.put_nowait(Request(drain=workers_pb2.Drain()))
        self._hang_up_if_done()
        await asyncio.sleep(DRAIN_SECONDS)
        log.warning("stopped before all tasks had ended", extra={"tasks": len(self._held)})

    def _hang_up_if_done(self) -> None:
        """Half-closes the stream once a worker that stops holds nothing.

        What the server had sent by then still comes before its end, and is not lost: it runs as well.
        """
        if self._stopping.is_set() and not self._held:
            self._outbox.put_nowait(None)

    async def _talk_for_ever(self) -> None:
        """One stream after another; returns when the worker stops and holds nothing more."""
        while True:
            try:
                await self._talk()
                self._failures = 0
            except grpc.aio.AioRpcError as error:
                self._failures += 1
                # The status alone: details may come from anywhere.
                log.warning("connection lost", extra={"status": error.code().name})
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    self._connection.forget_token()
                elif error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT):
                    raise
            if self._stopping.is_set() and not self._held:
                return
            # Full jitter, so that a thousand workers don't come back at once.
            ceiling = min(BACKOFF_SECONDS * 2.0**self._failures, BACKOFF_MAXIMUM_SECONDS)
            await asyncio.sleep(random.random() * ceiling)  # noqa: S311 - no secret hangs on it

    async def _talk(self) -> None:
        """One stream, from hello to its end."""
        self._outbox = asyncio.Queue()
        for held in self._held.values():
            held.unanswered = 0
            if held.report is not None:
                self._say(held, held.report)
        if self._stopping.is_set():
            self._outbox.put_nowait(Request(drain=workers_pb2.Drain()))
        stream = await self._connection.work(self._requests(self._outbox))
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

    async def _requests(self, outbox: asyncio.Queue[Request | None]) -> AsyncIterator[Request]:
        yield Request(
            hello=workers_pb2.Hello(
                worker_name=self._name,
                worker_version=self._version,
                task_types=sorted(self._functions),
                # One that stops only comes to report.
                max_concurrency=max(1, len(self._held)) if self._stopping.is_set() else self._concurrency,
                held=[held.leased.lease for held in self._held.values()],
            )
        )
        while (request := await outbox.get()) is not None:
            yield request

    async def _refresh_token(self) -> None:
        while True:
            await self._connection.until_stale()
            try:
                token = await self._connection.token()
            except grpc.aio.AioRpcError as error:
                log.warning("token not refreshed", extra={"status": error.code().name})
                continue
            self._outbox.put_nowait(Request(refresh=workers_pb2.Refresh(token=token)))

    def _take(self, response: workers_pb2.WorkResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "welcome":
            self._lease_seconds = response.welcome.lease_duration.ToTimedelta().total_seconds()
            self._greeted.set()
            self._failures = 0
            self._welcome = True
            self._on_connection(True)
        elif kind == "task":
            held = Held(response.task, confirmed=asyncio.get_running_loop().time())
            self._held[response.task.lease.lease_token] = held
            held.running = asyncio.create_task(self._run(held))
        elif kind == "ack":
            self._acknowledged(response.ack)
        elif kind == "drain":
            # Half-close: the server answers what it has read, then ends the stream, and we go elsewhere.
            self._outbox.put_nowait(None)

    def _acknowledged(self, ack: workers_pb2.Ack) -> None:
        held = self._held.get(ack.lease.lease_token)
        if held is None:
            return
        held.unanswered -= 1
        if ack.error_code in ("UNAVAILABLE", "ABORTED"):
            held.repeat = True
        elif ack.error_code:
            log.warning("report refused", extra={"task_id": ack.lease.task_id, "code": ack.error_code})
            self._let_go(held)
            return
        elif held.report is None:
            held.confirmed = asyncio.get_running_loop().time()
        if held.report is not None and held.unanswered == 0:
            if held.repeat:
                # Not refused, only not done: say it again a little later.
                held.repeat = False
                asyncio.get_running_loop().call_later(BACKOFF_SECONDS, self._repeat, held, held.report, self._outbox)
            else:
                self._let_go(held)

    def _repeat(self, held: Held, report: Request, outbox: asyncio.Queue[Request | None]) -> None:
        """Says the report again, unless it was said on a new stream meanwhile."""
        if outbox is self._outbox:
            self._say(held, report)

    def _say(self, held: Held, request: Request) -> None:
        held.unanswered += 1
        self._outbox.put_nowait(request)

    def _let_go(self, held: Held) -> None:
        self._held.pop(held.leased.lease.lease_token, None)
        if held.running is not None and held.running is not asyncio.current_task():
            held.running.cancel()
        self._hang_up_if_done()

    async def _run(self, held: Held) -> None:
        leased = held.leased
        parent = _propagator.extract({"traceparent": leased.traceparent}) if leased.traceparent else None
        with _tracer.start_as_current_span(
            "task.run",
            parent,
            kind=trace.SpanKind.CONSUMER,
            attributes={"openmcp.task.id": leased.lease.task_id, "openmcp.task.type": leased.type},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            report = await outcome.attempt(self._functions, leased)
            if report.HasField("fail"):
                span.set_status(trace.StatusCode.ERROR, report.fail.code)
        if leased.lease.lease_token in self._held:  # else its function ran on after it was stopped
            held.report, held.repeat = report, False
            self._say(held, report)

    async def _keep_leases(self) -> None:
        """Sends heartbeats; stops tasks whose lease could not be kept."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                # A welcome may tell of a shorter lease than the one by which this wait was measured.
                async with asyncio.timeout(self._lease_seconds / 6):
                    await self._greeted.wait()
            self._greeted.clear()
            for held in list(self._held.values()):
                age = loop.time() - held.confirmed
                if held.running is not None and not held.running.done() and age > self._lease_seconds * 2 / 3:
                    log.warning("lease could not be kept", extra={"task_id": held.leased.lease.task_id})
                    self._let_go(held)
                elif held.report is None and age >= self._lease_seconds / 3:
                    self._say(held, Request(heartbeat=workers_pb2.Heartbeat(lease=held.leased.lease)))
