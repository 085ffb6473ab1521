"""A real database process to test against: SecantusDB, on a free port, with a folder of its own."""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_SECONDS = 30.0
BYTECODE = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
"""Where Python looks for what it has compiled before, as it is told by the environment."""


class Database:
    """One database process at a time, on one folder and one port: it can be stopped, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = 0
        """Where it listens, once started."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process, "the database is not running"
        return self._process.pid

    def start(self) -> None:
        """Starts it and returns when it takes connections. A restart gets the port of the first start."""
        assert not self._process, "the database is running"
        self._process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("secantusd-py")),
                *("--host", "127.0.0.1", "--port", str(self.port)),
                *("--storage-path", str(self._folder / "data")),
            ],
            cwd=self._folder,  # it reads ./secantusd.toml and ~/.secantus, if there are such
            env={
                **{name: value for name, value in os.environ.items() if name in BYTECODE},
                "PATH": os.environ["PATH"],
                "HOME": str(self._folder),
                # Without it, kill -9 loses acknowledged writes.
                "WIREDTIGER_CONFIG": "transaction_sync=(enabled=true,method=none)",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.port = _announced_port(self._process)

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL)."""
        assert self._process, "the database is not running"
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
        self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stops it in its tracks for a while (SIGSTOP): connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # until each of its threads has stopped
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kills it if it runs."""
        if self._process:
            self.kill()


def _announced_port(process: "subprocess.Popen[bytes]") -> int:
    """The port that the process says it listens on, by its only log line at the start."""
    assert process.stdout
    log = b""
    end = time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, end - time.monotonic())):
            chunk = os.read(process.stdout.fileno(), 65536)
            log += chunk
            for line in log.splitlines():
                if b"listening on" in line and line.rstrip().rsplit(b":", 1)[-1].isdigit() and log.endswith(b"\n"):
                    return int(line.rsplit(b":", 1)[-1])
            if not chunk:
                break
    process.kill()
    process.wait()
    raise AssertionError(f"the database did not start:\n{log.decode(errors='replace')}")


@contextmanager
def running_database() -> Iterator[Database]:
    """A database for the length of the block, its folder gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="openmcp-database-"))
    database = Database(folder)
    try:
        database.start()
        yield database
    finally:
        database.end()
        shutil.rmtree(folder)


@pytest.fixture
def fresh_database() -> Iterator[Database]:
    """An empty one, for a test that can't share."""
    with running_database() as running:
        yield running


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    """One for the whole run. It is never stopped: a test that stops its database starts one of its own."""
    with running_database() as running:
        yield running
