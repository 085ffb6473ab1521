"""Telemetry to a real OTLP collector: one trace from the client's call to the task's end, over server and worker."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import metrics, trace
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.service import PATIENCE, refused, serving

from openmcp.chain.v1 import rest_pb2, tasks_pb2
from openmcp_chain import telemetry
from openmcp_chain.engine import tracing
from openmcp_chain.transport import rpc
from openmcp_chain.worker import Context, TaskFailed, Worker, attempt

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: dict[str, Any] = {}
        self.raw = b""

    async def Export(self, request: Any, _: object) -> Any:  # noqa: N802 - OTLP's name
        self.raw += request.SerializeToString()
        if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in scope.metrics}
            return metrics_service_pb2.ExportMetricsServiceResponse()
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def sending(monkeypatch: pytest.MonkeyPatch, port: int) -> AsyncIterator[None]:
    """Telemetry configured as a process's is; flushed and taken back at the end of the block."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    await asyncio.to_thread(telemetry.configure, "openmcp-test", os.environ)
    try:
        yield
        await asyncio.to_thread(telemetry.flush)
    finally:
        # A process sets its providers once, and its tracers take them once; a test gives back what it took.
        for module in (rpc, tracing, attempt):
            module._tracer._real_tracer = None
        trace._TRACER_PROVIDER = None
        trace._TRACER_PROVIDER_SET_ONCE._done = False
        metrics_internal._METER_PROVIDER = None
        metrics_internal._METER_PROVIDER_SET_ONCE._done = False


@asynccontextmanager
async def collecting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """Telemetry sent to a collector, and all of it there at the end of the block."""
    collector, server = Collector(), grpc.aio.server()
    adding: list[Any] = [
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server,
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
    ]
    for add in adding:
        add(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with sending(monkeypatch, port):
            yield collector
    finally:
        await server.stop(None)


async def test_one_trace_from_the_clients_call_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Submit, wait, run and end of a task have the trace id of the client's traceparent, over all its attempts."""

    async def once_more(_: dict[str, Any], context: Context) -> dict[str, Any]:
        if context.attempt == 1:
            raise TaskFailed("S3CRET_CODE", "S3CRET text", retryable=True)
        return {"result": "S3CRET"}

    async with collecting(monkeypatch) as collector, serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")
        target = f"127.0.0.1:{service.port}"
        worker = Worker(target, workspace_id=operator.workspace_id, workspace_secret=operator.secret)
        worker.task("echo")(once_more)
        running = asyncio.create_task(worker.serve())
        request = tasks_pb2.SubmitTaskRequest(type="echo", metadata={"key": "S3CRET value"})
        metadata = (*tenant.metadata, ("traceparent", TRACEPARENT))
        summary = await service.tasks.SubmitTask(request, metadata=metadata, timeout=PATIENCE)
        assert len(await service.events(tenant, summary.task_id)) == 5
        worker.stop()
        await running
        await service.get(tenant, summary.task_id)
    ours = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    names = [span.name for span in ours]
    assert sorted(names) == [
        "openmcp.chain.v1.TaskService/SubmitTask",
        "task.end",
        "task.run",
        "task.run",
        "task.wait",
        "task.wait",
    ]
    submit = next(span for span in ours if span.name.endswith("SubmitTask"))
    assert submit.parent_span_id.hex() == "b7ad6b7169203331"
    assert {span.parent_span_id for span in ours if span is not submit} == {submit.span_id}
    other = [span for span in collector.spans if span.name.endswith("GetTask")]
    assert other
    assert all(span.trace_id.hex() != TRACE for span in other)
    assert {"rpc.server.duration", "openmcp.tasks.submitted", "openmcp.tasks.ended"} <= set(collector.metrics)
    (ended,) = collector.metrics["openmcp.tasks.ended"].sum.data_points
    assert ended.as_int == 1
    assert named(ended) == {"type": "echo", "status": "SUCCEEDED"}
    for secret in (b"S3CRET text", b"S3CRET value", tenant.token.encode(), operator.secret.encode()):
        assert secret not in collector.raw


async def test_every_wait_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """From when a task is ready, also one for later; and until it ends, if nobody claims it. Claims are measured."""

    async def echo(payload: dict[str, Any], _: Context) -> dict[str, Any]:
        return payload

    async with collecting(monkeypatch) as collector, serving() as service:
        tenant = await service.workspace()
        target = f"127.0.0.1:{service.port}"
        worker = Worker(target, workspace_id=tenant.workspace_id, workspace_secret=tenant.secret)
        worker.task("echo")(echo)
        running = asyncio.create_task(worker.serve())
        later = tasks_pb2.SubmitTaskRequest(type="echo")
        later.schedule_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=0.5))
        unclaimed = tasks_pb2.SubmitTaskRequest(type="nobody")
        unclaimed.schedule_to_start_timeout.FromTimedelta(timedelta(seconds=0.1))
        metadata = (*tenant.metadata, ("traceparent", TRACEPARENT))
        ids = []
        for request in (later, unclaimed):
            ids.append((await service.tasks.SubmitTask(request, metadata=metadata, timeout=PATIENCE)).task_id)
            await service.events(tenant, ids[-1])
        worker.stop()
        await running
    waits = {attribute(span, "openmcp.task.id"): span for span in collector.spans if span.name == "task.wait"}
    assert set(waits) == {*ids}
    assert {span.trace_id.hex() for span in waits.values()} == {TRACE}
    # To the millisecond, rounded twice.
    assert abs(waits[ids[0]].start_time_unix_nano - later.schedule_time.ToNanoseconds()) <= 2_000_000
    lasted = waits[ids[1]].end_time_unix_nano - waits[ids[1]].start_time_unix_nano
    assert lasted >= 100_000_000
    (measured,) = collector.metrics["openmcp.tasks.wait"].histogram.data_points
    assert measured.count == 1
    # An operator's types are few; a workspace has as many as it likes.
    assert named(measured) == {"type": "other"}
    ends = collector.metrics["openmcp.tasks.ended"].sum.data_points
    assert {named(end)["type"] for end in ends} == {"other"}
    (accepted,) = collector.metrics["openmcp.tasks.submitted"].sum.data_points
    assert (accepted.as_int, named(accepted)) == (2, {})


def named(measured: Any) -> dict[str, str]:
    """A measurement's attributes."""
    return {one.key: one.value.string_value for one in measured.attributes}


def attribute(span: Span, name: str) -> str:
    return next(one.value.string_value for one in span.attributes if one.key == name)


async def test_what_is_asked_all_the_time_begins_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor health nor the key set, which Envoy asks for; in a trace that there is, they have their place."""
    async with collecting(monkeypatch) as collector, serving() as service:
        health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(service.channel)
        for metadata in ((), (("traceparent", TRACEPARENT),)):
            await health.Check(health_pb2.HealthCheckRequest(), metadata=metadata, timeout=PATIENCE)
            await service.rest.ServeJsonWebKeySet(
                rest_pb2.ServeJsonWebKeySetRequest(), metadata=metadata, timeout=PATIENCE
            )
    assert sorted((span.name, span.trace_id.hex()) for span in collector.spans) == [
        ("grpc.health.v1.Health/Check", TRACE),
        ("openmcp.chain.v1.RestService/ServeJsonWebKeySet", TRACE),
    ]


async def test_no_exceptions_text_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen exception in a method leaves a span without its text."""

    async def broken(*_: object) -> None:
        raise ValueError("S3CRET")

    async with collecting(monkeypatch) as collector, serving() as service:
        caller = await service.workspace()
        monkeypatch.setattr(service.app.tasks, "get", broken)
        request = tasks_pb2.GetTaskRequest(task_id="x")
        told = await refused(service.tasks.GetTask(request, metadata=caller.metadata, timeout=PATIENCE))
        assert told.code == "INTERNAL"
    assert [span.name for span in collector.spans if span.name.endswith("GetTask")]
    assert b"S3CRET" not in collector.raw


@pytest.mark.parametrize(
    "traceparent", ["", "x", "00-0-0-00", "ff-" + "0" * 32, "00-" + "0" * 32 + "-" + "0" * 16 + "-01"]
)
async def test_bad_trace_context_is_ignored(traceparent: str) -> None:
    """A traceparent that is none, and any tracestate, neither fail the call nor travel on."""
    async with serving() as service:
        tenant, stream = await service.workspace(), service.work(await service.operator("echo"))
        await stream.hello()
        metadata = (*tenant.metadata, ("traceparent", traceparent), ("tracestate", ",=,a=b=c," * 50))
        await service.tasks.SubmitTask(tasks_pb2.SubmitTaskRequest(type="echo"), metadata=metadata, timeout=PATIENCE)
        assert (await stream.task()).traceparent == ""
        await stream.end()


@pytest.mark.parametrize("listens", [True, False], ids=["silent", "refuses"])
async def test_no_collector_holds_up_a_process(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process's end waits FLUSH_SECONDS for its telemetry and no longer, whether its collector is silent or gone."""
    monkeypatch.setattr(telemetry, "FLUSH_SECONDS", 0.1)
    with socket.socket() as collector:
        collector.bind(("127.0.0.1", 0))
        if listens:
            collector.listen()
        async with asyncio.timeout(PATIENCE), sending(monkeypatch, collector.getsockname()[1]):
            trace.get_tracer("test").start_span("last").end()
            metrics.get_meter("test").create_counter("last").add(1)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        },
    ],
)
def test_silent_without_an_endpoint(environment: dict[str, str]) -> None:
    """With nowhere to send it to, or switched off, no provider is installed."""
    telemetry.configure("openmcp-test", environment)
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
    assert type(metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider"
