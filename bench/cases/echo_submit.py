"""The lower bound: the same messages through grpc.aio, and nothing done with them."""

import base64

from bench import task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp_chain.stack import ports


async def run(lab: Lab, size: Size) -> Sample:
    (port,) = ports.choose({"the server's port": 0})
    target = f"{ports.HOST}:{port}"
    await lab.start_module("server", "bench.peers.echo", target)
    return await lab.measure(
        "bench.load.grpc_calls",
        {
            "target": target,
            "path": "/openmcp.chain.v1.TaskService/SubmitTask",
            # Of a real token's length: the echo gets the same bytes, and ignores them.
            "token": "x" * 600,
            "requests": [base64.b64encode(task.as_message("bench").SerializeToString()).decode()],
            "calls": size.calls,
            "callers": size.callers,
            "warm_up": size.warm_up,
        },
    )


CASE = Case("echo", "bare grpc.aio echo, no database", run)
