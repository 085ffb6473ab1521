"""What `openmcp dev` prints to be pasted, pasted: grpcurl's lines. tests/stack has curl's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.stack import StackInfo, running_stack

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("go") is None, reason="needs go, which is not on the PATH, to build grpcurl"),
]


def test_grpcurl_lines(stack: StackInfo, grpcurl: Path) -> None:
    """They submit a task and show the sample's."""
    paste(stack, grpcurl)


@pytest.mark.slow
def test_grpcurl_lines_with_tls(tmp_path: Path, grpcurl: Path) -> None:
    """So they do with the stack's own certificates."""
    with running_stack(tmp_path / "data", "--tls") as stack:
        paste(stack, grpcurl)


def paste(stack: StackInfo, grpcurl: Path) -> None:
    shown = stack.until_shown("Ctrl-C ends everything.")
    lines = [line.strip() for line in shown[shown.index("paste these") :].splitlines()]
    pasted = [line for line in lines if line.startswith(("TOKEN=", "grpcurl"))]
    assert len(pasted) == 3
    done = subprocess.run(
        ["sh", "-ec", "\n".join(pasted)],
        env={**os.environ, "PATH": os.pathsep.join([str(grpcurl), os.environ["PATH"]])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert '"status": "TASK_STATUS_PENDING"' in done.stdout
    assert '"status": "TASK_STATUS_SUCCEEDED"' in done.stdout
