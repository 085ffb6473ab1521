"""The same rate of tasks over one server and over several on one database: what each server more costs all of them.

A task is submitted to one server, runs by a worker that waits there, and may be followed at the next server. So at each
it is inserted already leased, and ended: two writes.
"""

from dataclasses import dataclass
from typing import Any

import bson
from motor.motor_asyncio import AsyncIOMotorClient

from bench import lab, openmcp
from bench.load.paced import WARM_UP_SECONDS
from bench.rounds import TRIES

RATE, SECONDS = 60.0, 12.0
REST_SECONDS = 4.0
SERVERS = (1, 2, 4, 6)
RATES = (120.0, 200.0)
"""More tasks a second of one server; it may be that the embedded database takes less."""
RUNS = 3
FOLLOWERS = 4
"""Of each task, at another of two servers, where that is measured."""


@dataclass(frozen=True, slots=True)
class Spread:
    """So many servers, all together."""

    servers: int
    followers: int
    """Of each task."""
    rate: float
    """Tasks a second that were done."""
    server_ms: float
    """CPU milliseconds a task, beyond what the servers take when idle."""
    database_ms: float
    """The same of the database."""
    idle_ms: float
    """CPU milliseconds a second of one idle server."""
    idle_database_ms: float
    """CPU milliseconds a second that one idle server costs the database."""
    signals: float
    """Written for one task."""
    named: float
    """How often a task is named in a signal."""
    document: int
    """Bytes of one that has ended."""


async def measure(servers: int, followers: int = 0, rate: float = RATE) -> Spread:
    """The middle one of several runs, by the servers' CPU time."""
    runs = [await _believed(servers, followers, rate) for _ in range(RUNS)]
    return sorted(runs, key=lambda run: run.server_ms)[RUNS // 2]


async def _believed(servers: int, followers: int, rate: float) -> Spread:
    """One run, made anew if others used the machine."""
    for _ in range(TRIES):
        found, believed = await _measure(servers, followers, rate)
        if believed:
            break
    return found


async def _measure(servers: int, followers: int, rate: float) -> tuple[Spread, bool]:
    """What was found, and whether the machine was ours."""
    async with lab.opened() as place:
        served = await openmcp.serve(place, servers)
        idle = await place.rest(REST_SECONDS)
        plan = {
            "targets": served.targets,
            "workspace": served.workspace,
            "secret": served.secret,
            "token": served.token,
            "rate": rate,
            "seconds": SECONDS,
            "followers": followers,
        }
        sample = await place.measure("bench.load.paced", plan)
        signals, named, document = await _told(served.environment["OPENMCP_MONGODB_URI"])
        tasks = sample.operations + rate * WARM_UP_SECONDS

    def beyond(name: str) -> float:
        rest = idle.cpu[name] / REST_SECONDS * sample.seconds
        return (sample.usage.cpu[name] - rest) * 1000 / sample.operations

    return Spread(
        servers,
        followers,
        sample.rate,
        beyond("server"),
        beyond("database"),
        idle.cpu["server"] * 1000 / REST_SECONDS / servers,
        idle.cpu["database"] * 1000 / REST_SECONDS / servers,
        signals / tasks,
        named / tasks,
        document,
    ), sample.believed


async def _told(uri: str) -> tuple[int, int, int]:
    """How many signals were written, how often they name a task, and the bytes of a task.

    Signals are kept for longer than a run takes.
    """
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(uri)
    try:
        found = await client.openmcp.signals.find({}, {"changed.id": 1}).to_list(None)
        ended = await client.openmcp.tasks.find_one({"queue": "ended"})
    finally:
        client.close()
    assert ended, "all have"
    return len(found), sum(len(one["changed"]) for one in found), len(bson.encode(ended))
