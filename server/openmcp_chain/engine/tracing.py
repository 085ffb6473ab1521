"""One trace for a task's whole life: submit, wait, run and end, over processes and however long it takes.

The submit's trace context (https://www.w3.org/TR/trace-context/) is kept with the task. Spans that begin in one process
and end in another are recorded when they end, with the times that the task itself has. Without an exporter configured
all this does nothing.
"""

from datetime import datetime, timedelta

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
    if trace.get_current_span() is trace.INVALID_SPAN:  # as where nothing is traced
        return ""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent", "")


class Types:
    """The task types that metrics name: those that operators' workers were given here. All others are `other`.

    A workspace may make up thousands, and after 2,000 the SDK would name no new one of anybody.
    """

    def __init__(self) -> None:
        self._operated: set[str] = set()

    def operated(self, task_type: str) -> None:
        """An operator's worker was given a task of this type: those that an administrator has named are few."""
        self._operated.add(task_type)

    def name(self, task: Task) -> str:
        """What the task's type is called."""
        return task.type if task.type in self._operated else "other"


def record_wait(task: Task, ready: datetime, types: Types) -> None:
    """A task was claimed: records how long it had waited since it was `ready`."""
    _span("task.wait", task, ready, task.updated_at)
    waited.record((task.updated_at - ready).total_seconds(), {"type": types.name(task)})


def record_end(task: Task, types: Types) -> None:
    """A task ended: records how; and that it waited, if it ended without being claimed."""
    if task.events[-2].status is Status.PENDING:
        _span("task.wait", task, ready(task), task.updated_at)
    ended.add(1, {"type": types.name(task), "status": task.status.value})
    _span("task.end", task, task.submitted_at, task.updated_at)


def ready(task: Task) -> datetime:
    """Since when a task had waited for a worker, before its last event."""
    before, last = task.events[-2:]
    delay = next((int(before.context[name]) for name in ("ready_in_ms", "retry_in_ms") if name in before.context), 0)
    return min(before.at + timedelta(milliseconds=delay), last.at)


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
