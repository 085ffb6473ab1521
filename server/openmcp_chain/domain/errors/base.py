"""What every error is, and the table that they are entered in as they are defined."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar


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


def shown(text: str) -> str:
    """What a caller sent, fit for a message: short, and on one line."""
    return text if len(text) <= 64 and text.isprintable() else text[:64].encode("unicode_escape").decode()
