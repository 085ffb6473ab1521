"""Our own submit in the largest batches: checked, durable, each task answered by itself."""

import base64

from bench import openmcp, task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp.chain.v1 import tasks_pb2

AT_A_TIME = 2


async def run(lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab)
    batch = tasks_pb2.BatchSubmitTasksRequest(requests=[task.as_message(served.workspace)] * openmcp.LARGEST)
    return await lab.measure(
        "bench.load.grpc_calls",
        {
            "target": served.target,
            "path": "/openmcp.chain.v1.TaskService/BatchSubmitTasks",
            "token": served.token,
            "requests": [base64.b64encode(batch.SerializeToString()).decode()],
            "operations": openmcp.LARGEST,
            "calls": size.calls // openmcp.LARGEST,
            "callers": AT_A_TIME,
            "warm_up": 1,
        },
    )


CASE = Case("batch", f"OpenMCP Chain, BatchSubmitTasks of {openmcp.LARGEST:,}, {AT_A_TIME} calls at a time", run)
