"""How long an event takes from its transition to a subscriber, of the same server process and of another one.

Beside it the database's own part of the way to another process: what a bare change stream takes.
"""

import base64
from functools import partial

from bench import openmcp, task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp_chain.stack import ports

CALLS = 500
"""At most: they are made one by one, with pauses."""


def _calls(size: Size) -> dict[str, int]:
    return {"calls": min(CALLS, size.calls), "warm_up": min(CALLS // 10, size.warm_up)}


async def run(servers: int, lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab, servers)
    plan = {
        "maker": served.targets[0],
        "subscriber": served.targets[-1],
        "token": served.token,
        "workspace": served.workspace,
    }
    return await lab.measure("bench.load.event_delays", {**plan, **_calls(size)})


async def least(lab: Lab, size: Size) -> Sample:
    uri = await lab.start_database()
    maker, subscriber = [f"{ports.HOST}:{port}" for port in ports.choose({"maker": 0, "subscriber": 0})]
    for target in (maker, subscriber):
        await lab.start_module("server", "bench.peers.least_event", target, uri)
    payload = base64.b64encode(task.as_message("bench").payload.SerializeToString()).decode()
    plan = {"maker": maker, "subscriber": subscriber, "payload": payload}
    return await lab.measure("bench.load.least_events", {**plan, **_calls(size)})


async def bare(lab: Lab, size: Size) -> Sample:
    return await lab.measure("bench.load.change_stream", {"uri": await lab.start_database(), **_calls(size)})


SAME = Case("event", "OpenMCP Chain, the subscriber at the same process", partial(run, 1))
OTHER = Case("event-other", "OpenMCP Chain, the subscriber at another process", partial(run, 2))
LEAST = Case("least-event", "the least that brings it to another process", least)
BARE = Case("change-stream", "a bare change stream, a signal inserted and seen", bare)
