"""What `openmcp dev` prints to be pasted, pasted: grpcurl's lines. tests/stack has curl's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.stack import running_stack


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("go") is None, reason="needs go, which is not on the PATH, to build grpcurl")
@pytest.mark.parametrize("flags", [(), ("--tls",)], ids=["plain", "tls"])
def test_grpcurl_lines(tmp_path: Path, grpcurl: Path, flags: tuple[str, ...]) -> None:
    """They submit a task and show the sample's, in the clear or with the stack's own certificates."""
    with running_stack(tmp_path / "data", *flags) as stack:
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
