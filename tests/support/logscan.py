"""After the whole run: no secret, no token and nothing of a payload is in what the processes of the tests have written.

A pytest plugin. Every log and terminal output in the run's folder is looked through when all tests are done, those of
each of pytest-xdist's processes too. A secret, a token and a private key are known by their shape, so none has to be
registered; what stands in payloads, results and metadata is known by `CANARY`, which tests put there. One find fails
the run. It is told by file, line and kind, and not shown.

`openmcp dev` shows the secrets of its demo workspace and administrator to the person at the terminal: these lines, of
its own output alone, are passed over.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

CANARY = "canary-of-a-payload-7d41"
"""Something that only payloads, results, metadata and rows hold, so that a log which has it has them."""
KINDS = {
    "a secret": re.compile(rb"omcp_[0-9a-f]{8}_[A-Za-z0-9_-]{43}"),
    "a token": re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    "a private key": re.compile(rb"BEGIN [A-Z ]*PRIVATE KEY"),
    "a password": re.compile(rb"mongodb(\+srv)?://[^/@\s]+:[^/@\s]+@"),
    "a payload": re.compile(CANARY.encode()),
}
LOGS = ("*.log", "*.log.1", "*.output", "*.stdout", "*.stderr")
_SHOWN_ONCE = re.compile(rb"^\s*(\S*secret\b|TOKEN=)", re.MULTILINE)
"""Lines of `openmcp dev`: the name of what is shown, or a command to paste."""


@dataclass(frozen=True, slots=True)
class Find:
    """Something that should not be there."""

    file: Path
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind}"


def logs(folder: Path) -> list[Path]:
    """All that processes wrote for people to read."""
    return sorted({file for pattern in LOGS for file in folder.rglob(pattern) if file.is_file()})


def scan(files: Sequence[Path]) -> Iterator[Find]:
    """What is in them that should not be."""
    for file in files:
        data = file.read_bytes()
        for kind, pattern in KINDS.items():
            for found in pattern.finditer(data):
                begin = data.rfind(b"\n", 0, found.start()) + 1
                if file.suffix == ".output" and kind == "a secret" and _SHOWN_ONCE.match(data, begin):
                    continue
                yield Find(file, data.count(b"\n", 0, found.start()) + 1, kind)


_SUMMARY = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Looks the run's folder through, once: in the process that pytest-xdist's others belong to.

    First of all: pytest itself lets go of the folder here, and another run on the machine may then remove it.
    """
    if hasattr(session.config, "workerinput") or session.config.option.collectonly:
        return
    files = logs(session.config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]
    finds = [str(find) for find in scan(files)]
    session.config.stash[_SUMMARY] = [f"log scan: {len(files)} files, {len(finds) or 'no'} finds", *finds]
    if finds and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was found, or that nothing was."""
    for line in config.stash.get(_SUMMARY, []):
        terminalreporter.write_line(line)
