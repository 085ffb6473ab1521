"""One worker whose tasks do nothing, until it has done so many.

Plan: `target`, `workspace`, `secret`, `concurrency`, and `tasks`, which are queued already.
"""

import time
from collections.abc import Mapping
from typing import Any

from bench import task
from bench.load import protocol
from openmcp_chain.worker import Task
from openmcp_chain.worker.connection import Connection
from openmcp_chain.worker.worker import Worker


async def main(plan: dict[str, Any]) -> None:
    left = plan["tasks"]

    async def nothing(_: Task) -> Mapping[str, Any]:
        nonlocal left
        left -= 1
        if left == 0:
            worker.stop()
        return {}

    connection = Connection(plan["target"], plan["workspace"], plan["secret"])
    worker = Worker(connection, {task.TYPE: nothing}, name="bench", concurrency=plan["concurrency"])
    await connection.token()
    await protocol.wait_for_go()
    began = time.perf_counter()
    # Returns when the last report is acknowledged.
    await worker.run()
    protocol.tell(plan["tasks"], time.perf_counter() - began)


if __name__ == "__main__":
    protocol.run(main)
