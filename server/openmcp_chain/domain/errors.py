"""Every way in which a call can fail: the one error table.

Each class is one stable code. The tree, by gRPC status:

Error:
    ├── INVALID_ARGUMENT    InvalidArgument · MalformedRequest · UnsupportedMediaType · RequestTooLarge
    ├── OUT_OF_RANGE        SequenceOutOfRange
    ├── UNAUTHENTICATED     TokenMissing · TokenInvalid · TokenExpired · CredentialsInvalid
    ├── PERMISSION_DENIED   WorkspaceMismatch · ScopeMissing · TypeNotAllowed
    ├── NOT_FOUND           TaskNotFound · WorkspaceNotFound · SecretNotFound · RouteNotFound · ServiceUnknown
    ├── ALREADY_EXISTS      RequestIdReused · DedupeKeyTaken · WorkspaceExists
    ├── FAILED_PRECONDITION LeaseLost · TaskEnded · TaskNotRetryable · CancelNotRequested
    ├── FAILED_PRECONDITION OwnWorkspace · WorkspaceDeleting · HttpsRequired
    ├── RESOURCE_EXHAUSTED  RateLimited · TooManySignIns · TooManyStreams · TooManyPending · TooManyTypes · EventsFull
    ├── ABORTED             Aborted
    ├── DEADLINE_EXCEEDED   DeadlineExceeded
    ├── UNIMPLEMENTED       MethodNotFound · MethodNotAllowed
    ├── UNAVAILABLE         Unavailable · Overloaded · ServerDraining · UpstreamUnavailable
    └── INTERNAL            Internal

`transport.status` turns them into gRPC statuses with details; `TABLE` is what the docs and the tests read.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal


class Status(enum.Enum):
    """The canonical gRPC codes that we use, by number (https://grpc.io/docs/guides/status-codes/)."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16

    @property
    def http(self) -> int:
        """The HTTP status that it maps to, in Envoy as in Google's APIs (google/rpc/code.proto)."""
        return _HTTP[self]


_HTTP = {
    Status.INVALID_ARGUMENT: 400,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.FAILED_PRECONDITION: 400,
    Status.ABORTED: 409,
    Status.OUT_OF_RANGE: 400,
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.UNAUTHENTICATED: 401,
}


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field of a request."""

    field: str
    """Its path in the request, such as `payload.steps[2]` or `metadata["priority"]`."""
    description: str
    """A sentence that says what would be right."""


class Error(Exception):
    """A failure that a caller is told of. Its message is written for the caller: nothing secret is ever put in it."""

    code: ClassVar[str]
    status: ClassVar[Status]
    when: ClassVar[str]
    """When it is sent: the words of the published table."""
    sent_by: ClassVar[str] = "server"
    """`server`, `envoy`, or `both`."""
    http: ClassVar[int]
    """What REST answers with: as the gRPC status maps, unless the class says otherwise."""

    violations: Sequence[Violation] = ()
    """For INVALID_ARGUMENT: what is wrong with which field."""
    retry_after: float | None = None
    """Seconds after which the same call may succeed."""
    resource: tuple[str, str] | None = None
    """The (type, name) of the thing that does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.code in _table:
            raise TypeError(f"two classes claim {cls.code}")
        if "http" not in vars(cls):
            cls.http = cls.status.http
        _table[cls.code] = cls


_table: dict[str, type[Error]] = {}
TABLE: Mapping[str, type[Error]] = MappingProxyType(_table)
"""Every code, with the class that carries it."""


def _shown(text: str) -> str:
    """What a caller sent, fit for a message: short, and on one line."""
    return text if len(text) <= 64 and text.isprintable() else text[:64].encode("unicode_escape").decode()


class InvalidArgument(Error):
    code = "INVALID_ARGUMENT"
    status = Status.INVALID_ARGUMENT
    when = "A field of the request is missing, malformed or over its limit; the details name it."
    sent_by = "both"

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class MalformedRequest(Error):
    code = "MALFORMED_REQUEST"
    status = Status.INVALID_ARGUMENT
    when = "The request is not one that HTTP or this service's REST allows, such as a header name with an underscore."
    sent_by = "envoy"

    def __init__(self) -> None:
        super().__init__(
            "The request is not well-formed HTTP for this service. Among others, header names with underscores and "
            "paths with escaped slashes are refused."
        )


class HttpsRequired(Error):
    code = "HTTPS_REQUIRED"
    status = Status.FAILED_PRECONDITION
    when = "A request comes without TLS to a port that speaks it."
    sent_by = "envoy"

    def __init__(self) -> None:
        super().__init__(
            "This port speaks HTTPS only: nothing was done. If a token or a secret was sent in the clear, replace it."
        )


class UnsupportedMediaType(Error):
    code = "UNSUPPORTED_MEDIA_TYPE"
    status = Status.INVALID_ARGUMENT
    http = 415
    when = "REST gets a body that is not plain JSON."
    sent_by = "envoy"

    def __init__(self) -> None:
        super().__init__("content-type: send `application/json`, and no content-encoding.")
        self.violations = (Violation("content-type", "must be application/json, with no content-encoding"),)


class RequestTooLarge(Error):
    code = "REQUEST_TOO_LARGE"
    status = Status.INVALID_ARGUMENT
    http = 413
    when = "The request as a whole, or its headers, are larger than is read."
    sent_by = "both"

    def __init__(self, field: str, size: int | None, limit: int) -> None:
        """`size` is None where the request was refused before its end was seen."""
        has = f"has {size} bytes" if size is not None else "is too large"
        super().__init__(f"{field}: the request {has}; at most {limit} bytes are read. Send larger data by URI.")
        self.violations = (Violation(field, f"makes the request too large: at most {limit} bytes are read"),)


class SequenceOutOfRange(Error):
    code = "SEQUENCE_OUT_OF_RANGE"
    status = Status.OUT_OF_RANGE
    when = "An event stream is resumed after an event that the task does not have."

    def __init__(self, field: str, after: int, last: int) -> None:
        super().__init__(f"{field}: {after} is beyond the task's last event, {last}")
        self.violations = (Violation(field, f"must be at most {last}"),)


class TokenMissing(Error):
    code = "TOKEN_MISSING"
    status = Status.UNAUTHENTICATED
    when = "The call carries no bearer token."
    sent_by = "both"

    def __init__(self) -> None:
        super().__init__("This call needs a token: send `authorization: Bearer <token>`, from POST /v1/auth/token.")


class TokenInvalid(Error):
    code = "TOKEN_INVALID"
    status = Status.UNAUTHENTICATED
    when = "The token is malformed, not ours, not for this service, or revoked."
    sent_by = "both"

    def __init__(self) -> None:
        super().__init__("The token is not valid here. Get a new one from POST /v1/auth/token.")


class TokenExpired(Error):
    code = "TOKEN_EXPIRED"
    status = Status.UNAUTHENTICATED
    when = "The token was valid once: refresh it."
    sent_by = "both"

    def __init__(self) -> None:
        super().__init__(
            "The token has expired. Refresh it: get a new one from POST /v1/auth/token, then repeat the call."
        )


class CredentialsInvalid(Error):
    code = "CREDENTIALS_INVALID"
    status = Status.UNAUTHENTICATED
    when = "The workspace is unknown or disabled, or the secret is not one of its own; which of them is not said."

    def __init__(self) -> None:
        super().__init__("workspace_id and workspace_secret do not match.")


class WorkspaceMismatch(Error):
    code = "WORKSPACE_MISMATCH"
    status = Status.PERMISSION_DENIED
    when = "The request names another workspace than the token does."

    def __init__(self) -> None:
        super().__init__(
            "workspace_id: names another workspace than the token does. Leave it empty or use the token's."
        )
        self.violations = (Violation("workspace_id", "must be empty or the token's own workspace"),)


class ScopeMissing(Error):
    code = "SCOPE_MISSING"
    status = Status.PERMISSION_DENIED
    when = "The token does not carry the scope that the method needs."

    def __init__(self, scope: str) -> None:
        super().__init__(f"This call needs a token with the scope `{scope}`.")


class TypeNotAllowed(Error):
    code = "TYPE_NOT_ALLOWED"
    status = Status.PERMISSION_DENIED
    when = "An operator's worker asks for a task type that its credential does not cover."

    def __init__(self, task_type: str) -> None:
        super().__init__(f"task_types: this credential does not cover `{_shown(task_type)}`.")
        self.violations = (Violation("task_types", "names a type that this credential does not cover"),)


class TaskNotFound(Error):
    code = "TASK_NOT_FOUND"
    status = Status.NOT_FOUND
    when = "The workspace has no such task (one of another workspace does not exist either)."

    def __init__(self, task_id: str) -> None:
        shown = _shown(task_id)
        super().__init__(f"Task {shown} does not exist")
        self.resource = ("openmcp.chain.v1.Task", shown)


class WorkspaceNotFound(Error):
    code = "WORKSPACE_NOT_FOUND"
    status = Status.NOT_FOUND
    when = "An administrator names a workspace that does not exist."

    def __init__(self, workspace_id: str) -> None:
        super().__init__(f"Workspace {_shown(workspace_id)} does not exist")
        self.resource = ("openmcp.chain.v1.Workspace", _shown(workspace_id))


class SecretNotFound(Error):
    code = "SECRET_NOT_FOUND"
    status = Status.NOT_FOUND
    when = "An administrator names a secret that the workspace does not have, or no longer has."

    def __init__(self, secret_id: str) -> None:
        super().__init__(f"Secret {_shown(secret_id)} does not exist")
        self.resource = ("openmcp.chain.v1.SecretInfo", _shown(secret_id))


class RouteNotFound(Error):
    code = "ROUTE_NOT_FOUND"
    status = Status.NOT_FOUND
    when = "REST has no such path."
    sent_by = "envoy"

    def __init__(self) -> None:
        super().__init__("There is no such path.")


class ServiceUnknown(Error):
    code = "SERVICE_UNKNOWN"
    status = Status.NOT_FOUND
    when = "The health of a service is asked that this server does not have."

    def __init__(self) -> None:
        super().__init__("service: this server has no service of that name")


class RequestIdReused(Error):
    code = "REQUEST_ID_REUSED"
    status = Status.ALREADY_EXISTS
    when = "The request_id was used before, with a different request."

    def __init__(self) -> None:
        super().__init__("request_id: was used before with a different request. Use a new one for a new task.")
        self.violations = (Violation("request_id", "was used before with a different request"),)


class DedupeKeyTaken(Error):
    code = "DEDUPE_KEY_TAKEN"
    status = Status.ALREADY_EXISTS
    when = "A task with the same dedupe_key has not ended; the details name it."

    def __init__(self, task_id: str) -> None:
        shown = _shown(task_id)
        super().__init__(f"dedupe_key: is taken by task {shown}, which has not ended.")
        self.violations = (Violation("dedupe_key", f"is taken by task {shown}, which has not ended"),)
        self.resource = ("openmcp.chain.v1.Task", shown)


class WorkspaceExists(Error):
    code = "WORKSPACE_EXISTS"
    status = Status.ALREADY_EXISTS
    when = "A workspace is created under an id that is taken."

    def __init__(self, workspace_id: str) -> None:
        super().__init__(f"workspace_id: {_shown(workspace_id)} is taken.")


class LeaseLost(Error):
    code = "LEASE_LOST"
    status = Status.FAILED_PRECONDITION
    when = "A worker reports on a task whose lease is no longer its own."

    def __init__(self) -> None:
        super().__init__("The lease is no longer yours: it expired, or the task has ended. Stop working on the task.")


class TaskEnded(Error):
    code = "TASK_ENDED"
    status = Status.FAILED_PRECONDITION
    when = "A task that has succeeded or failed is to be cancelled."

    def __init__(self, task_id: str, status: str) -> None:
        shown = _shown(task_id)
        super().__init__(f"Task {shown} has ended: it is {status}, and can't be cancelled.")
        self.resource = ("openmcp.chain.v1.Task", shown)


class TaskNotRetryable(Error):
    code = "TASK_NOT_RETRYABLE"
    status = Status.FAILED_PRECONDITION
    when = (
        "A task is to be tried again that is neither FAILED nor CANCELLED, whose dedupe_key another task has taken "
        "over, or that has 1,000 events."
    )

    def __init__(self, task_id: str, reason: str) -> None:
        shown = _shown(task_id)
        super().__init__(f"Task {shown} can't be tried again: {reason}.")
        self.resource = ("openmcp.chain.v1.Task", shown)


class CancelNotRequested(Error):
    code = "CANCEL_NOT_REQUESTED"
    status = Status.FAILED_PRECONDITION
    when = "A worker reports that it has stopped a task that nobody cancelled."

    def __init__(self) -> None:
        super().__init__("Nobody asked for this task to stop. End the attempt by a completion or a failure.")


class OwnWorkspace(Error):
    code = "OWN_WORKSPACE"
    status = Status.FAILED_PRECONDITION
    when = "An administrator would shut itself out: disable or delete itself, or revoke the secret that it came with."

    def __init__(self) -> None:
        super().__init__("An administrator cannot shut itself out; another one can")


class WorkspaceDeleting(Error):
    code = "WORKSPACE_DELETING"
    status = Status.FAILED_PRECONDITION
    when = "A workspace is to be changed that is being deleted."

    def __init__(self) -> None:
        super().__init__("The workspace is being deleted")


class EventsFull(Error):
    code = "EVENTS_FULL"
    status = Status.RESOURCE_EXHAUSTED
    when = "A worker sends more log lines than a task keeps."

    def __init__(self, limit: int) -> None:
        super().__init__(f"The task keeps {limit} lines and steps of progress, and has them all. The line is not kept.")


class TooManyTypes(Error):
    code = "TOO_MANY_TYPES"
    status = Status.RESOURCE_EXHAUSTED
    when = "The workspace uses as many task types as it may."

    def __init__(self, limit: int) -> None:
        super().__init__(f"type: the workspace uses {limit} task types, which is its limit. Use one of them.")
        self.violations = (Violation("type", f"would be one more than the {limit} that a workspace may use"),)


class RateLimited(Error):
    code = "RATE_LIMITED"
    status = Status.RESOURCE_EXHAUSTED
    when = (
        "The workspace makes more calls than its plan allows, or an address more without a token than it may; "
        "`Retry-After` says when to go on."
    )
    sent_by = "envoy"
    retry_after = 1.0

    def __init__(self, whose: Literal["workspace", "address"] = "workspace") -> None:
        """`whose` limit it is."""
        many = {
            "workspace": "The workspace makes more calls than its plan allows.",
            "address": "Too many calls without a token come from this address.",
        }[whose]
        super().__init__(f"{many} Go on after the time in Retry-After.")


class TooManySignIns(Error):
    code = "TOO_MANY_SIGN_INS"
    status = Status.RESOURCE_EXHAUSTED
    when = "Too many sign-ins come from one address, or too many wrong secrets wait for their answer."
    sent_by = "both"
    retry_after = 1.0

    def __init__(self) -> None:
        super().__init__("Too many sign-ins; try again later")


class TooManyPending(Error):
    code = "TOO_MANY_PENDING"
    status = Status.RESOURCE_EXHAUSTED
    when = "The workspace has as many tasks waiting as it may have."
    retry_after = 5.0

    def __init__(self, limit: int) -> None:
        super().__init__(f"The workspace has {limit} tasks waiting, and may have no more")


class TooManyStreams(Error):
    code = "TOO_MANY_STREAMS"
    status = Status.RESOURCE_EXHAUSTED
    when = "The workspace has as many streams open as it may have."
    retry_after = 5.0

    def __init__(self, limit: int) -> None:
        super().__init__(f"The workspace has {limit} streams open, which is its limit. Close one first.")


class Aborted(Error):
    code = "ABORTED"
    status = Status.ABORTED
    when = "The call was given up inside the server and changed nothing that it did not answer for; repeat it."
    retry_after = 0.1

    def __init__(self) -> None:
        super().__init__("The call was given up inside the server. Repeat it.")


class DeadlineExceeded(Error):
    code = "DEADLINE_EXCEEDED"
    status = Status.DEADLINE_EXCEEDED
    when = "The call took longer than its deadline, or than the server lets any call take."
    sent_by = "both"

    def __init__(self) -> None:
        super().__init__("The call took too long. It may have been carried out: repeat it with the same request_id.")


class MethodNotFound(Error):
    code = "METHOD_NOT_FOUND"
    status = Status.UNIMPLEMENTED
    when = "The gRPC service or method does not exist."

    def __init__(self) -> None:
        super().__init__("There is no such method. Server reflection lists those that there are.")


class MethodNotAllowed(Error):
    code = "METHOD_NOT_ALLOWED"
    status = Status.UNIMPLEMENTED
    http = 405
    when = "REST has the path, but not with this HTTP method; the `Allow` header lists those that it has."
    sent_by = "envoy"

    def __init__(self) -> None:
        super().__init__("The path does not take this HTTP method. The Allow header lists those that it takes.")


class Unavailable(Error):
    code = "UNAVAILABLE"
    status = Status.UNAVAILABLE
    when = "The database cannot be reached for the moment; repeat the call, with a request_id if it is a submit."
    retry_after = 1.0

    def __init__(self) -> None:
        super().__init__("The service cannot reach its database for the moment. Repeat the call.")


class Overloaded(Error):
    code = "OVERLOADED"
    status = Status.UNAVAILABLE
    when = "This server process has as many calls under way as it takes; repeat the call."
    retry_after = 0.5

    def __init__(self) -> None:
        super().__init__("This server has too many calls under way. Repeat the call.")


class ServerDraining(Error):
    code = "SERVER_DRAINING"
    status = Status.UNAVAILABLE
    when = "This server process is shutting down; a stream goes on elsewhere after its last sequence."
    retry_after = 0.5

    def __init__(self) -> None:
        super().__init__("This server is shutting down. Connect again; resume a stream after its last sequence.")


class UpstreamUnavailable(Error):
    code = "UPSTREAM_UNAVAILABLE"
    status = Status.UNAVAILABLE
    when = "Envoy reaches no healthy server for the moment; repeat the call, with a request_id if it is a submit."
    sent_by = "envoy"
    retry_after = 1.0

    def __init__(self) -> None:
        super().__init__("No server can be reached for the moment. Repeat the call, a submit with its request_id.")


class Internal(Error):
    code = "INTERNAL"
    status = Status.INTERNAL
    when = "A fault of ours. The message says nothing of it; the log has it under the request id."
    sent_by = "both"

    def __init__(self) -> None:
        super().__init__("The server made an error. It is in the server's log under the request id of this call.")
