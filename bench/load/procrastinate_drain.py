"""One procrastinate worker whose tasks do nothing, until none is left. Done tasks stay in the database.

Plan: `url` of a PostgreSQL; `tasks`, which are queued before; `task`, what each is told; `concurrency`.
"""

import time
from typing import Any

from bench.load import protocol
from bench.peers import procrastinate_app

QUEUED_AT_A_TIME = 500
OTHERS = 2
"""Connections beside those of tasks: of the fetching, of the heartbeat."""


async def nothing(task: dict[str, Any]) -> None:
    """The task."""


async def main(plan: dict[str, Any]) -> None:
    count, connections = plan["tasks"], plan["concurrency"] + OTHERS
    app = procrastinate_app.make(plan["url"], connections)
    queue = app.task(name="nothing")(nothing)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for begin in range(0, count, QUEUED_AT_A_TIME):
            some = min(QUEUED_AT_A_TIME, count - begin)
            await queue.batch_defer_async(*[{"task": plan["task"]}] * some)
        await protocol.wait_for_go()
        began = time.perf_counter()
        # Returns when the last one is committed as done.
        await app.run_worker_async(
            concurrency=plan["concurrency"], wait=False, listen_notify=False, install_signal_handlers=False
        )
        seconds = time.perf_counter() - began
        done = len(list(await app.job_manager.list_jobs_async(status="succeeded")))
        assert done == count, f"{done} of {count}"
        protocol.tell(count, seconds)
        await protocol.wait_for_end()  # connected: PostgreSQL has a process for each connection, whose time counts


if __name__ == "__main__":
    protocol.run(main)
