"""taskiq on a Redis: tasks in a stream, each acknowledged when its result is kept.

`python -m bench.peers.taskiq_app URL` is a worker whose task tells when it was started.
"""

import asyncio
import sys
import time
from typing import Any

import uvloop
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

RESULT_SECONDS = 3600


async def stamp(_: dict[str, Any]) -> dict[str, float]:
    """The task: tells when it was started, by the clock that all processes here share."""
    return {"started": time.monotonic()}


def make(url: str) -> tuple[Any, Any]:
    """The broker, and the task as one submits it."""
    results = RedisAsyncResultBackend(url, result_ex_time=RESULT_SECONDS)
    broker = RedisStreamBroker(url).with_result_backend(results)
    return broker, broker.register_task(stamp, "stamp")


async def main(url: str) -> None:
    broker, _ = make(url)
    broker.is_worker_process = True
    await broker.startup()
    print("ready", flush=True)
    await run_receiver_task(broker)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
