"""The lower bound: the same messages through grpc.aio, and nothing done with them."""

from bench import task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp_chain.stack import ports


async def serve(lab: Lab) -> dict[str, str]:
    """Starts the server; returns what a load generator needs to know of it."""
    (port,) = ports.choose({"the server's port": 0})
    target = f"{ports.HOST}:{port}"
    await lab.start_module("server", "bench.peers.echo", target)
    return {"target": target, "path": "/openmcp.chain.v1.TaskService/SubmitTask"}


async def run(lab: Lab, size: Size) -> Sample:
    return await lab.measure(
        "bench.load.grpc_calls",
        {
            **await serve(lab),
            # Of a real token's length: the echo gets the same bytes, and ignores them.
            "token": "x" * 600,
            "requests": [task.as_base64("bench")],
            "calls": size.calls,
            "callers": size.callers,
            "warm_up": size.warm_up,
        },
    )


CASE = Case("echo", "bare grpc.aio echo, no database", run)
