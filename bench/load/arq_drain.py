"""One arq worker whose tasks do nothing, until the queue is empty. Redis keeps the results for an hour, arq's default.

Plan: `url` of a Redis; `tasks`, which are queued before; `task`, what each is told; `concurrency`; `poll`, the seconds
between two looks at the queue.
"""

import asyncio
import time
from typing import Any

import arq
from arq.connections import RedisSettings
from arq.constants import default_queue_name, result_key_prefix

from bench.load import protocol

QUEUED_AT_A_TIME = 100


async def nothing(_: dict[str, Any], task: dict[str, Any]) -> None:
    """The task."""


async def main(plan: dict[str, Any]) -> None:
    count = plan["tasks"]
    settings = RedisSettings.from_dsn(plan["url"])
    queue = await arq.create_pool(settings)
    for begin in range(0, count, QUEUED_AT_A_TIME):
        some = min(QUEUED_AT_A_TIME, count - begin)
        await asyncio.gather(*(queue.enqueue_job("nothing", plan["task"]) for _ in range(some)))
    worker = arq.Worker(
        [nothing],
        redis_settings=settings,
        max_jobs=plan["concurrency"],
        poll_delay=plan["poll"],
        burst=True,
        handle_signals=False,
    )
    await protocol.wait_for_go()
    began = time.perf_counter()
    # Returns when the queue is empty, which a task leaves when its result is kept.
    await worker.async_run()
    seconds = time.perf_counter() - began
    kept = len(await queue.keys(f"{result_key_prefix}*"))
    left = await queue.zcard(default_queue_name)
    assert (worker.jobs_complete, kept, left) == (count, count, 0), f"{kept} of {count} done, {left} left"
    protocol.tell(count, seconds)


if __name__ == "__main__":
    protocol.run(main)
