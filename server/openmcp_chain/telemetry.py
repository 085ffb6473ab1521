"""Traces and metrics by OpenTelemetry: sent by OTLP where the OTEL_EXPORTER_OTLP_* variables say so, else not at all.

By gRPC, the one protocol for which the exporters are there, and in W3C's trace context, the one that Envoy passes on.
Without an endpoint no provider is installed, and the API's calls in the code do next to nothing. Sampling follows the
standard OTEL_TRACES_SAMPLER; so does that of Envoy, which begins most traces (`stack.envoy.sampling`).
"""

import contextlib
import os
import threading
import time
from collections.abc import Mapping

from opentelemetry import metrics, trace

FLUSH_SECONDS = 3.0
"""How long the last sending may hold up a process's end."""


def configure(service: str, environment: Mapping[str, str] = os.environ) -> None:
    """Sends this process's telemetry under the name `service`, if there is somewhere to send it."""
    traces, measures = (_wanted(kind, environment) for kind in ("TRACES", "METRICS"))
    if not traces and not measures:
        return
    # Loaded only where it is used: it is a third of the server's start.
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 - as said above
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - as said above
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - as said above
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415 - as said above
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415 - as said above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as said above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as said above

    resource = Resource.create({SERVICE_NAME: environment.get("OTEL_SERVICE_NAME", service)})
    if traces:
        tracer = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracer.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(tracer)
    if measures:
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        metrics.set_meter_provider(MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False))


def _wanted(kind: str, environment: Mapping[str, str]) -> bool:
    switched_off = environment.get(f"OTEL_{kind}_EXPORTER") == "none"
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{kind}_ENDPOINT")
    return any(environment.get(name) for name in names) and not switched_off


def flush() -> None:
    """Sends what is still in memory, for FLUSH_SECONDS at most. Called once, before a process ends.

    The exporters themselves try for ten seconds each, and that again if they were at it already.
    """
    end = time.monotonic() + FLUSH_SECONDS
    # Side by side; what a collector does not take in time goes with the process.
    threads = [
        threading.Thread(target=_shut_down, args=(provider,), daemon=True)
        for provider in (trace.get_tracer_provider(), metrics.get_meter_provider())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _shut_down(provider: object) -> None:
    shutdown = getattr(provider, "shutdown", None)
    if shutdown is not None:
        # The exporters have logged what they could not send; there is nobody else to tell.
        with contextlib.suppress(Exception):
            shutdown()
