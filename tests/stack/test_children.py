"""Supervision, shown on real processes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from openmcp_chain.stack import children, probes
from openmcp_chain.stack.children import Child, Program
from openmcp_chain.stack.console import Console
from openmcp_chain.stack.failure import StackError
from openmcp_chain.stack.parts import Parts
from openmcp_chain.stack.state import DataFolder

SLEEPER = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-S",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


class Nursery:
    """Makes children and keeps what is said of their restarts."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.restarts: asyncio.Queue[tuple[Child, str]] = asyncio.Queue()
        self.made: list[Child] = []

    async def start(self, argv: list[str], name: str = "sleeper", grace: float = 5.0) -> Child:
        program = Program(name, argv, grace=grace)
        child = Child(program, self.logs, lambda child, ending: self.restarts.put_nowait((child, ending)))
        self.made.append(child)
        await child.start()
        return child


@pytest.fixture
async def nursery(tmp_path: Path) -> AsyncIterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    for child in nursery.made:
        child.kill()
        await child.stop()


def says_up(child: Child) -> Callable[[], "asyncio.Future[bool]"]:
    async def probe() -> bool:
        return "up" in child.log.read_text()

    return lambda: asyncio.ensure_future(probe())


async def gone(pid: int) -> None:
    """Waits until a process has ended that is no child of ours: a child's status is for the event loop to collect."""
    with contextlib.suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(psutil.Process(pid).wait, 10)


async def test_a_dead_child_is_started_again(nursery: Nursery) -> None:
    """A ready child that is killed runs again under a new pid, and the way it died is told."""
    child = await nursery.start(SLEEPER)
    await child.ready(says_up(child), 10)
    first = child.pid
    os.kill(first, signal.SIGKILL)
    restarted, ending = await nursery.restarts.get()
    assert restarted is child
    assert ending == "was killed by SIGKILL"
    assert child.pid != first
    assert psutil.pid_exists(child.pid)


async def test_a_child_that_keeps_dying_waits_longer(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each early death doubles the wait before the next start, up to a limit."""
    waits = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    gate = nursery.logs / "gate"
    until_open = f"import os, time\nprint('up', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    child = await nursery.start([sys.executable, "-S", "-c", until_open])
    await child.ready(says_up(child), 10)
    gate.touch()
    monkeypatch.setattr(children, "FIRST_DELAY", 0.5)
    monkeypatch.setattr(children, "LONGEST_DELAY", 2.0)
    monkeypatch.setattr(asyncio, "sleep", note)
    for _ in range(4):
        await nursery.restarts.get()
    assert waits[:4] == [1.0, 2.0, 2.0, 2.0]


async def test_a_death_before_readiness_is_an_error(nursery: Nursery) -> None:
    """A child that ends before it was ready is not started again: it is reported, with its status and its log."""
    child = await nursery.start([sys.executable, "-S", "-c", "raise SystemExit(7)"])

    async def never() -> bool:
        return False

    with pytest.raises(StackError, match=r"sleeper ended with status 7 .* its log is .*sleeper\.log"):
        await child.ready(never, 30)
    assert nursery.restarts.empty()


async def test_a_missing_program_is_an_error(nursery: Nursery) -> None:
    """A command that does not exist counts as a death before readiness."""
    child = await nursery.start(["openmcp-no-such-command"])

    async def never() -> bool:
        return False

    with pytest.raises(StackError, match="sleeper ended with status"):
        await child.ready(never, 30)
    assert "No such file" in child.log.read_text()


async def test_readiness_has_a_limit(nursery: Nursery) -> None:
    """A child that never becomes ready is reported after its time."""
    child = await nursery.start(SLEEPER)

    async def never() -> bool:
        return False

    with pytest.raises(StackError, match=r"sleeper is not ready after 0\.1 s"):
        await child.ready(never, 0.1)


async def test_stop_asks_first(nursery: Nursery) -> None:
    """A child that heeds SIGTERM ends by it, and is not started again."""
    farewell = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye', flush=True)));"
        "print('up', flush=True); time.sleep(600)"
    )
    child = await nursery.start([sys.executable, "-S", "-c", farewell])
    await child.ready(says_up(child), 10)
    await child.stop()
    assert "bye" in child.log.read_text()
    assert not psutil.pid_exists(child.pid)
    assert nursery.restarts.empty()


async def test_stop_ends_the_stubborn(nursery: Nursery) -> None:
    """A child that ignores SIGTERM is killed once its grace is over."""
    child = await nursery.start(STUBBORN, grace=0.2)
    await child.ready(says_up(child), 10)
    await child.stop()
    assert not psutil.pid_exists(child.pid)


async def test_stop_ends_what_a_child_left_behind(nursery: Nursery) -> None:
    """A grandchild in the child's group does not outlive the stop."""
    script = (
        f"import subprocess, time; p = subprocess.Popen({SLEEPER!r}); print('pid', p.pid, flush=True); time.sleep(600)"
    )
    child = await nursery.start([sys.executable, "-S", "-c", script])

    async def both() -> bool:
        return {"up", "pid"} <= set(child.log.read_text().split())

    await child.ready(both, 10)
    words = child.log.read_text().split()
    grandchild = int(words[words.index("pid") + 1])
    await child.stop()
    await gone(grandchild)


async def test_stop_during_the_wait_for_a_restart(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is waiting to be started again can be stopped: it stays down."""
    waiting = asyncio.Event()

    async def for_ever(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    child = await nursery.start(SLEEPER)
    await child.ready(says_up(child), 10)
    monkeypatch.setattr(asyncio, "sleep", for_ever)
    os.kill(child.pid, signal.SIGKILL)
    await waiting.wait()
    await child.stop()
    assert nursery.restarts.empty()
    assert not psutil.pid_exists(child.pid)


async def test_a_part_that_is_lost_ends_what_is_done_meanwhile(tmp_path: Path) -> None:
    """A part that can't be started again is told at once, and not after a step that waits for it, maybe in vain."""
    with DataFolder(tmp_path) as folder:
        parts = Parts(folder, Console())
        await parts.spawn(Program("worker", SLEEPER))
        log = folder.logs / "worker.log"
        try:
            await parts.until_ready("worker", probes.exists(log))
            log.unlink()
            log.mkdir()
            os.kill(parts.pids["worker"], signal.SIGKILL)
            with pytest.raises(StackError, match="worker was killed by SIGKILL and can't be started again"):
                await parts.unless_lost(asyncio.Event().wait())
        finally:
            await parts.end()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    """SIGKILL of the supervisor leaves no child running."""
    script = f"""
import asyncio, pathlib
from openmcp_chain.stack.children import Child, Program

async def main():
    child = Child(Program("sleeper", {SLEEPER!r}), pathlib.Path({str(tmp_path)!r}), lambda *_: None)
    await child.start()
    async def up():
        return "up" in child.log.read_text()
    await child.ready(up, 10)
    print(child.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    child = int(await supervisor.stdout.readline())
    assert psutil.pid_exists(child)
    supervisor.kill()
    await supervisor.wait()
    await gone(child)


async def test_logs_are_bounded(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overgrown log is moved aside while the child goes on writing to the same name."""
    monkeypatch.setattr(children, "LOG_LIMIT", 1000)
    monkeypatch.setattr(children, "LOG_CHECK", 0.05)
    child = await nursery.start(
        [sys.executable, "-S", "-c", "while True: print('x' * 99, flush=True); __import__('time').sleep(0.01)"]
    )
    aside = nursery.logs / "sleeper.log.1"

    async def moved() -> bool:
        return aside.exists()

    await child.ready(moved, 10)
    assert aside.stat().st_size >= 1000
    assert [log.stat().st_mode & 0o777 for log in (child.log, aside)] == [0o600, 0o600]
