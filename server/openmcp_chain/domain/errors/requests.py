"""What is wrong with a request, whatever it is about."""

from openmcp_chain.domain.errors.base import Error, Status, Violation


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
