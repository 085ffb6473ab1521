"""Our own read, of tasks that are queued."""

import base64

from bench import openmcp
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp.chain.v1 import tasks_pb2

TASKS = 2000
"""How many different tasks are read."""


async def run(lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab)
    requests = [tasks_pb2.GetTaskRequest(task_id=task_id) for task_id in await openmcp.submit(served, TASKS)]
    return await lab.measure(
        "bench.load.grpc_calls",
        {
            "target": served.target,
            "path": "/openmcp.chain.v1.TaskService/GetTask",
            "token": served.token,
            "requests": [base64.b64encode(request.SerializeToString()).decode() for request in requests],
            "calls": size.calls,
            "callers": size.callers,
            "warm_up": size.warm_up,
        },
    )


CASE = Case("get", "OpenMCP Chain, GetTask", run)
