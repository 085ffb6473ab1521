"""The Python client of OpenMCP Chain: `Client`, and `AsyncClient` for programs on an event loop.

    from openmcp_chain.client import Client

    with Client.from_environment() as client:
        task = client.submit("data_pipeline", {"input_uri": "s3://bucket/orders.csv"})
        print(client.wait(task, check=True).result)

docs/client.md says more.
"""

from openmcp_chain.client.aio import AsyncClient
from openmcp_chain.client.errors import (
    ApiError,
    Error,
    PayloadError,
    SettingsError,
    TaskUnsuccessful,
    Violation,
    WaitTimeout,
)
from openmcp_chain.client.payloads import Payload
from openmcp_chain.client.submission import NewTask, Options
from openmcp_chain.client.sync import Client
from openmcp_chain.client.values import (
    Counts,
    Event,
    Progress,
    Retried,
    RetryPolicy,
    Seconds,
    Status,
    Submitted,
    Task,
    TaskId,
    TaskType,
    View,
)

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "Counts",
    "Error",
    "Event",
    "NewTask",
    "Options",
    "Payload",
    "PayloadError",
    "Progress",
    "Retried",
    "RetryPolicy",
    "Seconds",
    "SettingsError",
    "Status",
    "Submitted",
    "Task",
    "TaskId",
    "TaskType",
    "TaskUnsuccessful",
    "View",
    "Violation",
    "WaitTimeout",
]
