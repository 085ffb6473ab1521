"""What a server asks of the database though nobody asks anything of it: by collection, in commands a second."""

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass

from bench import lab, openmcp
from bench.scale import counted

SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Idle:
    """One idle server beside one other. Nobody is at either, so neither listens."""

    server_ms: float
    """CPU milliseconds a second."""
    database_ms: float
    """What it costs the database."""
    tasks_queries: float
    """Commands a second that ask for tasks or timers: on a cluster, every shard."""
    other_queries: float
    """Those for all else, which is on one shard."""


async def measure() -> Idle:
    async with lab.opened() as place:
        log = place.folder / "commands"
        log.mkdir()
        served = await openmcp.serve(place, 2, [sys.executable, "-m", counted.__name__, str(log)])
        began = time.monotonic()
        usage = await place.rest(SECONDS)
        ended = time.monotonic()
        await place.end("server")
        asked = Counter[bool]()
        for told in log.iterdir():
            for at, _, collection in json.loads(told.read_text()):
                if began <= at < ended:
                    asked[collection in counted.OF_TASKS] += 1
    each = SECONDS * len(served.targets)
    return Idle(
        usage.cpu["server"] * 1000 / each, usage.cpu["database"] * 1000 / each, asked[True] / each, asked[False] / each
    )
