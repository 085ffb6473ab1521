"""The task that is submitted: the specification's own kind, 360 bytes on the wire."""

import base64
from datetime import datetime
from typing import Any

from google.protobuf.json_format import ParseDict

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.domain.task import Event, Status, Stretch

TYPE = "benchmark"

_PAYLOAD: dict[str, Any] = {
    "input_uri": "s3://acme-landing/2024/01/01/orders-00017.json",
    "output_uri": "s3://acme-curated/2024/01/01/orders-00017.parquet",
    "format": "json",
    "sql": "select id, customer, total from input where total > 0",
    "limits": {"rows": 100000, "seconds": 60},
    "columns": ["id", "customer", "total"],
}
_METADATA = {"priority": "high", "team": "orders"}


def as_json(workspace: str) -> dict[str, Any]:
    """The request as REST takes it."""
    return {"workspace_id": workspace, "type": TYPE, "payload": _PAYLOAD, "metadata": _METADATA}


def as_message(workspace: str) -> tasks_pb2.SubmitTaskRequest:
    """The request as gRPC takes it."""
    return ParseDict(as_json(workspace), tasks_pb2.SubmitTaskRequest())


def as_base64(workspace: str) -> str:
    """The same, as the plans of load generators have it."""
    return base64.b64encode(as_message(workspace).SerializeToString()).decode()


def ended(now: datetime) -> Stretch:
    """What a signal tells of one that has just ended."""
    return Stretch(3, Status.SUCCEEDED, (Event(3, Status.SUCCEEDED, now, {"attempt": 1}),), 3)
