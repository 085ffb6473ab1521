"""What every room's tests may ask for."""

import os
import sys
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ("support.database", "support.logscan")


def pytest_configure() -> None:
    """Programs of this environment (Envoy, buf, …) are found, whether it is activated or not."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # How long an example takes says something of the machine, and nothing of the code.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")


class FolderByFolder(LoadScopeScheduling):  # type: ignore[misc]  # its base ships no types
    """Two processes share the run folder by folder, so that what a folder's tests share is started once."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.rpartition("/")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FolderByFolder:
    """Of our own: the groups of pytest-xdist 3.8 are without effect under pytest 9.2."""
    return FolderByFolder(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single rooms; pytest takes none from further down."""
    parser.addoption("--seeds", type=int, default=1, help="tests/faults: how many rounds of each kind (default: 1)")
    parser.addoption("--examples", type=int, default=0, help="tests/model: how many, at random (default: a fixed few)")
