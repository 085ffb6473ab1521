"""One stack for all rounds, with leases so short that a dead worker's tasks are soon another's."""

from collections.abc import Iterator

import pytest
from support import workspaces
from support.echo import EchoWorker, running_echo
from support.stack import StackInfo, running_stack
from support.workspaces import Credentials

FIGURES = "figures"
"""The name under which a round tells its figures."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints each round's figures."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    lines = [value for report in reports for name, value in report.user_properties if name == FIGURES]
    if lines:
        terminalreporter.section("rounds")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackInfo]:
    folder = tmp_path_factory.mktemp("faults") / "data"
    environment = {"OPENMCP_LEASE_DURATION": "3"}
    with running_stack(folder, "--no-sample", "--plan", "unlimited", environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def credentials(stack: StackInfo) -> Credentials:
    return workspaces.create(stack)


@pytest.fixture(scope="session")
def echo(stack: StackInfo, credentials: Credentials) -> Iterator[EchoWorker]:
    """A worker for the workspace's quick tasks."""
    with running_echo(stack, credentials) as worker:
        yield worker
