"""What a single round trip takes on an idle system, after the same pauses: a task's way to its result has several."""

import base64
from functools import partial

from bench import task
from bench.case import Case, Size
from bench.cases import echo_submit, openmcp_latency
from bench.lab import Lab
from bench.sample import Sample
from openmcp_chain.stack import ports

LOAD = "bench.load.bare_round_trips"


async def call(lab: Lab, size: Size) -> Sample:
    plan = {**await echo_submit.serve(lab), "request": task.as_base64("bench")}
    return await lab.measure(LOAD, {**plan, **openmcp_latency.calls(size)})


async def write(deed: str, lab: Lab, size: Size) -> Sample:
    plan = {"uri": await lab.start_database(), "deed": deed}
    return await lab.measure(LOAD, {**plan, **openmcp_latency.calls(size)})


async def least(lab: Lab, size: Size) -> Sample:
    uri = await lab.start_database()
    (port,) = ports.choose({"server": 0})
    target = f"{ports.HOST}:{port}"
    await lab.start_module("server", "bench.peers.least_task", target, uri)
    await lab.start_module("worker", "bench.peers.least_task", target)
    payload = base64.b64encode(task.as_message("bench").payload.SerializeToString()).decode()
    plan = {"target": target, "payload": payload}
    return await lab.measure("bench.load.least_round_trips", {**plan, **openmcp_latency.calls(size)})


LEAST = Case("least-latency", "the least that stores a task, starts it and brings its result", least)
CALL = Case("bare-call", "a bare grpc.aio call of the same message, answered at once", call)
INSERT = Case("bare-insert-one", "a bare insert of the same document, by our driver", partial(write, "insert"))
UPDATE = Case("bare-update-one", "a bare guarded update that ends a task, the same", partial(write, "update"))
CASES = (LEAST, CALL, INSERT, UPDATE)
