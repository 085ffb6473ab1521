"""Where one run happens: a folder and processes of its own, gone when it is over."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

from bench.meter import Meter, Usage, memory
from bench.sample import Sample
from openmcp_chain.stack import database, ports, tether
from openmcp_chain.stack.probes import DatabaseProbe

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0
END_SECONDS = 30.0
RUN_SECONDS = 300.0
"""No measured stretch takes longer."""


class Lab:
    """Starts what a case needs; measures the stretch in which its load generator works."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server_environment: Mapping[str, str] = {}
        """What our server's processes are told besides what they need."""
        self._processes: defaultdict[str, list[subprocess.Popen[bytes]]] = defaultdict(list)
        self._ended_by: dict[int, signal.Signals] = {}

    def start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        ended_by: signal.Signals = signal.SIGKILL,
        **pipes: int,
    ) -> subprocess.Popen[bytes]:
        """Starts a process whose CPU time is counted as `name`, with that of others of this name. It dies with us.

        What it starts itself is counted with it. `ended_by` is how it is ended when the run is over.
        """
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *argv],
                cwd=ROOT,
                env={**os.environ, "no_grpc_proxy": ports.HOST, **env},
                stdout=pipes.get("stdout", log),
                stdin=pipes.get("stdin", subprocess.DEVNULL),
                stderr=log,
            )
        self._processes[name].append(process)
        self._ended_by[process.pid] = ended_by
        return process

    async def start_module(self, name: str, module: str, *arguments: str, python: str = sys.executable) -> None:
        """Starts `python -m module` and returns when it has said, by a line on its output, that it is ready."""
        process = self.start(name, [python, "-m", module, *arguments], {}, stdout=subprocess.PIPE)
        await self._line(name, process.stdout, START_SECONDS)

    async def start_database(self, number: int = 0) -> str:
        """Starts the stack's own database on an empty folder; returns its URI when it takes writes.

        `number` tells several apart.
        """
        folder = self.folder / f"database-{number}"
        folder.mkdir()
        chosen = database.choose("", folder)
        assert chosen.program, "a database is chosen that is not ours to start"
        self.start("database", chosen.program.argv, chosen.program.env)
        async with DatabaseProbe(chosen) as probe:
            await self.until("database", probe)
        return chosen.uri

    async def until(self, name: str, probe: Callable[[], Awaitable[bool]]) -> None:
        """Returns when `probe` says yes of the last process of this name.

        Raises RuntimeError, with the log's end, if it fails to get there.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await probe():
                    if self._processes[name][-1].poll() is not None:
                        raise self._failure(name)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise self._failure(name) from None

    async def measure(
        self,
        module: str,
        plan: Mapping[str, Any],
        *,
        python: str = sys.executable,
        **beside: tuple[str, Mapping[str, Any]],
    ) -> Sample:
        """Runs the load generator `module` as its plan says; see `bench.load.protocol`.

        `beside` has others, by the name under which each is measured: they begin with it, and what they tell beyond
        operations and times is the sample's as well.
        """
        generators = {"load": (module, plan), **beside}
        loads = {name: await self._ready(name, python, *generator) for name, generator in generators.items()}
        meter = Meter((name, process.pid) for name, process in self._all())
        meter.start()
        go = f"go {time.monotonic()}\n".encode()
        for process in loads.values():
            _write(process, go)
        told = {
            name: json.loads(await self._line(name, process.stdout, RUN_SECONDS)) for name, process in loads.items()
        }
        more = {name: figure for one in told.values() for name, figure in one["more"].items()}
        return Sample(usage=meter.stop(), **{**told["load"], "more": more})

    async def rest(self, seconds: float) -> Usage:
        """What everything takes that was started, while nothing is asked of it for so long."""
        meter = Meter((name, process.pid) for name, process in self._all())
        meter.start()
        await asyncio.sleep(seconds)
        return meter.stop()

    def memory(self, name: str) -> float:
        """Bytes that the processes of this name take now."""
        return sum(memory(process.pid) for process in self._processes[name])

    async def end(self, name: str) -> None:
        """Ends the processes of this name as a user would (SIGTERM), and forgets them."""
        for process in self._processes.pop(name):
            process.terminate()
            await asyncio.to_thread(process.wait, END_SECONDS)

    def close(self) -> None:
        """Ends every process, the last one first."""
        for _, process in reversed(self._all()):
            process.send_signal(self._ended_by[process.pid])
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()

    async def _ready(self, name: str, python: str, module: str, plan: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        """Starts a load generator; returns when it has said that it waits for the word."""
        process = self.start(name, [python, "-m", module], {}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        _write(process, json.dumps(plan).encode() + b"\n")
        await self._line(name, process.stdout, RUN_SECONDS)
        return process

    def _all(self) -> Sequence[tuple[str, subprocess.Popen[bytes]]]:
        return [(name, process) for name, processes in self._processes.items() for process in processes]

    async def _line(self, name: str, pipe: IO[bytes] | None, seconds: float) -> bytes:
        assert pipe, "the process was started without a pipe"
        try:
            line = await asyncio.wait_for(asyncio.to_thread(pipe.readline), seconds)
        except TimeoutError:
            self._processes[name][-1].kill()  # which ends the thread's read
            line = b""
        if not line:
            raise self._failure(name)
        return line

    def _failure(self, name: str) -> RuntimeError:
        return RuntimeError(f"{name} failed:\n{self._log(name).read_text(errors='replace')[-2000:]}")

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def _write(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin, "the process was started without a pipe"
    process.stdin.write(line)
    process.stdin.flush()


@asynccontextmanager
async def opened() -> AsyncIterator[Lab]:
    """A lab for one run."""
    folder = Path(tempfile.mkdtemp(prefix="openmcp-bench-"))
    lab = Lab(folder)
    try:
        yield lab
    finally:
        lab.close()
        shutil.rmtree(folder)
