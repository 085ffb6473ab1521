"""What a single round trip takes on an idle system, after the same pauses: a task's way to its result has several."""

from bench import task
from bench.case import Case, Size
from bench.cases import echo_submit, openmcp_latency
from bench.lab import Lab
from bench.sample import Sample

LOAD = "bench.load.bare_round_trips"


async def call(lab: Lab, size: Size) -> Sample:
    plan = {**await echo_submit.serve(lab), "request": task.as_base64("bench")}
    return await lab.measure(LOAD, {**plan, **openmcp_latency.calls(size)})


async def insert(lab: Lab, size: Size) -> Sample:
    return await lab.measure(LOAD, {"uri": await lab.start_database(), **openmcp_latency.calls(size)})


CALL = Case("bare-call", "a bare grpc.aio call of the same message, answered at once", call)
INSERT = Case("bare-insert-one", "a bare motor insert_one of the same document, no index", insert)
CASES = (CALL, INSERT)
