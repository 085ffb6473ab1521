"""procrastinate's tasks one at a time on an idle system. That one is done its client learns by asking, again and again.

Plan: `url` of a PostgreSQL; `stamps`, the file in which each start is written down; `task`, what each is told; `ask`,
the seconds between two questions; `calls` and `warm_up`.
"""

import asyncio
from pathlib import Path
from typing import Any

from procrastinate.jobs import Status

from bench.load import protocol
from bench.peers import procrastinate_app


async def main(plan: dict[str, Any]) -> None:
    app = procrastinate_app.make(plan["url"], 1)
    with Path(plan["stamps"]).open() as stamps:  # noqa: ASYNC230 - a line of a local file
        async with app.open_async():
            queue = app.configure_task("stamp")

            async def trip() -> float:
                job = await queue.defer_async(task=plan["task"])
                while await app.job_manager.get_job_status_async(job) != Status.SUCCEEDED:  # noqa: ASYNC110 - as said
                    await asyncio.sleep(plan["ask"])
                return float(stamps.readline())

            await protocol.round_trips(trip, calls=plan["calls"], warm_up=plan["warm_up"])
            await protocol.wait_for_end()  # connected: PostgreSQL has a process for each connection, whose time counts


if __name__ == "__main__":
    protocol.run(main)
