"""The lower bound: the same messages through grpc.aio, and nothing done with them; also by REST, through Envoy."""

import json
import math
from functools import partial

from bench import gateway, task
from bench.case import Case, Size
from bench.cases.openmcp_submit import RATES
from bench.lab import Lab
from bench.sample import Sample
from openmcp_chain.stack import ports


async def serve(lab: Lab) -> dict[str, str]:
    """Starts the server; returns what a load generator needs to know of it."""
    (port,) = ports.choose({"the server's port": 0})
    target = f"{ports.HOST}:{port}"
    await lab.start_module("server", "bench.peers.echo", target)
    return {"target": target, "path": "/openmcp.chain.v1.TaskService/SubmitTask"}


def _plan(size: Size, rate: float) -> dict[str, object]:
    # The token is of a real one's length: the echo gets the same bytes, and ignores them.
    return {"token": "x" * 600, "calls": size.calls, "callers": size.callers, "warm_up": size.warm_up, "rate": rate}


async def run(lab: Lab, size: Size, *, rate: float = math.inf) -> Sample:
    plan = {**await serve(lab), "requests": [task.as_base64("bench")]}
    return await lab.measure("bench.load.grpc_calls", {**plan, **_plan(size, rate)})


async def rest(lab: Lab, size: Size, *, rate: float = math.inf) -> Sample:
    port = await gateway.start_bare(lab, (await serve(lab))["target"])
    plan = {"port": port, "path": "/v1/tasks", "body": json.dumps(task.as_json("bench"))}
    return await lab.measure("bench.load.http_calls", {**plan, **_plan(size, rate)})


CASE = Case("echo", "bare grpc.aio echo, no database", run)
PACED, FAST = (Case(f"echo-{rate}", f"the echo, {rate:,} a second", partial(run, rate=rate)) for rate in RATES)
REST = Case("echo-rest", "the echo, by REST through an Envoy that only makes gRPC of it", rest)
REST_PACED, REST_FAST = (
    Case(f"echo-rest-{rate}", f"the same, {rate:,} a second", partial(rest, rate=rate)) for rate in RATES
)
