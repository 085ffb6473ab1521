"""The writes of our store by a bare motor script: what a server around them can at best come near to."""

from functools import partial

from bench import openmcp
from bench.case import Case, Size
from bench.cases.openmcp_drain import CONCURRENCY
from bench.lab import Lab
from bench.sample import Sample


async def run(deed: str, batch: int, lab: Lab, size: Size) -> Sample:
    uri = await lab.start_database()
    plan = {"uri": uri, "tasks": size.calls, "batch": batch, "deed": deed}
    return await lab.measure("bench.load.bare_motor", plan)


DRAIN = Case(
    "bare-drain",
    f"a bare motor script, {CONCURRENCY} guarded claims and completions at a time",
    partial(run, "drain", CONCURRENCY),
)
INSERT = Case("bare-insert", "a bare motor script, insert_many", partial(run, "insert", openmcp.LARGEST))
