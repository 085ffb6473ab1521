"""Has the server become dearer? `python -m bench.against REVISION` measures it beside that revision's, in one run.

By default beside the last commit's: is what has changed since worth what it costs? Each round runs every case with
either, in turns; the load generators are this revision's, and so are the libraries. It ends with 1 if an operation
takes server and database more than `--most` times the CPU time that it took before; with 2 if none does, but of some
nothing can be said, since others used the machine.
"""

import argparse
import asyncio
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench import rounds
from bench.case import Case, Size
from bench.cases import openmcp_batch, openmcp_drain, openmcp_get, openmcp_submit
from bench.lab import ROOT, Lab
from bench.sample import Sample

CASES = (openmcp_submit.CASE, openmcp_get.CASE, openmcp_batch.CASE, openmcp_drain.CASE)
MOST = 1.15
"""Less is within what one run differs from the next."""


def main() -> None:
    """Measures, tells, and judges."""
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD", help="of this repository, as git names it")
    parser.add_argument("--rounds", type=rounds.at_least_one, default=3)
    parser.add_argument("--calls", type=rounds.at_least_one, default=6000, help="measured operations in a run")
    parser.add_argument("--most", type=float, default=MOST)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openmcp-against-") as folder:
        try:
            before = _unpacked(options.revision, Path(folder))
        except subprocess.CalledProcessError as error:
            parser.error(f"no server in {options.revision}: {error.stderr.decode().strip()}")
        size = Size(calls=options.calls, warm_up=1000, callers=64)
        found = asyncio.run(_measure(before, size, options.rounds))
    times = {name: judged(rounds_of) for name, rounds_of in found.items()}
    for name, one in times.items():
        told = "nothing is said, others used the machine" if one is None else f"{one:.2f} ×"
        print(f"{name:<8} CPU of server and database for one, beside what it was: {told}")
    dearer = [name for name, one in times.items() if one is not None and one > options.most]
    if dearer:
        sys.exit(f"dearer than {options.most:g} times {options.revision}: {', '.join(dearer)}")
    sys.exit(2 if None in times.values() else 0)


def judged(pairs: Sequence[tuple[Sample, Sample]]) -> float | None:
    """How many times as much an operation takes now as before: the median of the rounds in which both are believed."""
    sound = [(now, before) for now, before in pairs if now.believed and before.believed]
    times = [now.cpu_ms("server", "database") / before.cpu_ms("server", "database") for now, before in sound]
    return median(times) if times else None


async def _measure(before: Path, size: Size, count: int) -> Mapping[str, Sequence[tuple[Sample, Sample]]]:
    """What each round gave, now and before, by the case."""
    pairs = [(_served(case, "now", ROOT / "server"), _served(case, "before", before)) for case in CASES]
    found: dict[str, list[tuple[Sample, Sample]]] = {case.name: [] for case in CASES}
    for number in range(count):
        # One after the other, and each of the two first in every other round.
        order = [case for pair in pairs for case in (pair if number % 2 else pair[::-1])]
        results = await rounds.run(order, size, 1)
        for case, (now, then) in zip(CASES, pairs, strict=True):
            found[case.name].append((results.samples[now.name][0], results.samples[then.name][0]))
    return found


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
