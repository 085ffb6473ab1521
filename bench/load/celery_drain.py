"""One Celery worker whose tasks do nothing, until it has done so many and all are acknowledged.

Plan: `url` of a Redis; `tasks`, which are queued before; `task`, what each is told.
"""

import itertools
import threading
import time
from typing import Any

from redis import Redis

from bench.load import protocol
from bench.peers import celery_app

LOOK_SECONDS = 0.001
"""Between two looks whether the last ones are acknowledged."""


async def main(plan: dict[str, Any]) -> None:
    count = plan["tasks"]
    app = celery_app.make(plan["url"])
    numbers = itertools.count(1)

    def nothing(task: dict[str, Any]) -> None:  # noqa: ARG001 - it is told it, as others are
        if next(numbers) == count:
            threading.Thread(target=watch).start()

    def watch() -> None:
        with Redis.from_url(plan["url"]) as redis:
            while redis.llen("celery") or redis.hlen("unacked"):
                time.sleep(LOOK_SECONDS)
            seconds = time.perf_counter() - began
            kept = len(redis.keys("celery-task-meta-*"))
        assert kept == count, f"{kept} of {count}"
        protocol.tell(count, seconds)

    queue = app.task(name="nothing")(nothing)
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(count):
            queue.apply_async((plan["task"],), producer=producer)
    worker = celery_app.worker(app, "solo")
    await protocol.wait_for_go()
    began = time.perf_counter()
    worker.start()  # until it is killed


if __name__ == "__main__":
    protocol.run(main)
