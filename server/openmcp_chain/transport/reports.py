"""What workers say, by a stream or by a call: checked, and passed on to `engine.leases`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Protocol, Self, TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain import structs
from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Failure, Progress, Task
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine.held import Held
from openmcp_chain.engine.leases import LeaseRef, Leases
from openmcp_chain.engine.sessions import Demand
from openmcp_chain.transport import codec
from openmcp_chain.transport.checks import FAILURE_CODE_CHARACTERS, Checks

TASK_TYPES = 64
FAILURE_MESSAGE_CHARACTERS = 2048
LOG_CHARACTERS = 1024
PROGRESS_CHARACTERS = 256
LONGEST_DELAY_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Completed:
    """A report that a task was done, of which nothing is decoded any more."""

    lease: workers_pb2.LeaseRef
    result: bytes | errors.InvalidArgument
    """Serialized; or why it can't be kept."""

    @classmethod
    def read(cls, field: str, lease: workers_pb2.LeaseRef, result: Struct) -> Self:
        """Reads the report. Runs in a thread where it is large."""
        own = workers_pb2.LeaseRef()  # the one that was sent holds all of its message
        own.CopyFrom(lease)
        checks = Checks()
        try:
            data = checks.struct(field, result, deterministic=True)
            checks.done()
        except errors.InvalidArgument as error:
            return cls(own, error.with_traceback(None))
        return cls(own, data)

    @classmethod
    def too_large(cls, field: str, lease: workers_pb2.LeaseRef) -> Self:
        """The same of one that is known to be too large, and was not read."""
        return cls(lease, errors.InvalidArgument(structs.too_large(field)))

    def ByteSize(self) -> int:
        return self.lease.ByteSize() + (len(self.result) if isinstance(self.result, bytes) else 0)


Report: TypeAlias = workers_pb2.Heartbeat | Completed | workers_pb2.Fail | workers_pb2.Stopped | workers_pb2.Log


def cut(report: Report) -> Report:
    """A report by itself, of what is kept of it: as it came, it holds all of its request, which it may wait with."""
    if isinstance(report, Completed):
        return report
    report.DiscardUnknownFields()
    if isinstance(report, workers_pb2.Log):
        return workers_pb2.Log(lease=report.lease, message=report.message[:LOG_CHARACTERS])
    if isinstance(report, workers_pb2.Heartbeat):
        own = workers_pb2.Heartbeat(lease=report.lease)
        if report.HasField("progress"):
            own.progress.fraction = report.progress.fraction
            own.progress.message = report.progress.message[:PROGRESS_CHARACTERS]
        return own
    if isinstance(report, workers_pb2.Fail):
        return workers_pb2.Fail(
            lease=report.lease,
            code=report.code[:FAILURE_CODE_CHARACTERS],
            message=report.message[:FAILURE_MESSAGE_CHARACTERS],
            retryable=report.retryable,
            retry_delay=report.retry_delay if report.HasField("retry_delay") else None,
        )
    return workers_pb2.Stopped(lease=report.lease)


class Introduction(Protocol):
    """What Hello and LeaseTasksRequest have in common."""

    @property
    def worker_name(self) -> str: ...
    @property
    def worker_version(self) -> str: ...
    @property
    def task_types(self) -> Sequence[str]: ...


def introduce(checks: Checks, prefix: str, worker: Introduction) -> None:
    """Checks how a worker introduces itself."""
    checks.name(f"{prefix}worker_name", worker.worker_name)
    if worker.worker_version:
        checks.name(f"{prefix}worker_version", worker.worker_version)
    if not 1 <= len(worker.task_types) <= TASK_TYPES:
        checks.refuse(f"{prefix}task_types", f"must name 1 to {TASK_TYPES} types")
    for index, task_type in enumerate(worker.task_types[:TASK_TYPES]):
        checks.task_type(f"{prefix}task_types[{index}]", task_type)


def allow(principal: Principal, task_types: Sequence[str]) -> None:
    """Raises TypeNotAllowed if the worker asks for more than its credential covers."""
    for task_type in task_types:
        if principal.worker_types and task_type not in principal.worker_types:
            raise errors.TypeNotAllowed(task_type)


def demand(principal: Principal, task_types: Sequence[str]) -> Demand:
    """What a worker takes: an operator's from every workspace, others from their own."""
    return Demand(frozenset(task_types), None if principal.worker_types else principal.workspace)


class Reports:
    """Carries out what workers report."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    def allowed(self, principal: Principal, held: Held, report: Report) -> Report | None:
        """What of a stream's report under its lease may be carried out (see `engine.pace`).

        All of it, a heartbeat without its progress, or None for a heartbeat that the lease does not need. Raises
        RateLimited.
        """
        takes = partial(self._leases.takes, principal, held)
        if isinstance(report, workers_pb2.Heartbeat):
            if report.HasField("progress"):
                if takes(writes=True):
                    return report
                report = workers_pb2.Heartbeat(lease=report.lease)
            if takes():
                return report
            if self._leases.kept_lately(held):
                return None
        else:
            # To stop is no end where that was not asked for.
            stops = isinstance(report, workers_pb2.Stopped) and held.task.cancel is not None
            ends = stops or isinstance(report, Completed | workers_pb2.Fail)
            if takes(ends=ends, writes=not ends):
                return report
        raise errors.RateLimited("reports")

    async def carry_out(self, principal: Principal, report: Report) -> None:
        """Does what a message of a stream says; its lease was checked. Raises what the worker is told."""
        ref = codec.lease_ref(report.lease)
        if isinstance(report, Completed):
            await self.complete(principal, report)
        elif isinstance(report, workers_pb2.Fail):
            delay = report.retry_delay if report.HasField("retry_delay") else None
            await self.fail(principal, ref, report.code, report.message, delay, "fail.", retryable=report.retryable)
        elif isinstance(report, workers_pb2.Stopped):
            await self._leases.stop(principal, ref)
        elif isinstance(report, workers_pb2.Log):
            await self.heartbeat(principal, ref, None, "", report.message)
        else:
            progress = report.progress if report.HasField("progress") else None
            await self.heartbeat(principal, ref, progress, "heartbeat.", "")

    async def heartbeat(
        self, principal: Principal, ref: LeaseRef, progress: tasks_pb2.TaskProgress | None, prefix: str, line: str
    ) -> Task:
        """Keeps the lease; returns the task as it is then."""
        checks = Checks()
        said = None
        if progress is not None:
            if not 0 <= progress.fraction <= 1:  # false for NaN as well
                checks.refuse(f"{prefix}progress.fraction", "must be from 0 to 1")
            said = Progress(progress.fraction, progress.message[:PROGRESS_CHARACTERS])
        checks.done()
        return await self._leases.heartbeat(principal, ref, said, line[:LOG_CHARACTERS])

    async def complete(self, principal: Principal, report: "Completed") -> None:
        """Ends the task with success."""
        ref = codec.lease_ref(report.lease)
        if isinstance(report.result, bytes):
            await self._leases.complete(principal, ref, report.result)
            return
        # It would be refused as often as it were sent again: the task fails, and says why.
        failure = Failure("RESULT_INVALID", report.result.message[:FAILURE_MESSAGE_CHARACTERS])
        await self._leases.fail(principal, ref, failure, retryable=False)
        raise report.result

    async def fail(
        self,
        principal: Principal,
        ref: LeaseRef,
        code: str,
        message: str,
        delay: Duration | None,
        prefix: str,
        *,
        retryable: bool,
    ) -> Task:
        """Ends the attempt; returns the task."""
        checks = Checks()
        wait: timedelta | None = checks.duration(f"{prefix}retry_delay", delay, 0, LONGEST_DELAY_SECONDS)
        checks.done()
        failure = Failure(code[:FAILURE_CODE_CHARACTERS] or "FAILED", message[:FAILURE_MESSAGE_CHARACTERS])
        return await self._leases.fail(principal, ref, failure, retryable=retryable, delay=wait)
