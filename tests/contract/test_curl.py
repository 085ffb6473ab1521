"""A worker that is a shell script: REST alone, by curl."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.rest import Rest
from support.stack import StackInfo
from support.workspaces import Credentials

SCRIPT = Path(__file__).parent / "curl" / "worker.sh"
SECONDS = 60.0

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "jq"))),
    reason="needs bash, curl and jq, one of which is not on the PATH",
)


def test_worker(stack: StackInfo, credentials: Credentials, rest: Rest) -> None:
    """It leases, heartbeats with progress and a line, completes and fails tasks, through the real Envoy."""
    environment = {
        **os.environ,
        "OPENMCP_URL": stack.rest_url,
        "OPENMCP_WORKSPACE_ID": credentials.workspace_id,
        "OPENMCP_WORKSPACE_SECRET": credentials.workspace_secret,
    }
    worker = subprocess.Popen([str(SCRIPT), "double"], env=environment)
    try:
        numbers = [rest.submit("double", {"n": n}) for n in range(3)]
        bad = rest.submit("double", {})
        last = rest.submit("double", {"n": 3, "stop": True})
        assert [rest.ended(task)["result"] for task in (*numbers, last)] == [{"doubled": 2 * n} for n in range(4)]
        assert rest.ended(bad)["error"] == "NO_NUMBER: payload.n: is required"
        assert worker.wait(SECONDS) == 0
    finally:
        worker.kill()
        worker.wait()
    contexts = [message.data["context"] for message in rest.events(last).messages]
    assert contexts[1] == {"attempt": 1, "worker": "bash"}
    assert contexts[2] == {"attempt": 1, "log": "curl was here", "progress": 0.5, "message": "halfway"}
