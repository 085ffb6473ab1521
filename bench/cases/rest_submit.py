"""The same submit by REST: Envoy makes the gRPC call of it, checks the token, and makes JSON of the answer."""

import json
import math
from functools import partial

from bench import gateway, openmcp, task
from bench.case import Case, Size
from bench.cases.openmcp_submit import RATES
from bench.lab import Lab
from bench.sample import Sample


async def run(lab: Lab, size: Size, *, rate: float = math.inf) -> Sample:
    served = await openmcp.serve(lab)
    return await lab.measure(
        "bench.load.http_calls",
        {
            "port": await gateway.start(lab, served),
            "path": "/v1/tasks",
            "token": served.token,
            "body": json.dumps(task.as_json(served.workspace)),
            "calls": size.calls,
            "callers": size.callers,
            "warm_up": size.warm_up,
            "rate": rate,
        },
    )


CASE = Case("rest", "OpenMCP Chain, POST /v1/tasks through Envoy", run)
PACED, FAST = (Case(f"rest-{rate}", f"POST /v1/tasks, {rate:,} a second", partial(run, rate=rate)) for rate in RATES)
