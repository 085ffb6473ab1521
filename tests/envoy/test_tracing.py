"""Traces, where a collector is configured."""

import asyncio

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from support.gateway import running

from openmcp_chain.stack.envoy import Address

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[trace_service_pb2.ExportTraceServiceRequest] = asyncio.Queue()

    async def Export(  # noqa: N802 - the method's name
        self, request: trace_service_pb2.ExportTraceServiceRequest, _: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.requests.put_nowait(request)
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_spans_join_the_clients_trace(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Envoy's spans belong to the client's trace, the server's parent is one of them; no query or token is in them."""
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with running(tmp_path_factory.mktemp("traced"), otlp=Address("127.0.0.1", port)) as gateway:
            headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
            await gateway.rest.get("/v1/tasks/x/events?after_sequence=S3CRET", headers=headers)
            await gateway.rest.get("/v1/tasks/pending", headers=headers)
            _, trace, parent, _ = gateway.upstream.tasks.metadata["traceparent"].split("-")
            assert trace == TRACE
            spans: dict[str, str] = {}
            async with asyncio.timeout(15):
                while parent not in spans:
                    request = await collector.requests.get()
                    sent = request.SerializeToString()
                    assert b"S3CRET" not in sent
                    assert b"eyJ" not in sent
                    spans |= {
                        span.span_id.hex(): span.parent_span_id.hex()
                        for resource in request.resource_spans
                        for scope in resource.scope_spans
                        for span in scope.spans
                        if span.trace_id.hex() == TRACE
                    }
            assert spans[spans[parent]] == SPAN
            assert len([child for child, of in spans.items() if of == SPAN]) == 2
    finally:
        await server.stop(None)
