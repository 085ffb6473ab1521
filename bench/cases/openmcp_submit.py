"""Our own submit: authenticated, checked, durable. No worker takes the tasks; others wait already, or none."""

from functools import partial

from bench import openmcp, task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample

BACKLOG = 100_000


async def run(backlog: int, servers: int, lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab, servers)
    await openmcp.fill(served, backlog)
    return await lab.measure(
        "bench.load.grpc_calls",
        {
            "target": f"ipv4:{','.join(served.targets)}",
            "path": "/openmcp.chain.v1.TaskService/SubmitTask",
            "token": served.token,
            "requests": [task.as_base64(served.workspace)],
            "calls": size.calls,
            "callers": size.callers,
            "warm_up": size.warm_up,
        },
    )


CASE = Case("submit", "OpenMCP Chain, SubmitTask", partial(run, 0, 1))
BEHIND = Case("submit-behind", f"SubmitTask, {BACKLOG:,} tasks waiting", partial(run, BACKLOG, 1))
TWO = Case("submit-two", "SubmitTask, 2 server processes", partial(run, 0, 2))
"""On one database, the callers spread evenly over them."""
