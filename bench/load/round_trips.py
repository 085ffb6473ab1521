"""Tasks one at a time on an idle system, as a user of the client sees them: submitted, started, their result there.

Plan: `target`, `workspace`, `secret`; `payload`; `calls` and `warm_up`.
"""

import time
from typing import Any

from bench import task
from bench.load import protocol
from openmcp_chain.client.aio import AsyncClient


async def main(plan: dict[str, Any]) -> None:
    starts: list[float] = []
    results: list[float] = []

    async with AsyncClient(plan["target"], workspace_id=plan["workspace"], workspace_secret=plan["secret"]) as client:

        async def make(calls: int) -> None:
            for _ in range(calls):
                await protocol.pause()
                began = time.monotonic()
                done = await client.wait(await client.submit(task.TYPE, plan["payload"]), check=True)
                results.append(time.monotonic() - began)
                assert done.result, "it has succeeded"
                starts.append(done.result["started"] - began)

        await make(plan["warm_up"])
        starts.clear()
        results.clear()
        await protocol.wait_for_go()
        began = time.perf_counter()
        await make(plan["calls"])
        told = {**protocol.percentiles(starts, "start_"), **protocol.percentiles(results, "result_")}
        protocol.tell(plan["calls"], time.perf_counter() - began, **told)


if __name__ == "__main__":
    protocol.run(main)
