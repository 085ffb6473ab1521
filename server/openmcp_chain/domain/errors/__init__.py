"""Every way in which a call can fail: the one error table.

Each class is one stable code. The tree, by gRPC status:

Error:
    ├── INVALID_ARGUMENT    InvalidArgument · MalformedRequest · UnsupportedMediaType · RequestTooLarge
    ├── OUT_OF_RANGE        SequenceOutOfRange
    ├── UNAUTHENTICATED     TokenMissing · TokenInvalid · TokenExpired · CredentialsInvalid
    ├── PERMISSION_DENIED   WorkspaceMismatch · ScopeMissing · TypeNotAllowed · AdministratorProtected
    ├── NOT_FOUND           TaskNotFound · WorkspaceNotFound · SecretNotFound · RouteNotFound · ServiceUnknown
    ├── ALREADY_EXISTS      RequestIdReused · DedupeKeyTaken · WorkspaceExists
    ├── FAILED_PRECONDITION LeaseLost · TaskEnded · TaskNotRetryable · CancelNotRequested
    ├── FAILED_PRECONDITION EventsFull · TooManyTypes · TooManySecrets · OwnWorkspace · WorkspaceDeleting
    ├── FAILED_PRECONDITION HttpsRequired
    ├── RESOURCE_EXHAUSTED  RateLimited · TooManySignIns · TooManyStreams · TooManyPending
    ├── ABORTED             Aborted
    ├── DEADLINE_EXCEEDED   DeadlineExceeded
    ├── UNIMPLEMENTED       MethodNotFound · MethodNotAllowed
    ├── UNAVAILABLE         Unavailable · Overloaded · ServerDraining · UpstreamUnavailable
    └── INTERNAL            Internal

`transport.status` turns them into gRPC statuses with details; `TABLE` is what the docs and the tests read.
"""

from openmcp_chain.domain.errors.base import (
    TABLE,
    Error,
    Status,
    Violation,
)
from openmcp_chain.domain.errors.identity import (
    AdministratorProtected,
    CredentialsInvalid,
    OwnWorkspace,
    ScopeMissing,
    SecretNotFound,
    TokenExpired,
    TokenInvalid,
    TokenMissing,
    TooManySecrets,
    TooManySignIns,
    TypeNotAllowed,
    WorkspaceDeleting,
    WorkspaceExists,
    WorkspaceMismatch,
    WorkspaceNotFound,
)
from openmcp_chain.domain.errors.limits import (
    RateLimited,
    TooManyPending,
    TooManyStreams,
    TooManyTypes,
)
from openmcp_chain.domain.errors.requests import (
    HttpsRequired,
    InvalidArgument,
    MalformedRequest,
    MethodNotAllowed,
    MethodNotFound,
    RequestTooLarge,
    RouteNotFound,
    SequenceOutOfRange,
    ServiceUnknown,
    UnsupportedMediaType,
)
from openmcp_chain.domain.errors.service import (
    Aborted,
    DeadlineExceeded,
    Internal,
    Overloaded,
    ServerDraining,
    Unavailable,
    UpstreamUnavailable,
)
from openmcp_chain.domain.errors.tasks import (
    CancelNotRequested,
    DedupeKeyTaken,
    EventsFull,
    LeaseLost,
    RequestIdReused,
    TaskEnded,
    TaskNotFound,
    TaskNotRetryable,
)

__all__ = [
    "TABLE",
    "Aborted",
    "AdministratorProtected",
    "CancelNotRequested",
    "CredentialsInvalid",
    "DeadlineExceeded",
    "DedupeKeyTaken",
    "Error",
    "EventsFull",
    "HttpsRequired",
    "Internal",
    "InvalidArgument",
    "LeaseLost",
    "MalformedRequest",
    "MethodNotAllowed",
    "MethodNotFound",
    "Overloaded",
    "OwnWorkspace",
    "RateLimited",
    "RequestIdReused",
    "RequestTooLarge",
    "RouteNotFound",
    "ScopeMissing",
    "SecretNotFound",
    "SequenceOutOfRange",
    "ServerDraining",
    "ServiceUnknown",
    "Status",
    "TaskEnded",
    "TaskNotFound",
    "TaskNotRetryable",
    "TokenExpired",
    "TokenInvalid",
    "TokenMissing",
    "TooManyPending",
    "TooManySecrets",
    "TooManySignIns",
    "TooManyStreams",
    "TooManyTypes",
    "TypeNotAllowed",
    "Unavailable",
    "UnsupportedMediaType",
    "UpstreamUnavailable",
    "Violation",
    "WorkspaceDeleting",
    "WorkspaceExists",
    "WorkspaceMismatch",
    "WorkspaceNotFound",
]
