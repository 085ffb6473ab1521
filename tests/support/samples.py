"""Domain values to test with."""

import secrets
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from openmcp_chain.domain import transitions
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import NORMAL, STANDARD, Lease, Progress, Task, Terms
from openmcp_chain.domain.transitions import Moment
from openmcp_chain.domain.workspace import Secret, SigningKey, Workspace

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
SECOND = timedelta(seconds=1)
RETENTION = timedelta(days=36500)
"""So long that no real clock has reached the end of it: the database deletes what has, in the middle of a test."""

WORKSPACE = Workspace(
    id="ws-1234",
    plan="standard",
    secrets=(Secret("0123abcd", b"\0salt", bytes(32), NOW), Secret("89abcdef", b"", b"\xff", NOW + SECOND)),
    created_at=NOW,
    updated_at=NOW,
    version=1,
)
KEY = SigningKey("kid-1", b"-----BEGIN\0\xff", {"kty": "EC", "crv": "P-256", "x": "…", "y": "…"}, NOW)


TERMS = Terms(
    retry=RetryPolicy(SECOND, 1.5, 10 * SECOND, 2, frozenset({"INPUT_NOT_FOUND"})),
    schedule_to_start=60 * SECOND,
    start_to_close=300 * SECOND,
    schedule_to_close=3600 * SECOND,
    heartbeat=5 * SECOND,
    retention=7200 * SECOND,
)
"""Terms of which none is the standard one."""
PROGRESS = Progress(0.5, "half")


def make_task(**fields: Any) -> Task:
    """A task as it is when just submitted, at NOW; the keywords of `transitions.submit` change it."""
    return transitions.submit(
        **{
            "workspace": "ws-1",
            "task_id": str(uuid.uuid4()),
            "task_type": "data_pipeline",
            "payload": b"payload",
            "metadata": {"priority": "high"},
            "labels": {"team": "search"},
            "priority": NORMAL,
            "terms": STANDARD,
            "dedupe_key": "",
            "fingerprint": b"",
            "traceparent": "",
            "schedule_time": None,
            "now": NOW,
            **fields,
        }
    )


def at(now: datetime, *, jitter: float = 0.0) -> Moment:
    """The moment, with these settings of the server."""
    return Moment(now, RETENTION, jitter)


def make_lease(token: str = "", *, ends: datetime = NOW + 30 * SECOND) -> Lease:
    """A lease with this token, or one of its own."""
    return Lease(token or secrets.token_urlsafe(16), "worker-1", ends)
