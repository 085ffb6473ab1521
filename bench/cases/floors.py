"""What a single round trip takes on an idle system, after the same pauses: a task's way to its result has several."""

from functools import partial

from bench import task
from bench.case import Case, Size
from bench.cases import echo_submit, openmcp_latency
from bench.lab import Lab
from bench.sample import Sample

LOAD = "bench.load.bare_round_trips"


async def call(lab: Lab, size: Size) -> Sample:
    plan = {**await echo_submit.serve(lab), "request": task.as_base64("bench")}
    return await lab.measure(LOAD, {**plan, **openmcp_latency.calls(size)})


async def write(deed: str, lab: Lab, size: Size) -> Sample:
    plan = {"uri": await lab.start_database(), "deed": deed}
    return await lab.measure(LOAD, {**plan, **openmcp_latency.calls(size)})


CALL = Case("bare-call", "a bare grpc.aio call of the same message, answered at once", call)
INSERT = Case("bare-insert-one", "a bare insert of the same document, by our driver", partial(write, "insert"))
UPDATE = Case("bare-update-one", "a bare guarded update that ends a task, the same", partial(write, "update"))
CASES = (CALL, INSERT, UPDATE)
