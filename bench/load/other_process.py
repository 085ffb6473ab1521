"""What one server hears of another: a process that beats and tells of changes as a server does, and is none.

Plan: `uri`, `database`; `rate`, signals a second; `tasks`, how many each names; `waiting`, whether these are new and
wait, or have changed otherwise; `seconds`.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import uuid_utils

from bench import task
from bench.load import protocol
from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import NORMAL, Key
from openmcp_chain.engine.signals import BEAT_SECONDS, BUSY
from openmcp_chain.store.base import Signal
from openmcp_chain.store.mongo import store as mongo

PROCESS = "bench"
WORKSPACES = 100


async def main(plan: dict[str, Any]) -> None:
    store = await mongo.connect(plan["uri"], plan["database"], "motor")
    now = datetime.now(UTC)
    keys = [Key(f"workspace-{number % WORKSPACES:04}", str(uuid_utils.uuid7())) for number in range(plan["tasks"])]
    hints = [Waiting(key, task.TYPE, NORMAL, now, now) for key in keys] if plan["waiting"] else []
    news = dict.fromkeys(keys, task.ended(now)) if len(keys) <= BUSY and not hints else {}

    async def live() -> None:
        while True:
            await store.beat(PROCESS, datetime.now(UTC), listens=False)
            await asyncio.sleep(BEAT_SECONDS)

    async def tell(seconds: float) -> int:
        loop = asyncio.get_running_loop()
        count, began = int(float(plan["rate"]) * seconds), loop.time()
        for number in range(count):
            await asyncio.sleep(began + number / plan["rate"] - loop.time())
            await store.publish(Signal(PROCESS, keys, hints, news))
        return count

    living = asyncio.create_task(live())
    await asyncio.sleep(2 * BEAT_SECONDS)  # the server listens from then on
    await tell(1.0)
    await protocol.wait_for_go()
    began = time.perf_counter()
    count = await tell(plan["seconds"])
    protocol.tell(max(1, count), time.perf_counter() - began)
    await protocol.wait_for_end()
    living.cancel()
    await store.close()


if __name__ == "__main__":
    protocol.run(main)
