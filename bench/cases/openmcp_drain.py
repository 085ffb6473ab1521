"""Queued tasks done by our own worker: claimed, leased, run, reported, each step durable."""

from bench import openmcp
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample

CONCURRENCY = 100


async def run(lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab)
    await openmcp.submit(served, size.calls)
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


CASE = Case("drain", f"OpenMCP Chain, one worker, {CONCURRENCY} tasks at a time", run)
