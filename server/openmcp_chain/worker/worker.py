"""The worker's runtime: takes tasks from the server, runs their functions, keeps their leases, reports how they ended.

A report counts as made when the server has acknowledged it. Until then it is kept, over any number of cut streams; the
lease is what makes a repeated one harmless. Heartbeats go out at a third of the lease; a worker that can't send them
stops the task when two thirds of the lease are over, before the server gives it to another.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.worker.connection import Connection
from openmcp_chain.worker.task import Task, TaskFailed, TaskFunction

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
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

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
            for task in (keeper, stopper, talker, *(held.running for held in self._held.values() if held.running)):
                task.cancel()
            await asyncio.gather(keeper, stopper, talker, return_exceptions=True)
            await self._connection.close()

    def stop(self) -> None:
        """Takes no more tasks; `run` returns when those at hand have ended and are reported."""
        self._stopping.set()

    async def _drain(self) -> None:
        await self._stopping.wait()
        self._outbox.put_nowait(Request(drain=workers_pb2.Drain()))
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            log.warning("stopped before all tasks had ended", extra={"tasks": len(self._held)})

    async def _talk_for_ever(self) -> None:
        failures = 0
        while True:
            try:
                await self._talk()
                failures = 0
            except grpc.aio.AioRpcError as error:
                failures += 1
                # The status alone: details may come from anywhere.
                log.warning("connection lost", extra={"status": error.code().name})
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    self._connection.forget_token()
                elif error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT):
                    raise
            # Full jitter, so that a thousand workers don't come back at once.
            ceiling = min(BACKOFF_SECONDS * 2.0**failures, BACKOFF_MAXIMUM_SECONDS)
            await asyncio.sleep(random.random() * ceiling)  # noqa: S311 - no secret hangs on it

    async def _talk(self) -> None:
        """One stream, from hello to its end."""
        self._outbox = asyncio.Queue()
        for held in self._held.values():
            if held.report is not None:
                self._outbox.put_nowait(held.report)
        if self._stopping.is_set():
            self._outbox.put_nowait(Request(drain=workers_pb2.Drain()))
        refresher = asyncio.create_task(self._refresh_token())
        stream = await self._connection.work(self._requests(self._outbox))
        try:
            async for response in stream:
                self._take(response)
        finally:
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
                max_concurrency=self._concurrency,
                held=[held.leased.lease for held in self._held.values()],
            )
        )
        while (request := await outbox.get()) is not None:
            yield request

    async def _refresh_token(self) -> None:
        while True:
            await self._connection.until_stale()
            token = await self._connection.token()
            self._outbox.put_nowait(Request(refresh=workers_pb2.Refresh(token=token)))

    def _take(self, response: workers_pb2.WorkResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "welcome":
            self._lease_seconds = response.welcome.lease_duration.ToTimedelta().total_seconds()
            self._on_connection(True)
        elif kind == "task":
            held = Held(response.task, confirmed=asyncio.get_running_loop().time())
            self._held[response.task.lease.lease_token] = held
            self._idle.clear()
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
        if ack.error_code in ("UNAVAILABLE", "ABORTED"):
            # Not refused, only not done: say it again a little later.
            if held.report is not None:
                asyncio.get_running_loop().call_later(BACKOFF_SECONDS, self._outbox.put_nowait, held.report)
        elif ack.error_code:
            log.warning("report refused", extra={"task_id": ack.lease.task_id, "code": ack.error_code})
            self._let_go(held)
        elif held.report is None:
            held.confirmed = asyncio.get_running_loop().time()
        else:
            self._let_go(held)

    def _let_go(self, held: Held) -> None:
        self._held.pop(held.leased.lease.lease_token, None)
        if held.running is not None and held.running is not asyncio.current_task():
            held.running.cancel()
        if not self._held:
            self._idle.set()

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
            report = await self._outcome(leased)
            if report.HasField("fail"):
                span.set_status(trace.StatusCode.ERROR, report.fail.code)
        held.report = report
        self._outbox.put_nowait(report)

    async def _outcome(self, leased: workers_pb2.LeasedTask) -> Request:
        task = Task(
            workspace_id=leased.lease.workspace_id,
            task_id=leased.lease.task_id,
            type=leased.type,
            payload=MessageToDict(leased.payload),
            metadata=dict(leased.metadata),
            attempt=leased.attempt,
        )
        try:
            result = await self._functions[leased.type](task)
            complete = workers_pb2.Complete(lease=leased.lease, result=ParseDict(dict(result), Struct()))
            return Request(complete=complete)
        except TaskFailed as failure:
            return _failed(leased, failure.code, failure.message, retryable=failure.retryable)
        except (ParseError, RecursionError):
            return _failed(leased, "RESULT_INVALID", "the task returned what is not JSON", retryable=False)
        except Exception:
            log.exception("task function failed", extra={"task_id": task.task_id, "task_type": task.type})
            return _failed(leased, "WORKER_ERROR", "the worker made an error; its log says more", retryable=True)

    async def _keep_leases(self) -> None:
        """Sends heartbeats; stops tasks whose lease could not be kept."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._lease_seconds / 6)
            for held in list(self._held.values()):
                age = loop.time() - held.confirmed
                if held.running is not None and not held.running.done() and age > self._lease_seconds * 2 / 3:
                    log.warning("lease could not be kept", extra={"task_id": held.leased.lease.task_id})
                    self._let_go(held)
                elif held.report is None and age >= self._lease_seconds / 3:
                    self._outbox.put_nowait(Request(heartbeat=workers_pb2.Heartbeat(lease=held.leased.lease)))


def _failed(leased: workers_pb2.LeasedTask, code: str, message: str, *, retryable: bool) -> Request:
    return Request(fail=workers_pb2.Fail(lease=leased.lease, code=code, message=message, retryable=retryable))
