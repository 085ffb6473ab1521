"""One trace for a task's whole life: submit, wait, run and end, over processes and however long it takes.

The submit's trace context (https://www.w3.org/TR/trace-context/) is kept with the task. Spans that begin in one process
and end in another are recorded when they end, with the times that the task itself has. Without an exporter configured
all this does nothing.
"""

from datetime import datetime

from opentelemetry import metrics, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from openmcp_chain.domain.task import Status, Task

_tracer = trace.get_tracer("openmcp_chain.engine")
_meter = metrics.get_meter("openmcp_chain.engine")
_propagator = TraceContextTextMapPropagator()

submitted = _meter.create_counter("openmcp.tasks.submitted", description="Tasks accepted.")
ended = _meter.create_counter("openmcp.tasks.ended", description="Tasks ended, by type and status.")
waited = _meter.create_histogram("openmcp.tasks.wait", unit="s", description="From ready to claimed.")


def current() -> str:
    """The trace context that the running call belongs to, as a traceparent; empty if it has none."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent", "")


def record_wait(task: Task) -> None:
    """A task was claimed: records how long it waited, since the event before the claim or since it was ready."""
    claimed = task.events[-1]
    before = task.events[-2]
    if "scheduled" in before.context:
        return  # most of the time it was not to run yet
    delay = int(before.context.get("retry_in_ms", 0)) / 1000
    waited.record(max(0.0, (claimed.at - before.at).total_seconds() - delay), {"type": task.type})
    _span("task.wait", task, before.at, claimed.at)


def record_end(task: Task) -> None:
    """A task ended: records how."""
    ended.add(1, {"type": task.type, "status": task.status.value})
    _span("task.end", task, task.submitted_at, task.updated_at)


def _span(name: str, task: Task, start: datetime, end: datetime) -> None:
    if not task.traceparent:
        return
    parent = _propagator.extract({"traceparent": task.traceparent})
    attributes: dict[str, str | int] = {
        "openmcp.task.id": task.id,
        "openmcp.task.type": task.type,
        "openmcp.task.attempt": task.attempt,
    }
    span = _tracer.start_span(name, parent, start_time=_nanoseconds(start), attributes=attributes)
    if task.status is Status.FAILED and task.failure is not None:
        span.set_status(trace.StatusCode.ERROR, task.failure.code)
    span.end(_nanoseconds(end))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000) * 1_000_000
