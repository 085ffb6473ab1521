"""A task to submit, with all that may be said of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, TypedDict, Unpack

from openmcp_chain.client.payloads import Payload
from openmcp_chain.client.values import RetryPolicy, Seconds


class Options(TypedDict, total=False):
    """What may be said of a task; see `SubmitTaskRequest` in the contract for the limits of each."""

    metadata: Mapping[str, str]
    """Kept with the task and given to its worker."""
    labels: Mapping[str, str]
    """What to find it by, in filters."""
    priority: int
    """1 (first) to 5 (last); 3 if it is not said."""
    schedule_time: datetime
    """Run it no sooner. With a time zone."""
    dedupe_key: str
    """While a task with this key has not ended, another is not accepted; `on_conflict` says what its submit gets."""
    on_conflict: Literal["FAIL", "USE_EXISTING"]
    """An ApiError `DEDUPE_KEY_TAKEN`, which is what happens if nothing is said; or the task that is there."""
    retry_policy: RetryPolicy
    """When a failed attempt is tried again."""
    schedule_to_start_timeout: Seconds
    """How long it may wait for a worker, from when it may run."""
    start_to_close_timeout: Seconds
    """How long one attempt may take."""
    schedule_to_close_timeout: Seconds
    """How long all of it may take, from the submit on."""
    heartbeat_timeout: Seconds
    """How long its worker may be silent."""
    retention: Seconds
    """How long it is kept once it has ended."""
    request_id: str
    """A UUID. The same submit with the same one is answered alike, and makes no second task. By default a new one."""


class NewTask:
    """A task for `batch_submit`: `NewTask("echo", {"n": 1}, priority=1)`."""

    __slots__ = ("options", "payload", "type")

    def __init__(self, task_type: str, payload: Payload | None = None, /, **options: Unpack[Options]) -> None:
        """Raises TypeError for an option that there is not."""
        if unknown := options.keys() - Options.__annotations__.keys():
            raise TypeError(f"a task has no option {', '.join(sorted(unknown))}")
        self.type = task_type
        self.payload = payload
        self.options = options
