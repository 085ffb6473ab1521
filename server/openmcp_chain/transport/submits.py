"""A SubmitTaskRequest, checked and made into what the engine takes."""

from collections.abc import Callable
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.domain import errors, retry
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import STANDARD, Terms
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.submission import Submit
from openmcp_chain.transport.checks import FAILURE_CODE_CHARACTERS, Checks

DAY = 24 * 3600.0
YEAR = 366 * DAY
DEDUPE_KEY_CHARACTERS = 128
MOST_ATTEMPTS = 100
ERROR_CODES = 32
_POLICIES = frozenset(tasks_pb2.ConflictPolicy.values())
_TERMS = (
    *("retry_policy", "schedule_to_start_timeout", "start_to_close_timeout", "schedule_to_close_timeout"),
    *("heartbeat_timeout", "retention"),
)


def read(request: tasks_pb2.SubmitTaskRequest, workspace: str, clock: Clock) -> Submit:
    """The task to accept. Raises InvalidArgument naming every field at fault, WorkspaceMismatch.

    Runs in a thread where the request is large.
    """
    if request.workspace_id and request.workspace_id != workspace:
        raise errors.WorkspaceMismatch
    checks = Checks()
    metadata, labels = dict(request.metadata), dict(request.labels)
    checks.task_type("type", request.type)
    priority = checks.priority("priority", request.priority, checks.metadata("metadata", metadata))
    checks.request_id("request_id", request.request_id)
    checks.at_most("dedupe_key", request.dedupe_key, DEDUPE_KEY_CHARACTERS)
    if request.conflict_policy not in _POLICIES:
        checks.refuse("conflict_policy", "must be FAIL or USE_EXISTING")
    if request.conflict_policy and not request.dedupe_key:
        checks.refuse("conflict_policy", "needs a dedupe_key")
    checks.labels("labels", labels)
    schedule_time = None
    if request.HasField("schedule_time"):
        schedule_time = checks.time("schedule_time", request.schedule_time, clock() + timedelta(seconds=YEAR))
    terms = _terms(checks, request)
    if schedule_time and terms.schedule_to_close and schedule_time >= clock() + terms.schedule_to_close:
        checks.refuse("schedule_time", "must be before schedule_to_close_timeout ends, which counts from the submit on")
    payload = checks.struct("payload", request.payload, deterministic=bool(request.request_id))
    checks.done()
    return Submit(
        type=request.type,
        payload=payload,
        metadata=metadata,
        labels=labels,
        priority=priority,
        request_id=request.request_id,
        dedupe_key=request.dedupe_key,
        use_existing=request.conflict_policy == tasks_pb2.CONFLICT_POLICY_USE_EXISTING,
        schedule_time=schedule_time,
        terms=terms,
    )


def _terms(checks: Checks, request: tasks_pb2.SubmitTaskRequest) -> Terms:
    if not any(request.HasField(name) for name in _TERMS):  # type: ignore[arg-type]  # names of its own fields
        return STANDARD
    timeout = _durations(checks, request)
    return Terms(
        retry=_retry_policy(checks, request.retry_policy) if request.HasField("retry_policy") else retry.DEFAULT,
        schedule_to_start=timeout("schedule_to_start_timeout", 0.001, YEAR),
        start_to_close=timeout("start_to_close_timeout", 0.001, YEAR),
        schedule_to_close=timeout("schedule_to_close_timeout", 0.001, YEAR),
        heartbeat=timeout("heartbeat_timeout", 1, 3600),
        retention=timeout("retention", 0, YEAR),
    )


def _retry_policy(checks: Checks, policy: tasks_pb2.RetryPolicy) -> RetryPolicy:
    interval = _durations(checks, policy, "retry_policy.")
    codes = policy.non_retryable_error_codes
    if len(codes) > ERROR_CODES:
        checks.refuse("retry_policy.non_retryable_error_codes", f"has {len(codes)}; at most {ERROR_CODES} are allowed")
    for index, code in enumerate(codes[:ERROR_CODES]):
        if not 0 < len(code) <= FAILURE_CODE_CHARACTERS:
            place = f"retry_policy.non_retryable_error_codes[{index}]"
            checks.refuse(place, f"must be 1 to {FAILURE_CODE_CHARACTERS} characters")
    if policy.backoff_coefficient and not 1 <= policy.backoff_coefficient <= 10:
        checks.refuse("retry_policy.backoff_coefficient", "must be from 1 to 10")
    checks.at_least("retry_policy.maximum_attempts", policy.maximum_attempts or 1, 1, MOST_ATTEMPTS)
    standard = retry.DEFAULT
    initial, longest = interval("initial_interval", 0.001, 3600), interval("maximum_interval", 0.001, DAY)
    if initial and longest and longest < initial:
        checks.refuse("retry_policy.maximum_interval", "must be no less than initial_interval")
    # One that is not said does not contradict the other.
    return RetryPolicy(
        initial_interval=initial or min(standard.initial_interval, longest or standard.initial_interval),
        backoff_coefficient=policy.backoff_coefficient or standard.backoff_coefficient,
        maximum_interval=longest or max(standard.maximum_interval, initial or standard.maximum_interval),
        maximum_attempts=policy.maximum_attempts or standard.maximum_attempts,
        non_retryable_error_codes=frozenset(codes[:ERROR_CODES]),
    )


def _durations(checks: Checks, message: Message, prefix: str = "") -> Callable[[str, float, float], timedelta | None]:
    """Reads a message's durations by name, within bounds in seconds."""

    def read_one(name: str, least: float, most: float) -> timedelta | None:
        value: Duration | None = getattr(message, name) if message.HasField(name) else None
        return checks.duration(prefix + name, value, least, most)

    return read_one
