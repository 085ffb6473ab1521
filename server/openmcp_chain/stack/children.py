"""Child processes that are kept alive until they are stopped.

A child runs in a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone and the order of
ending is its own; `tether` makes it die with the supervisor. Once a child has been ready, its death is no error: it
is started again, at once the first time, ever later if it keeps dying young.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from openmcp_chain.stack import tether
from openmcp_chain.stack.failure import ChildDied, StackError

FIRST_DELAY = 0.1
"""Seconds before a child that died is started again; doubled with each further early death."""
LONGEST_DELAY = 5.0
YOUNG = 5.0
"""Seconds; a child that ran longer than this starts with a clean record."""
LOG_LIMIT = 32 * 2**20
"""Bytes after which a log is copied aside and emptied, so a child's logs take about twice this at most."""
LOG_CHECK = 5.0
_PROBE_PAUSE = 0.03


@dataclass(frozen=True, slots=True)
class Program:
    """What to run."""

    name: str
    """Short, for people; also the log's name."""
    argv: Sequence[str]
    """The first is looked up on the PATH."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to our own environment."""
    cwd: Path | None = None
    grace: float = 5.0
    """Seconds between SIGTERM and SIGKILL when it is stopped."""


class Child:
    """One running program. Start, await `ready`, later `stop`; all from the event loop of one thread."""

    def __init__(self, program: Program, logs: Path, on_restart: Callable[["Child", str], None]) -> None:
        """Logs go to `<logs>/<name>.log`. `on_restart` is told of each restart, with how the child had died."""
        self.program = program
        self.log = logs / f"{program.name}.log"
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._established = False
        self._died = asyncio.Event()

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int:
        """The process's id: the last one's, if it has died and is not yet started again."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    async def start(self) -> None:
        """Starts the program, with a fresh log."""
        _move_aside(self.log)
        await self._spawn()
        self._watching = asyncio.create_task(self._watch(), name=f"watch {self.name}")

    async def ready(self, probe: Callable[[], Awaitable[bool]], timeout: float) -> None:  # noqa: ASYNC109 - the failure names the log
        """Returns when `probe` first says yes; from then on the child is started again when it dies.

        Raises ChildDied if the child ends before, another StackError if it takes longer than `timeout` seconds.
        """
        death = asyncio.create_task(self._died.wait())
        deadline = time.monotonic() + timeout
        try:
            while not await probe():
                if time.monotonic() > deadline:
                    raise StackError(f"{self.name} is not ready after {timeout:g} s", self.log)
                await asyncio.wait({death}, timeout=_PROBE_PAUSE)
                if self._died.is_set():
                    raise ChildDied(f"{self.name} {self._ending()} while it started", self.log)
        finally:
            death.cancel()
        self._established = True

    async def stop(self) -> None:
        """Ends the child: SIGTERM, and SIGKILL to its group once its grace is over. Then nothing of it is left."""
        if self._watching is not None:  # first, so that it starts nothing new
            self._watching.cancel()
            await asyncio.wait({self._watching})
        if self._process is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.program.grace):
                    await self._process.wait()
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """SIGKILL to the child, if it lives, and to whatever it left behind in its group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def lost(self) -> None:
        """Returns never, unless the child can't be started again: then it raises StackError."""
        if self._watching is not None:
            await asyncio.shield(self._watching)

    async def _spawn(self) -> None:
        argv = [sys.executable, "-I", "-S", str(Path(tether.__file__)), str(os.getpid()), *self.program.argv]
        with _private(self.log, os.O_APPEND) as log:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.program.env},
                cwd=self.program.cwd,
                start_new_session=True,
            )

    async def _watch(self) -> None:
        young_deaths = 0
        while True:
            born = time.monotonic()
            await self._until_death()
            if not self._established:
                self._died.set()
                return
            ending = self._ending()
            self.kill()  # what it left behind may hold what its successor needs
            young_deaths = young_deaths + 1 if time.monotonic() - born < YOUNG else 0
            await asyncio.sleep(min(LONGEST_DELAY, FIRST_DELAY * 2**young_deaths))
            try:
                await self._spawn()
            except OSError as error:
                raise StackError(f"{self.name} {ending} and can't be started again: {error}") from None
            self._on_restart(self, ending)

    async def _until_death(self) -> None:
        process = self._process
        if process is None:
            raise RuntimeError(f"{self.name} was not started")
        death = asyncio.create_task(process.wait())
        try:
            while not (await asyncio.wait({death}, timeout=LOG_CHECK))[0]:
                _keep_small(self.log)
        finally:
            death.cancel()

    def _ending(self) -> str:
        code = self._process.returncode if self._process else None
        if code is None:
            return "is running"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _private(path: Path, flag: int) -> IO[bytes]:
    """Opens a file to write to; if it is not there, one that nobody else may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o600), "wb")


def _move_aside(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        log.replace(log.with_suffix(".log.1"))


def _keep_small(log: Path) -> None:
    """Copies an overgrown log aside and empties it: the child goes on writing to the same file, at its new end."""
    try:
        if log.stat().st_size < LOG_LIMIT:
            return
        with log.open("rb") as grown, _private(log.with_suffix(".log.1"), os.O_TRUNC) as aside:
            shutil.copyfileobj(grown, aside)
        os.truncate(log, 0)
    except OSError:  # a full disk, a folder removed under us: no reason to end the child
        return
