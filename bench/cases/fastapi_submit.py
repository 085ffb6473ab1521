"""What people would use instead: an HTTP framework and one durable insert for each request.

With our indexes, without which neither could find the tasks that wait; and without, which is less than a task service.
"""

import json

from bench import task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp_chain.stack import ports


async def _run(lab: Lab, size: Size, *options: str) -> Sample:
    uri = await lab.start_database()
    (port,) = ports.choose({"the server's port": 0})
    await lab.start_module("server", "bench.peers.fastapi_motor", str(port), uri, *options)
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


async def _indexed(lab: Lab, size: Size) -> Sample:
    return await _run(lab, size, "indexed")


async def _bare(lab: Lab, size: Size) -> Sample:
    return await _run(lab, size)


CASE = Case("fastapi", "FastAPI + uvicorn + motor, one durable insert, the same indexes", _indexed)
BARE = Case("bare", "FastAPI + uvicorn + motor, one durable insert, no index", _bare)
