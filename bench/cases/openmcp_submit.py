"""Our own submit: authenticated, checked, durable. No worker takes the tasks."""

import base64

from bench import openmcp, task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample


async def run(lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab)
    return await lab.measure(
        "bench.load.grpc_calls",
        {
            "target": served.target,
            "path": "/openmcp.chain.v1.TaskService/SubmitTask",
            "token": served.token,
            "requests": [base64.b64encode(task.as_message(served.workspace).SerializeToString()).decode()],
            "calls": size.calls,
            "callers": size.callers,
            "warm_up": size.warm_up,
        },
    )


CASE = Case("submit", "OpenMCP Chain, SubmitTask", run)
