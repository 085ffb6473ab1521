"""Our own submit: authenticated, checked, durable. No worker takes the tasks; others wait already, or none."""

import math
from contextlib import nullcontext
from functools import partial

from bench import openmcp, task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample

BACKLOG = 100_000
RATES = (400, 1000)
"""Calls a second, where two ways to call are to be given the same work: less than any of them can take."""


async def run(
    lab: Lab,
    size: Size,
    *,
    backlog: int = 0,
    servers: int = 1,
    times: int = 1,
    listening: bool = False,
    rate: float = math.inf,
) -> Sample:
    """`times` as many callers, spread evenly over the servers; `listening`: each server wants to be told of tasks.

    `rate`: calls a second, of all callers.
    """
    served = await openmcp.serve(lab, servers)
    await openmcp.fill(served, backlog)
    async with openmcp.listening(served) if listening else nullcontext():
        return await lab.measure(
            "bench.load.grpc_calls",
            {
                "target": f"ipv4:{','.join(served.targets)}",
                "path": "/openmcp.chain.v1.TaskService/SubmitTask",
                "token": served.token,
                "requests": [task.as_base64(served.workspace)],
                "calls": size.calls,
                "callers": times * size.callers,
                "warm_up": size.warm_up,
                "rate": rate,
            },
        )


CASE = Case("submit", "OpenMCP Chain, SubmitTask", run)
PACED, FAST = (Case(f"submit-{rate}", f"SubmitTask, {rate:,} a second", partial(run, rate=rate)) for rate in RATES)
BEHIND = Case("submit-behind", f"SubmitTask, {BACKLOG:,} tasks waiting", partial(run, backlog=BACKLOG))
TWO = Case("submit-two", "2 server processes, 64 callers each", partial(run, servers=2, times=2))
TWO_TOLD = Case("submit-two-told", "the same, a worker at each", partial(run, servers=2, times=2, listening=True))
"""Of another type, so that each is told of all tasks of the other, and does none."""
TWO_SHARED = Case("submit-two-shared", "2 server processes, 64 callers in all", partial(run, servers=2))
