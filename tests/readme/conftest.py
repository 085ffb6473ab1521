"""What both of this folder's tests use."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stack import StackInfo, running_stack

GRPCURL = Path(__file__).parent / "grpcurl"


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackInfo]:
    """What `make run` starts, in a folder that has what the commands expect of the project's own."""
    folder = tmp_path_factory.mktemp("readme").resolve()
    (folder / ".venv").symlink_to(sys.prefix)
    with running_stack(folder / ".openmcp") as running:
        yield running


@pytest.fixture(scope="package")
def grpcurl() -> Path:
    """The folder of grpcurl, pinned: built by the first run, and found in Go's cache by those after it."""
    named = ["go", "tool", "-n", "grpcurl"]
    return Path(subprocess.check_output(named, cwd=GRPCURL, text=True, timeout=500).strip()).parent
