"""What an actor does to a task, as a value: so that it can be judged before it is done, and done again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.errors import Error
from openmcp_chain.domain.task import Failure, Lease, Progress, Task
from openmcp_chain.domain.transitions import Action, Moment


@dataclass(frozen=True, slots=True)
class Deed:
    """An action with all that it is decided by, besides the task."""

    action: Action
    moment: Moment
    token: str
    """Of the lease that the actor claims to hold; for a claim, of the new one."""
    worker: str
    lease_until: datetime
    """For a claim or a heartbeat: how long the actor wants the lease."""
    failure: Failure
    retryable: bool
    delay: timedelta | None
    progress: Progress | None
    line: str
    result: bytes
    reason: str

    @property
    def now(self) -> datetime:
        return self.moment.now


REFUSALS: Mapping[Action, tuple[type[Error], ...]] = {
    **dict.fromkeys(Action, (errors.LeaseLost,)),
    Action.NOTE: (errors.LeaseLost, errors.EventsFull),
    Action.STOP: (errors.LeaseLost, errors.CancelNotRequested),
    Action.CANCEL: (errors.TaskEnded,),
    Action.RETRY: (errors.TaskNotRetryable,),
    Action.SUPERSEDE: (errors.DedupeKeyTaken,),
}
"""How each may be refused."""

DECIDE: Mapping[Action, Callable[[Task, Deed], Task]] = {
    Action.CLAIM: lambda task, do: transitions.claim(task, Lease(do.token, do.worker, do.lease_until), do.now, "1.0"),
    Action.EXTEND: lambda task, do: transitions.extend(task, do.token, do.lease_until),
    Action.NOTE: lambda task, do: transitions.note(task, do.token, do.now, progress=do.progress, line=do.line),
    Action.COMPLETE: lambda task, do: transitions.complete(task, do.token, do.result, do.moment),
    Action.FAIL: lambda task, do: transitions.fail(
        task, do.token, do.failure, do.moment, retryable=do.retryable, delay=do.delay
    ),
    Action.STOP: lambda task, do: transitions.stop(task, do.token, do.moment),
    Action.RELEASE: lambda task, do: transitions.release(task, do.token, do.failure, do.moment),
    Action.EXPIRE: lambda task, do: transitions.expire(task, do.moment),
    Action.TIME_OUT: lambda task, do: transitions.time_out(task, do.moment),
    Action.CANCEL: lambda task, do: transitions.cancel(task, do.reason, do.moment),
    Action.RETRY: lambda task, do: transitions.retry(task, do.now),
    Action.SUPERSEDE: lambda task, do: transitions.supersede(task, do.now),
}
