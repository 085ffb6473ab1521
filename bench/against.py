"""Has the server become dearer? `python -m bench.against REVISION` measures it beside that revision's, in one run.

By default beside the last commit's: is what has changed since worth what it costs? Each round runs every case with
either, in turns; the load generators are this revision's, and so are the libraries. It ends with 1 if an operation
takes server and database more than `--most` times the CPU time that it took before, or if nothing can be said since
others used the machine.
"""

import argparse
import asyncio
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench import rounds
from bench.case import Case, Ratio, Size
from bench.cases import openmcp_batch, openmcp_drain, openmcp_get, openmcp_submit
from bench.figures import BEHIND
from bench.lab import ROOT, Lab
from bench.sample import Sample

CASES = (openmcp_submit.CASE, openmcp_get.CASE, openmcp_batch.CASE, openmcp_drain.CASE)
MOST = 1.15
"""Less is within what one run differs from the next."""


def main() -> None:
    """Measures, tells, and judges."""
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD", help="of this repository, as git names it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=6000, help="measured operations in a run")
    parser.add_argument("--most", type=float, default=MOST)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openmcp-against-") as folder:
        try:
            before = _unpacked(options.revision, Path(folder))
        except subprocess.CalledProcessError as error:
            parser.error(f"no server in {options.revision}: {error.stderr.decode().strip()}")
        size = Size(calls=options.calls, warm_up=1000, callers=64)
        dearer = asyncio.run(_measure(before, size, options.rounds, options.most))
    sys.exit(f"dearer than {options.most:g} times {options.revision}: {', '.join(dearer)}" if dearer else 0)


async def _measure(before: Path, size: Size, count: int, most: float) -> list[str]:
    """The names of the cases that have become dearer."""
    pairs = [(_served(case, "now", ROOT / "server"), _served(case, "before", before)) for case in CASES]
    results = await rounds.run([case for pair in pairs for case in pair], size, count)
    dearer = []
    for (now, then), case in zip(pairs, CASES, strict=True):
        if not all(any(sample.believed for sample in results.samples[one.name]) for one in (now, then)):
            sys.exit("others used the machine: nothing is said")
        times = results.ratio(Ratio(case.title, now, then, BEHIND))
        print(f"{case.name:<8} CPU of server and database for one, beside what it was: {times:.2f} ×")
        if times > most:
            dearer.append(case.name)
    return dearer


def _served(case: Case, name: str, code: Path) -> Case:
    """The case with servers that run this code."""
    environment = {"PYTHONPATH": os.pathsep.join((str(code), str(code / "gen")))}
    _check(environment, code)

    async def run(lab: Lab, size: Size) -> Sample:
        lab.server_environment = environment
        return await case.run(lab, size)

    return replace(case, name=f"{case.name} {name}", run=run)


def _unpacked(revision: str, folder: Path) -> Path:
    """The server's code at that revision, put into the folder."""
    archive = ["git", "-C", str(ROOT), "archive", revision, "server"]
    found = subprocess.run(archive, check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder / "server"


def _check(environment: Mapping[str, str], code: Path) -> None:
    """That it is this code that runs: else a revision would be measured beside itself."""
    ask = [sys.executable, "-c", "import openmcp_chain, openmcp; print(openmcp_chain.__file__, *openmcp.__path__)"]
    told = subprocess.run(ask, check=True, capture_output=True, env={**os.environ, **environment}, text=True).stdout
    if not all(Path(place).is_relative_to(code) for place in told.split()[:2]):
        raise RuntimeError(f"not the code in {code}: {told}")


if __name__ == "__main__":
    main()
