"""What people would use instead: an HTTP framework and one durable insert for each request."""

import json

from bench import task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp_chain.stack import ports


async def run(lab: Lab, size: Size) -> Sample:
    uri = await lab.start_database()
    (port,) = ports.choose({"the server's port": 0})
    await lab.start_module("server", "bench.peers.fastapi_motor", str(port), uri)
    return await lab.measure(
        "bench.load.http_calls",
        {
            "port": port,
            "path": "/v1/tasks",
            "body": json.dumps(task.as_json("bench")),
            "calls": size.calls,
            "callers": size.callers,
            "warm_up": size.warm_up,
        },
    )


CASE = Case("fastapi", "FastAPI + uvicorn + motor, one durable insert", run)
