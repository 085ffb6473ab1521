"""What every error looks like, whoever made it: the one shape, a code of the one table, a status that fits it."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from openmcp.chain.v1 import errors_pb2
from openmcp_chain.domain import errors

ALSO_SENT_AS = {"REQUEST_TOO_LARGE": {431}, "DEADLINE_EXCEEDED": {408}}
"""HTTP statuses that a code has besides its own: for headers that are too large, and for a client that is too slow."""


def rest_error(status: int, content_type: str, body: bytes) -> Mapping[str, Any]:
    """The error in a REST response of status >= 400, proved to have the one shape."""
    assert content_type == "application/json", content_type
    document = json.loads(body)
    assert list(document) == ["error"], document
    error: Mapping[str, Any] = document["error"]
    assert list(error)[:2] == ["code", "message"], document
    assert set(error) == {"code", "message", "details"}, document
    known = errors.TABLE[error["code"]]
    assert status == known.http or status in ALSO_SENT_AS.get(known.code, ()), f"{status}: {error}"
    assert isinstance(error["message"], str)
    assert error["message"]
    (info,) = [detail for detail in error["details"] if detail["@type"].endswith("google.rpc.ErrorInfo")]
    assert (info["reason"], info["domain"]) == (error["code"], "openmcp.chain")
    return error


def rest_answer(status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Proves that a REST response of status < 300 is an answer: JSON, an event stream, or nothing."""
    assert not [name for name in headers if name.startswith(("grpc-", "x-openmcp-"))], headers
    if status == 204:
        assert not body
        return
    assert status == 200
    if headers["content-type"] == "text/event-stream":
        assert body.startswith(b"retry: ")
        return
    assert headers["content-type"] == "application/json", headers
    assert isinstance(json.loads(body), dict), body


def framed_error(headers: Mapping[str, str], body: bytes) -> None:
    """Proves that a response to gRPC's media type is a refusal in gRPC's own form: no message, and the one shape."""
    assert not body
    encoded = headers["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    first = errors_pb2.Error()
    assert status.details[0].Unpack(first), status
    assert errors.TABLE[first.code].status.value == status.code == int(headers["grpc-status"]) != 0


def fields_named(error: Mapping[str, Any]) -> list[str]:
    """The fields that the error's BadRequest detail names."""
    return [
        violation["field"]
        for detail in error["details"]
        if detail["@type"].endswith("google.rpc.BadRequest")
        for violation in detail["field_violations"]
    ]


def failed_call(error: grpc.RpcError) -> Any:
    """The failed call itself: what gRPC raises is a grpc.Call too, which the stubs can't say."""
    call: Any = error
    assert isinstance(call, grpc.Call)
    return call


def grpc_error(error: grpc.RpcError) -> errors_pb2.Error:
    """The `Error` in the details of a failed call, proved to have the one shape."""
    status: status_pb2.Status | None = rpc_status.from_call(failed_call(error))
    assert status is not None, f"no details: {error}"
    assert status.details
    first = errors_pb2.Error()
    assert status.details[0].Unpack(first), status
    assert first.message == status.message
    assert errors.TABLE[first.code].status.value == status.code
    info = error_details_pb2.ErrorInfo()
    assert status.details[1].Unpack(info), status
    assert (info.reason, info.domain) == (first.code, "openmcp.chain")
    return first


def grpc_fields_named(error: grpc.RpcError) -> list[str]:
    """The fields that the failed call's BadRequest detail names."""
    status = rpc_status.from_call(failed_call(error))
    bad = error_details_pb2.BadRequest()
    return [
        violation.field
        for detail in (status.details if status else ())
        if detail.Unpack(bad)
        for violation in bad.field_violations
    ]
