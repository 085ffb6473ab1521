"""A worker that is a shell script: REST alone, by curl."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import workspaces
from support.rest import Rest
from support.stack import StackInfo
from support.workspaces import Credentials

from openmcp_chain.domain import transitions
from openmcp_chain.domain.task import Change, Key
from openmcp_chain.domain.transitions import NOTES
from openmcp_chain.engine import clock
from openmcp_chain.store.mongo import store as mongo

SCRIPT = Path(__file__).parent / "curl" / "worker.sh"
SECONDS = 60.0

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "jq"))),
    reason="needs bash, curl and jq, one of which is not on the PATH",
)


@contextmanager
def worker_of(task_type: str, stack: StackInfo, credentials: Credentials) -> Iterator[subprocess.Popen[bytes]]:
    """The script, running."""
    environment = {
        **os.environ,
        "OPENMCP_URL": stack.rest_url,
        "OPENMCP_WORKSPACE_ID": credentials.workspace_id,
        "OPENMCP_WORKSPACE_SECRET": credentials.workspace_secret,
    }
    worker = subprocess.Popen([str(SCRIPT), task_type], env=environment)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def test_worker(stack: StackInfo, credentials: Credentials, rest: Rest) -> None:
    """It leases, heartbeats with progress and a line, completes and fails tasks, through the real Envoy."""
    with worker_of("double", stack, credentials) as worker:
        numbers = [rest.submit("double", {"n": n}) for n in range(3)]
        bad = rest.submit("double", {})
        last = rest.submit("double", {"n": 3, "stop": True})
        assert [rest.ended(task)["result"] for task in (*numbers, last)] == [{"doubled": 2 * n} for n in range(4)]
        assert rest.ended(bad)["error"] == "NO_NUMBER: payload.n: is required"
        assert worker.wait(SECONDS) == 0
    contexts = [message.data["context"] for message in rest.events(last).messages]
    assert contexts[1] == {"attempt": 1, "worker": "bash"}
    assert contexts[2] == {"attempt": 1, "log": "curl was here", "progress": 0.5, "message": "halfway"}


async def talk(stack: StackInfo, lease: Mapping[str, str], lines: int) -> None:
    """Leaves what so many heartbeats would have left, at once: each costs the database as much as all before it."""
    told = workspaces.settings(stack)
    key = Key(lease["workspace_id"], lease["task_id"])
    store = await mongo.connect(told.mongodb_uri, told.mongodb_database, told.mongodb_driver)
    try:
        before = (await store.get_tasks([key]))[key]
        after = before
        for _ in range(lines):
            after = transitions.note(after, lease["lease_token"], clock.system(), line="a line")
        assert await store.update_tasks([Change(before, after)]) == [True]
    finally:
        await store.close()


def test_a_task_without_room_for_lines(stack: StackInfo, credentials: Credentials, rest: Rest) -> None:
    """One line too many is refused for good, with no time to come back; lease and progress are kept: the task runs."""
    task = rest.submit("wordy", {"n": 4, "stop": True})
    ask = {"worker_name": "by hand", "task_types": ["wordy"], "wait": "20s"}
    (leased,) = rest.http.post("/v1/worker/tasks:lease", json=ask).json()["tasks"]
    asyncio.run(talk(stack, leased["lease"], NOTES - 3))
    said = {"lease": leased["lease"], "log": "a line", "progress": {"fraction": 0.25, "message": "talking"}}
    for _ in range(3):
        assert rest.http.post("/v1/worker/tasks:heartbeat", json=said).status_code == 200
    said["progress"] = {"fraction": 0.75, "message": "done talking"}
    refused = rest.http.post("/v1/worker/tasks:heartbeat", json=said)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "EVENTS_FULL")
    assert "retry-after" not in refused.headers
    assert rest.get(task)["progress"] == said["progress"]
    broken = {"lease": leased["lease"], "code": "BROKEN", "retryable": True, "retry_delay": "0s"}
    assert rest.http.post("/v1/worker/tasks:fail", json=broken).status_code == 200
    with worker_of("wordy", stack, credentials) as worker:
        assert rest.ended(task)["result"] == {"doubled": 8}
        assert worker.wait(SECONDS) == 0
