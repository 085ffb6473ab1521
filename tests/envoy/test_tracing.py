"""Traces, where a collector is configured."""

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from support.gateway import running
from support.http2 import Http2

from openmcp_chain.stack import ports
from openmcp_chain.stack.envoy import Address, sampling
from openmcp_chain.stack.envoy.collector import Collector

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


class Spans(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[trace_service_pb2.ExportTraceServiceRequest] = asyncio.Queue()
        self.metadata: dict[str, str | bytes] = {}

    async def Export(  # noqa: N802 - the method's name
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: "grpc.aio.ServicerContext[object, object]",
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.metadata = dict(context.invocation_metadata() or ())
        self.requests.put_nowait(request)
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def collecting(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[tuple[Spans, int]]:
    """A collector, and its port."""
    spans = Spans()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(spans, server)  # type: ignore[no-untyped-call]
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield spans, port
    finally:
        await server.stop(None)


def certificate(name: x509.GeneralName) -> tuple[bytes, bytes]:
    """A key and a certificate that signs itself, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "collector")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    return key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain), signed.public_bytes(pem)


async def test_spans_join_the_clients_trace(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Envoy's spans belong to the client's trace, the server's parent is one of them; nothing secret is in them.

    That is no query and no token, and nothing of headers, even of a call whose headers are refused; no method either,
    if it is none.
    """
    async with (
        collecting() as (collector, port),
        running(tmp_path_factory.mktemp("traced"), otlp=Collector("127.0.0.1", port)) as gateway,
    ):
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=S3CRET"}
        kept = ("user-agent", "x-client-trace-id", "grpc-timeout", "host")
        refused = {"content-type": "application/grpc+S3CRET", "x": "x" * 8192, **dict.fromkeys(kept, "S3CRET")}
        await gateway.rest.post(f"/v1/tasks/omcp_12345678_{'S3CRET' * 7}x", headers=headers | refused)
        method = {":method": "omcp_S3CRET", ":scheme": "http", ":authority": "x", ":path": "/v1/tasks"}
        url = gateway.rest.base_url
        async with Http2(url.host, url.port or 0) as connection:
            for more in ({}, {"x": "x" * 8192}):
                assert await connection.call([*(method | headers | more).items()], b"")
        await gateway.rest.get("/v1/tasks/x/events?after_sequence=S3CRET", headers=headers)
        await gateway.rest.get(f"/v1/tasks/omcp_12345678_{'S3CRET' * 7}x", headers=headers)
        await gateway.rest.get("/v1/tasks/pending", headers=headers)
        _, trace, parent, _ = gateway.upstream.tasks.metadata["traceparent"].split("-")
        assert trace == TRACE
        spans: dict[str, str] = {}
        async with asyncio.timeout(15):
            # Each of Envoy's threads sends its own.
            while parent not in spans or [*spans.values()].count(SPAN) < 6:
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
        assert len([child for child, of in spans.items() if of == SPAN]) == 6
        assert (await gateway.logged(TRACE))["trace_id"] == TRACE


async def test_what_is_asked_all_the_time_is_not_traced(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Envoy fetches the key set every few seconds, and a probe may ask for its health as often: no spans."""
    async with (
        collecting() as (collector, port),
        running(tmp_path_factory.mktemp("untraced"), otlp=Collector("127.0.0.1", port)) as gateway,
    ):
        for path in ("/.well-known/jwks.json", "/healthz", "/v1/tasks/pending"):
            assert (await gateway.rest.get(path)).status_code == 200
        paths = set()
        async with asyncio.timeout(15):
            while "/v1/tasks/pending" not in paths:
                request = await collector.requests.get()
                paths |= {
                    attribute.value.string_value
                    for resource in request.resource_spans
                    for scope in resource.scope_spans
                    for span in scope.spans
                    for attribute in span.attributes
                    if attribute.key == "url.path"
                }
        assert paths == {"/v1/tasks/pending"}


async def test_traces_that_are_not_sampled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whoever follows Envoy is told of it; where a caller has decided, that stands."""
    async with collecting() as (collector, port):
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0",
        }
        folder = tmp_path_factory.mktemp("sampled")
        async with running(folder, otlp=Collector.from_environment(environment)) as gateway:
            await gateway.rest.get("/v1/tasks/pending")
            assert gateway.upstream.tasks.metadata["traceparent"].endswith("-00")
            async with asyncio.timeout(15):
                while collector.requests.empty():  # what is sent before there is a connection is lost
                    await gateway.rest.get("/v1/tasks/pending", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        request = collector.requests.get_nowait()
    spans = [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
    assert {span.trace_id.hex() for span in spans} == {TRACE}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", x509.DNSName("localhost")),
        ("127.0.0.1", x509.IPAddress(ipaddress.ip_address("127.0.0.1"))),
    ],
)
async def test_spans_go_by_tls(tmp_path_factory: pytest.TempPathFactory, host: str, name: x509.GeneralName) -> None:
    """To an https collector spans go by TLS, with the headers that it asks for, as OpenTelemetry's variables say."""
    folder = tmp_path_factory.mktemp("tls")
    key, chain = certificate(name)
    (folder / "roots.pem").write_bytes(chain)
    async with collecting(grpc.ssl_server_credentials([(key, chain)])) as (collector, port):
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://{host}:{port}",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(folder / "roots.pem"),
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20key,X-Tenant=one",
        }
        async with running(folder, otlp=Collector.from_environment(environment)) as gateway:
            async with asyncio.timeout(30):
                while collector.requests.empty():  # what is sent before there is a connection is lost
                    await gateway.rest.get("/v1/tasks/pending")
    assert (collector.metadata["api-key"], collector.metadata["x-tenant"]) == ("a key", "one")


async def test_no_spans_go_to_a_stranger(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A collector whose certificate is another's gets nothing: Envoy hangs up. Calls are served as ever."""
    folder = tmp_path_factory.mktemp("stranger")
    key, chain = certificate(x509.DNSName("elsewhere.example"))
    (admin,) = ports.choose({"admin": 0})
    async with collecting(grpc.ssl_server_credentials([(key, chain)])) as (collector, port):
        otlp = Collector("localhost", port, roots=chain.decode())
        async with running(folder, otlp=otlp, admin=Address("127.0.0.1", admin)) as gateway:
            refused = f"http://127.0.0.1:{admin}/stats?filter=^cluster.otlp.ssl.fail_verify_san$"
            async with asyncio.timeout(15):
                while (await gateway.anonymous.get(refused)).text.strip().endswith(": 0"):
                    # Each makes spans: those of one may go with a connection that was not there yet.
                    assert (await gateway.rest.get("/v1/tasks/pending")).status_code == 200
        assert collector.requests.empty()


def test_collectors() -> None:
    """The variable for traces goes before the general one; without a certificate, those that gRPC trusts count."""
    general = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://a.example"}
    assert Collector.from_environment({}) is None
    assert Collector.from_environment(general | {"OTEL_TRACES_EXPORTER": "none"}) is None
    found = Collector.from_environment(general)
    assert found
    assert (found.host, found.port) == ("a.example", 4317)
    assert "BEGIN CERTIFICATE" in (found.roots or "")
    traces = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b.example:1"}
    assert Collector.from_environment(general | traces) == Collector("b.example", 1)


@pytest.mark.parametrize(
    ("name", "argument", "share", "follows"),
    [
        ("always_on", "", 1_000_000, False),
        ("always_off", "0.5", 0, False),
        ("traceidratio", "", 1_000_000, False),
        ("parentbased_always_off", "", 0, True),
        ("ParentBased_TraceIdRatio", "0.25", 250_000, True),
    ],
)
def test_samplers(name: str, argument: str, share: int, follows: bool) -> None:
    """OpenTelemetry's samplers have their names and meanings for Envoy too."""
    sampler = sampling.from_environment({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument})
    assert sampler
    assert ("wrapped_sampler" in sampler["typed_config"]) is follows
    sampler = sampler["typed_config"].get("wrapped_sampler", sampler)
    assert sampler["typed_config"]["sampling_percentage"] == {"numerator": share, "denominator": "MILLION"}


@pytest.mark.parametrize("name", ["", "parentbased_always_on", "parentbased_jaeger_remote"])
def test_the_usual_sampler(name: str) -> None:
    """Is Envoy's own; and so for a name that it does not know."""
    assert sampling.from_environment({"OTEL_TRACES_SAMPLER": name}) is None


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}, "must be http://host:port or https://host:port"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "unix:///x"}, "must be http://host:port or https://host:port"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/none.pem"},
            "the OTLP certificate '/none.pem' can't be read",
        ),
        *(
            (
                {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
                    "OTEL_TRACES_SAMPLER": "traceidratio",
                    "OTEL_TRACES_SAMPLER_ARG": text,
                },
                f"OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1, not '{text}'",
            )
            for text in ("1.5", "nan", "some")
        ),
    ],
)
def test_bad_collectors(environment: dict[str, str], named: str) -> None:
    """What is no collector's address, or can't be trusted, is said in one line."""
    with pytest.raises(ValueError, match=re.escape(named)):
        Collector.from_environment(environment)
