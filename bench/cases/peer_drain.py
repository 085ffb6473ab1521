"""What people would use instead of us, draining as many no-op tasks of the same payload by one worker process.

Each as it loses no task that it has acknowledged, and at its best: see the README for what each promises, and for the
settings that were tried.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from bench import environment, postgresql, redis_server, task
from bench.case import Case, Size
from bench.environment import Environment
from bench.lab import Lab
from bench.sample import Sample

CONCURRENCY = {"arq": 100, "procrastinate": 10}
POLL_SECONDS = 0.1
"""How often arq looks for tasks."""


async def run(
    start: Callable[[Lab], Awaitable[str]],
    load: str,
    settings: Mapping[str, float],
    lab: Lab,
    size: Size,
    place: Environment = environment.PEERS,
) -> Sample:
    plan = {"url": await start(lab), "tasks": size.calls, "task": task.as_json("bench"), **settings}
    return await lab.measure(f"bench.load.{load}", plan, python=place.python)


ARQ = Case(
    "arq-drain",
    f"arq on Redis, {CONCURRENCY['arq']} tasks at a time",
    partial(
        run,
        redis_server.start,
        "arq_drain",
        {"concurrency": CONCURRENCY["arq"], "poll": POLL_SECONDS},
        place=environment.ARQ,
    ),
    peer=True,
)
PROCRASTINATE = Case(
    "procrastinate-drain",
    f"procrastinate on PostgreSQL, {CONCURRENCY['procrastinate']} tasks at a time",
    partial(run, postgresql.start, "procrastinate_drain", {"concurrency": CONCURRENCY["procrastinate"]}),
    peer=True,
)
CELERY = Case(
    "celery-drain",
    "Celery on Redis, acks late, the pool of one thread",
    partial(run, redis_server.start, "celery_drain", {}),
    peer=True,
)
CASES = (ARQ, PROCRASTINATE, CELERY)
