"""Domain values to test with."""

import secrets
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from openmcp_chain.domain import transitions
from openmcp_chain.domain.task import Lease, Priority, Task
from openmcp_chain.domain.workspace import Secret, SigningKey, Workspace

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
SECOND = timedelta(seconds=1)
RETENTION = timedelta(days=36500)
"""So long that no real clock has reached the end of it: the database deletes what has, in the middle of a test."""

WORKSPACE = Workspace(
    id="ws-1234",
    plan="standard",
    worker_types=frozenset(),
    disabled=False,
    secrets=(Secret("0123abcd", b"\0salt", bytes(32), NOW), Secret("89abcdef", b"", b"\xff", NOW + SECOND)),
    created_at=NOW,
    version=1,
)
KEY = SigningKey("kid-1", b"-----BEGIN\0\xff", {"kty": "EC", "crv": "P-256", "x": "…", "y": "…"}, NOW)


def make_task(**fields: Any) -> Task:
    """A task as it is when just submitted, at NOW; the keywords of `transitions.submit` change it."""
    return transitions.submit(
        **{
            "workspace": "ws-1",
            "task_id": str(uuid.uuid4()),
            "task_type": "data_pipeline",
            "payload": b"payload",
            "metadata": {"priority": "high"},
            "priority": Priority.NORMAL,
            "fingerprint": b"",
            "traceparent": "",
            "max_attempts": 3,
            "now": NOW,
            **fields,
        }
    )


def make_lease(token: str = "", *, ends: datetime = NOW + 30 * SECOND) -> Lease:
    """A lease with this token, or one of its own."""
    return Lease(token or secrets.token_urlsafe(16), "worker-1", ends)
