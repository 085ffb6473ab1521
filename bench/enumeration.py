"""Does the time of a refused sign-in tell whether the workspace exists? `python -m bench.enumeration` asks many times.

Wrong secrets are sent for names that exist and for names that don't, in random order, over gRPC to a real server. If
the two kinds of answers take different times on average, Welch's t is far from zero; after dudect (Reparaz and others,
2017), 4.5 counts as proof. Its second figure leaves out the slowest tenth of both together, where a machine's noise is.

No name is tried more often than wrong secrets are answered after the shortest wait, so that all waits are the same.
"""

import argparse
import asyncio
import math
import random
import secrets
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, quantiles, variance

import grpc

from bench import lab, openmcp
from openmcp.chain.v1 import auth_pb2
from openmcp_chain import config
from openmcp_chain.engine.administration import local_actor
from openmcp_chain.engine.signins import FREE, STEP
from openmcp_chain.stack import administration

PATH = "/openmcp.chain.v1.AuthService/Authenticate"
RESULT = Path(__file__).resolve().parent / "results" / "enumeration.md"
PROOF = 4.5
UNDER_WAY = 40
CREATED_AT_ONCE = 50
TRIMMED = 10


def welch(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Welch's t, and the standard error of the difference of the means."""
    error = math.sqrt(variance(one) / len(one) + variance(other) / len(other))
    return (fmean(one) - fmean(other)) / error, error


async def measure(answers: int) -> tuple[list[float], list[float]]:
    """Seconds that so many answers took, each kind: for names that exist, and for names that don't."""
    count = math.ceil(answers / FREE)
    known, unknown = ([f"{kind}-{number:06}" for number in range(count)] for kind in ("known", "other"))
    async with lab.opened() as place:
        served = await openmcp.serve(place)
        await _create(served, known)
        kinds: tuple[list[float], list[float]] = ([], [])
        tries = [(name, kind) for kind, names in enumerate((known, unknown)) for name in names * FREE]
        random.shuffle(tries)
        left = iter(tries)
        async with grpc.aio.insecure_channel(served.target) as channel:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PATH)

            async def attempt() -> None:
                for name, kind in left:
                    wrong = f"omcp_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
                    request = auth_pb2.AuthRequest(workspace_id=name, workspace_secret=wrong).SerializeToString()
                    began = time.perf_counter()
                    try:
                        await method(request)
                    except grpc.aio.AioRpcError as error:
                        kinds[kind].append(time.perf_counter() - began)
                        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                            raise

            await asyncio.gather(*(attempt() for _ in range(UNDER_WAY)))
    return kinds


async def _create(served: openmcp.Served, names: Sequence[str]) -> None:
    actor = local_actor()
    async with administration.opened(config.from_environment(served.environment)) as opened:
        for begin in range(0, len(names), CREATED_AT_ONCE):
            some = names[begin : begin + CREATED_AT_ONCE]
            await asyncio.gather(*(opened.workspaces.create(actor, openmcp.PLAN, name) for name in some))


def report(known: Sequence[float], unknown: Sequence[float]) -> tuple[str, bool]:
    """The page, and whether the times tell nothing."""
    slowest = quantiles([*known, *unknown], n=TRIMMED)[-1]
    kept = [[seconds for seconds in kind if seconds <= slowest] for kind in (known, unknown)]
    rows, silent = [], True
    for title, (one, other) in (("all answers", (known, unknown)), ("without the slowest tenth", kept)):
        t, error = welch(one, other)
        silent = silent and abs(t) < PROOF
        means = f"{fmean(one) * 1000:.3f} | {fmean(other) * 1000:.3f}"
        rows.append(f"| {title} | {len(one):,} + {len(other):,} | {means} | {t:+.2f} | {PROOF * error * 1e6:.0f} |")
    return (
        "\n".join(
            [
                "# Whether a refused sign-in's time tells that the workspace exists",
                "",
                "| | answers | mean ms, exists | mean ms, does not | Welch's t | µs that would have been seen |",
                "| --- | --- | --- | --- | --- | --- |",
                *rows,
                "",
                f"Wrong secrets over gRPC, {UNDER_WAY} at a time, in random order; each waits {STEP * 1000:.0f} ms.",
                f"A t beyond ±{PROOF} would be proof. `python -m bench.enumeration`, {datetime.now(UTC):%Y-%m-%d}.",
                "",
            ]
        ),
        silent,
    )


def main() -> None:
    """Measures, prints and writes the page; exit status 1 if the times tell something."""
    parser = argparse.ArgumentParser(prog="python -m bench.enumeration", description=__doc__)
    parser.add_argument("--answers", type=int, default=15_000, help="of each kind")
    parser.add_argument("--result", type=Path, default=RESULT, help="file to write to")
    options = parser.parse_args()
    page, silent = report(*asyncio.run(measure(options.answers)))
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(page)
    print(page)
    sys.exit(not silent)


if __name__ == "__main__":
    main()
