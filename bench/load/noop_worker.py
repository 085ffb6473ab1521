"""One worker whose tasks do nothing, until it has done so many.

Plan: `target`, `workspace`, `secret`, `concurrency`, and `tasks`, which are queued already.
"""

import time
from typing import Any

from bench import task
from bench.load import protocol
from openmcp_chain.worker import Worker


async def main(plan: dict[str, Any]) -> None:
    left = plan["tasks"]
    worker = Worker(
        plan["target"],
        workspace_id=plan["workspace"],
        workspace_secret=plan["secret"],
        name="bench",
        concurrency=plan["concurrency"],
    )

    @worker.task(task.TYPE)
    async def nothing(_: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            worker.stop()

    await protocol.wait_for_go()
    began = time.perf_counter()
    # Returns when the last report is acknowledged.
    await worker.serve()
    protocol.tell(plan["tasks"], time.perf_counter() - began)


if __name__ == "__main__":
    protocol.run(main)
