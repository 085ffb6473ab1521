"""SubmitTask by two server processes on one database, callers spread evenly over them."""

import base64

from bench import openmcp, task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample

SERVERS = 2


async def run(lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab, SERVERS)
    return await lab.measure(
        "bench.load.grpc_calls",
        {
            "target": f"ipv4:{','.join(served.targets)}",
            "path": "/openmcp.chain.v1.TaskService/SubmitTask",
            "token": served.token,
            "requests": [base64.b64encode(task.as_message(served.workspace).SerializeToString()).decode()],
            "calls": size.calls,
            "callers": size.callers,
            "warm_up": size.warm_up,
        },
    )


CASE = Case("submit-two", f"SubmitTask, {SERVERS} server processes", run)
