"""Domain errors as gRPC statuses with details (google.rpc.Status, AIP-193)."""

import json
import math
from dataclasses import dataclass

import grpc
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from openmcp.chain.v1 import errors_pb2
from openmcp_chain.domain import errors

DOMAIN = "openmcp.chain"
"""The `domain` of every ErrorInfo."""

# Status and details travel in HTTP/2 headers, of which a client takes 8 KiB: a larger error would reach it as
# RESOURCE_EXHAUSTED. The message goes three times: percent-encoded (up to three bytes for one), and in two details.
MESSAGE_BYTES = 400
VIOLATIONS = 8
FIELD_BYTES = 120
DESCRIPTION_BYTES = 160

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def encode(error: errors.Error) -> status_pb2.Status:
    """The error as `google.rpc.Status`: our `Error` and an ErrorInfo always, other details where they apply."""
    message = _cut(error.message, MESSAGE_BYTES)
    status = status_pb2.Status(code=error.status.value, message=message)
    details: list[Message] = [
        errors_pb2.Error(code=error.code, message=message),
        error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN),
    ]
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations[:VIOLATIONS]:
            bad.field_violations.add(
                field=_cut(violation.field, FIELD_BYTES),
                description=_cut(violation.description, DESCRIPTION_BYTES),
            )
        details.append(bad)
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.resource is not None:
        kind, name = error.resource
        details.append(error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def shown(error: errors.Error) -> str:
    """The error as REST shows it, on one line."""
    encoded = encode(error)
    # The first detail is the contract's own Error, which REST shows as code and message.
    details = [
        json_format.MessageToDict(detail, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for detail in encoded.details[1:]
    ]
    told = {"error": {"code": error.code, "message": encoded.message, "details": details}}
    return json.dumps(told, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as gRPC sends it. A value: unlike the exception, it holds no traceback, so no frame, and no request."""

    code: str
    status: grpc.StatusCode
    message: str
    metadata: tuple[tuple[str, str | bytes], ...]
    """What follows the call: the details, and `retry-after`."""


def refusal(error: errors.Error) -> Refusal:
    """What a call is refused with for this error."""
    status = encode(error)
    metadata: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if error.retry_after is not None:
        # REST clients get it as a header, in whole seconds (RFC 9110, 10.2.3).
        metadata.append(("retry-after", str(math.ceil(error.retry_after))))
    return Refusal(error.code, _CODES[status.code], status.message, tuple(metadata))


async def refuse(context: "grpc.aio.ServicerContext[bytes, bytes]", refusal: Refusal) -> None:
    """Ends the call. The handler has nothing left to do but to return: gRPC itself raises then what ends it.

    Not to be called while an exception is handled: it would become the context of gRPC's.
    """
    try:
        await context.abort(refusal.status, refusal.message, refusal.metadata)
    except grpc.aio.AbortError as aborted:
        # gRPC keeps it with the call, which our frames hold: the traceback would close a circle around the request.
        aborted.__traceback__ = None


def _cut(text: str, size: int) -> str:
    """At most `size` bytes of UTF-8, never half a character."""
    data = text.encode()
    return text if len(data) <= size else data[: size - 3].decode(errors="ignore") + "…"
