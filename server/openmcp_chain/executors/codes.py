"""The one list of ways in which a `data_pipeline` task fails; a test compares `docs/data-pipeline.md` with it."""

import enum
from collections.abc import Mapping
from types import MappingProxyType


class Code(enum.StrEnum):
    """What a failed task's error begins with. Stable: callers may switch on it."""

    PAYLOAD_INVALID = "PAYLOAD_INVALID"
    ACCESS_DENIED = "ACCESS_DENIED"
    INPUT_NOT_FOUND = "INPUT_NOT_FOUND"
    INPUT_UNAVAILABLE = "INPUT_UNAVAILABLE"
    INPUT_TOO_LARGE = "INPUT_TOO_LARGE"
    INPUT_INVALID = "INPUT_INVALID"
    SQL_INVALID = "SQL_INVALID"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    OUTPUT_INVALID = "OUTPUT_INVALID"
    OUTPUT_TOO_LARGE = "OUTPUT_TOO_LARGE"
    OUTPUT_FAILED = "OUTPUT_FAILED"


MEANING: Mapping[Code, str] = MappingProxyType(
    {
        Code.PAYLOAD_INVALID: "A field of the payload is missing, unknown or malformed; every bad field is named.",
        Code.ACCESS_DENIED: "The policy does not let the workspace touch the URI, or the host or bucket refuses.",
        Code.INPUT_NOT_FOUND: "There is nothing at `input_uri`.",
        Code.INPUT_UNAVAILABLE: "The input could not be fetched: network, timeout, 5xx. Tried again if that can help.",
        Code.INPUT_TOO_LARGE: "The input has more bytes than the worker takes.",
        Code.INPUT_INVALID: "The input is not what `input_format` says; with line and column where they are known.",
        Code.SQL_INVALID: "`sql` is not one SELECT statement, names columns alike, or fails; with DuckDB's own words.",
        Code.LIMIT_EXCEEDED: "The work needs more memory, temporary space or time than the worker allows.",
        Code.OUTPUT_INVALID: "The result has a value that the output format cannot express.",
        Code.OUTPUT_TOO_LARGE: "The result has more rows or bytes than the worker writes.",
        Code.OUTPUT_FAILED: "The artifact could not be written. Tried again if that can help.",
    }
)
"""When each is sent: the words of the published table."""


class Refused(Exception):
    """The task cannot be done, and its owner is told why. `pipeline` turns it into the worker's `TaskFailed`."""

    def __init__(self, code: Code, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        """Whether another attempt could succeed."""
