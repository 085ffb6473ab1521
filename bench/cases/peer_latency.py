"""What people would use instead of us, one task at a time on an idle system: the same task, the same pauses.

A client and a worker of each, on a database that has on disk what it acknowledged. See the README for the settings that
were tried, and for how each client learns of a result.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from bench import environment, postgresql, redis_server, task
from bench.case import Case, Size
from bench.cases import openmcp_latency
from bench.lab import Lab
from bench.sample import Sample

ASK_SECONDS = 0.001
"""Between two questions of a client that has to ask whether its task is done."""
POOL = "threads"
"""Of Celery's worker."""

Start = Callable[[Lab], Awaitable[str]]


async def run(start: Start, peer: str, arguments: Mapping[str, str], lab: Lab, size: Size) -> Sample:
    """`arguments` are the worker's, in its order, after the database's URL; the client's plan has them by name."""
    url = await start(lab)
    python = environment.PEERS.python
    await lab.start_module("worker", f"bench.peers.{peer}_app", url, *arguments.values(), python=python)
    plan = {"url": url, **arguments, "task": task.as_json("bench"), "ask": ASK_SECONDS, **openmcp_latency.calls(size)}
    return await lab.measure(f"bench.load.{peer}_round_trips", plan, python=python)


async def _procrastinate(lab: Lab, size: Size) -> Sample:
    return await run(postgresql.start, "procrastinate", {"stamps": str(lab.folder / "stamps")}, lab, size)


CELERY = Case(
    "celery-latency",
    f"Celery on Redis, the pool {POOL}",
    partial(run, redis_server.start, "celery", {"pool": POOL}),
    peer=True,
)
PROCRASTINATE = Case(
    "procrastinate-latency",
    f"procrastinate on PostgreSQL, LISTEN; no result, asked each {ASK_SECONDS * 1000:g} ms whether it is done",
    _procrastinate,
    peer=True,
)
TASKIQ = Case(
    "taskiq-latency",
    f"taskiq on a Redis stream, asked each {ASK_SECONDS * 1000:g} ms for the result",
    partial(run, redis_server.start, "taskiq", {}),
    peer=True,
)
CASES = (CELERY, PROCRASTINATE, TASKIQ)
