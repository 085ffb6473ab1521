"""What both of this folder's tests use."""

import subprocess
from pathlib import Path

import pytest

GRPCURL = Path(__file__).parent / "grpcurl"


@pytest.fixture(scope="session")
def grpcurl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of grpcurl, pinned."""
    folder = tmp_path_factory.mktemp("grpcurl")
    build = ["go", "build", "-o", str(folder / "grpcurl"), "github.com/fullstorydev/grpcurl/cmd/grpcurl"]
    subprocess.run(build, cwd=GRPCURL, check=True, timeout=500)
    return folder
