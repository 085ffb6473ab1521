"""Runs one attempt at a task, and makes of how it ended the report that the server gets.

Whatever a function does, there is a report, unless the lease is lost: without one the lease of a task that nobody works
on would be kept for ever.
"""

import asyncio
import logging

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.client.payloads import from_struct
from openmcp_chain.worker import reports
from openmcp_chain.worker.functions import Function
from openmcp_chain.worker.held import Held
from openmcp_chain.worker.payloads import Misfit
from openmcp_chain.worker.task import TaskFailed
from openmcp_chain.worker.threads import NoRoom, Threads

log = logging.getLogger(__name__)

_tracer = trace.get_tracer("openmcp_chain.worker")
_propagator = TraceContextTextMapPropagator()


async def run(held: Held, function: Function, threads: Threads) -> None:
    """Runs the task's function, and hands `held` the report."""
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
        report = await _attempt(held, function, threads)
        if report.HasField("fail"):
            span.set_status(trace.StatusCode.ERROR, report.fail.code)
    held.end(report)


async def _attempt(held: Held, function: Function, threads: Threads) -> workers_pb2.WorkRequest:
    lease, told = held.lease, {"task_id": held.lease.task_id, "task_type": held.leased.type}
    running = asyncio.current_task()
    if function.asynchronous and running is not None:
        held.interrupted_by(running.cancel)
    try:
        held.context.check()  # it may have been stopped before it has begun
        payload = function.read(from_struct(held.leased.payload))
        return reports.completed(lease, await function.run(payload, held.context, threads))
    except Misfit as misfit:
        return reports.failed(lease, "PAYLOAD_INVALID", misfit.told("payload"))
    except NoRoom:
        message = "the worker's threads are taken by functions that do not end"
        return reports.failed(lease, "WORKER_BUSY", message, retryable=True, retry_delay=0)
    except TaskFailed as failure:
        return reports.refused(lease, failure)
    except asyncio.CancelledError:
        if held.farewell is not None:
            return held.farewell
        if held.context.cancelled or (running is not None and running.cancelling()):
            raise  # the lease is lost, or the worker itself is being cancelled
        # The function gave up something of its own: nobody told it to stop.
        log.exception("task function gave itself up", extra=told)
    except (Exception, SystemExit):
        log.exception("task function failed", extra=told)
    return reports.failed(lease, "WORKER_ERROR", "the worker made an error; its log says more", retryable=True)
