"""How long an event takes from its transition to a subscriber, of the same server process and of another one.

Beside it the database's own part of the way to another process: what a bare change stream takes.
"""

from functools import partial

from bench import openmcp
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample

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


async def bare(lab: Lab, size: Size) -> Sample:
    return await lab.measure("bench.load.change_stream", {"uri": await lab.start_database(), **_calls(size)})


SAME = Case("event", "OpenMCP Chain, the subscriber at the same process", partial(run, 1))
OTHER = Case("event-other", "OpenMCP Chain, the subscriber at another process", partial(run, 2))
BARE = Case("change-stream", "a bare change stream, a signal inserted and seen", bare)
