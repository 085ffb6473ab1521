"""`openmcp dev` as installed: how long it takes to be ready on an empty folder, and what memory its parts take at rest.

It was started once before, as an installer would have compiled its modules.
"""

import asyncio
import json
import time
from pathlib import Path

from bench.case import Case, Size
from bench.lab import Lab
from bench.meter import Meter, memory
from bench.sample import Sample
from openmcp_chain.stack import database, probes

SETTLE_SECONDS = 3.0
"""After it is ready: what a start leaves to do is done then."""
IDLE_SECONDS = 10.0
PARTS = ("server", "database", "envoy", "worker", "supervisor")


async def run(lab: Lab, _: Size) -> Sample:
    await _start(lab, "first")
    await lab.end("supervisor")

    starting = Meter()
    starting.start()
    began = time.perf_counter()
    pids = await _start(lab, "second")
    seconds = time.perf_counter() - began
    for name, pid in pids.items():
        starting.born(name, pid)
    usage = starting.stop()

    await asyncio.sleep(SETTLE_SECONDS)
    idle = Meter(pids.items())
    idle.start()
    await asyncio.sleep(IDLE_SECONDS)
    cpu = sum(idle.stop().cpu.values())
    held = {f"{name}_mb": memory(pid) / 1e6 for name, pid in pids.items()}
    await lab.end("supervisor")
    return Sample(1, seconds, usage, more={**held, "idle_cpu_ms": cpu * 1000 / IDLE_SECONDS})


async def _start(lab: Lab, name: str) -> dict[str, int]:
    """Returns when it is ready: the ids of its processes."""
    folder = lab.folder / name
    command = database.find("openmcp")
    assert command, "the project is not installed"
    arguments = ["dev", "--data-dir", str(folder), "--rest-port", "0", "--grpc-port", "0", "--no-sample"]
    # Modules are compiled once, whatever the environment says, and in a place that is ours.
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(lab.folder / "bytecode")}
    supervisor = lab.start("supervisor", [command, *arguments], compiled)
    await lab.until("supervisor", probes.exists(folder / "dev.json"))
    return {**_pids(folder), "supervisor": supervisor.pid}


def _pids(folder: Path) -> dict[str, int]:
    pids: dict[str, int] = json.loads((folder / "dev.json").read_text())["pids"]
    return pids


CASE = Case("stack", "openmcp dev, embedded database, a worker", run)
