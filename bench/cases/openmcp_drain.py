"""Queued tasks done by our own worker: claimed, leased, run, reported, each step durable. More may wait behind them."""

from functools import partial

from bench import openmcp
from bench.case import Case, Size
from bench.cases.openmcp_submit import BACKLOG
from bench.lab import Lab
from bench.sample import Sample

CONCURRENCY = 100


async def run(backlog: int, lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab)
    await openmcp.fill(served, size.calls + backlog)
    return await lab.measure(
        "bench.load.noop_worker",
        {
            "target": served.target,
            "workspace": served.workspace,
            "secret": served.secret,
            "concurrency": CONCURRENCY,
            "tasks": size.calls,
        },
    )


CASE = Case("drain", f"OpenMCP Chain, one worker, {CONCURRENCY} tasks at a time", partial(run, 0))
BEHIND = Case("drain-behind", f"the same, {BACKLOG:,} more waiting", partial(run, BACKLOG))
