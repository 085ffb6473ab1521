"""An independent client in another language: Go, its code generated from `proto/` when the test runs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.rest import Rest
from support.stack import StackInfo
from support.workspaces import Credentials

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).parent / "go"
PLUGINS = ("protoc-gen-go", "protoc-gen-go-grpc")
BUILD_SECONDS = 600.0
"""The first build compiles gRPC; later ones find it, and the plugins, in Go's cache."""

SECONDS = 30.0

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="needs go, which is not on the PATH"),
    pytest.mark.timeout(BUILD_SECONDS),
]


@pytest.fixture(scope="module")
def lifecycle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from the contract as it is now, with the pinned plugins."""
    folder = tmp_path_factory.mktemp("go")
    for name in ("go.mod", "go.sum", "main.go", "worker.go"):
        shutil.copy(SOURCE / name, folder)
    files = [path.relative_to(ROOT / "proto").as_posix() for path in (ROOT / "proto").rglob("*.proto")]
    options = ["module=lifecycle", *(f"M{name}=lifecycle/contract" for name in files)]
    template = {
        "version": "v2",
        "plugins": [
            {"local": _run(folder, "go", "tool", "-n", plugin).strip(), "out": str(folder), "opt": options}
            for plugin in PLUGINS
        ],
    }
    buf = str(Path(sys.executable).with_name("buf"))
    _run(ROOT, buf, "generate", "proto", "--template", json.dumps(template))
    # Nobody debugs it: without what a debugger needs, linking takes half as long.
    _run(folder, "go", "build", "-ldflags", "-s -w", "-o", "lifecycle", ".")
    return folder / "lifecycle"


def test_lifecycle(stack: StackInfo, credentials: Credentials, rest: Rest, lifecycle: Path) -> None:
    """It signs in, submits, follows, reads, and decodes an error's details and an unknown status, by both ways in."""
    environment = {"OPENMCP_WORKSPACE_SECRET": credentials.workspace_secret}
    for target in (stack.grpc_target, stack.envoy_grpc_target):
        _run(lifecycle.parent, str(lifecycle), target, credentials.workspace_id, environment=environment)


def test_worker(stack: StackInfo, credentials: Credentials, rest: Rest, lifecycle: Path) -> None:
    """It takes tasks from the stream, reports progress and results, and stops a task that is cancelled."""
    environment = {**os.environ, "OPENMCP_WORKSPACE_SECRET": credentials.workspace_secret}
    for target, task_type in ((stack.grpc_target, "go_direct"), (stack.envoy_grpc_target, "go_envoy")):
        waits = rest.submit(task_type, {"wait": True})
        worker = subprocess.Popen([str(lifecycle), target, credentials.workspace_id, task_type], env=environment)
        try:
            numbers = [rest.submit(task_type, {"n": n}) for n in range(5)]
            begun = rest.events(waits, until="RUNNING").messages[-1]
            assert begun.data["context"] == {"attempt": 1, "worker": "gopher", "worker_version": "1.2.3"}
            assert rest.http.post(f"/v1/tasks/{waits}:cancel", json={"reason": "enough"}).status_code == 200
            assert rest.ended(waits)["status"] == "CANCELLED"
            numbers.append(rest.submit(task_type, {"n": 5, "stop": True}))
            assert [rest.ended(task)["result"] for task in numbers] == [{"doubled": 2 * n} for n in range(6)]
            assert worker.wait(SECONDS) == 0
        finally:
            worker.kill()
            worker.wait()
        seen = [message.data["context"].get("progress") for message in rest.events(numbers[0]).messages]
        assert 0.5 in seen


def _run(folder: Path, *command: str, environment: Mapping[str, str] | None = None) -> str:
    """Runs a command, which must succeed; returns what it prints."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout
