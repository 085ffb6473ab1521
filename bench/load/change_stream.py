"""A bare change stream's own delay, one document at a time on an idle database: one client inserts, another sees it.

The document is the signal that our servers would send of one task, the driver theirs; no server of ours runs.

Plan: `uri`, `calls`, `warm_up`.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from pymongo import WriteConcern

from bench import task
from bench.load import protocol
from openmcp_chain.domain.task import Key
from openmcp_chain.store.base import Signal
from openmcp_chain.store.mongo import client, processes, records


async def main(plan: dict[str, Any]) -> None:
    writer, reader = [await client.connect(plan["uri"], "bench", "pymongo") for _ in range(2)]
    signals = writer.database.get_collection("signals", write_concern=WriteConcern(w=1))
    key, now = Key("bench", "x" * 36), datetime.now(UTC)
    document = records.from_signal(Signal("bench", [key], [], {key: task.ended(now)}), now)

    await signals.insert_one({**document})  # there is a collection to watch
    async with await reader.database.signals.watch(processes.INSERTS, max_await_time_ms=processes.AWAIT_MS) as stream:
        await stream.try_next()  # from now on it misses nothing

        async def seen() -> float:
            await stream.next()
            return time.time()

        async def way() -> tuple[float, float, float]:
            seeing = asyncio.create_task(seen())
            await protocol.pause()
            began = time.time()
            await signals.insert_one({**document})
            return began, time.time(), await seeing

        await protocol.delays(way, calls=plan["calls"], warm_up=plan["warm_up"])
    await writer.close()
    await reader.close()


if __name__ == "__main__":
    protocol.run(main)
