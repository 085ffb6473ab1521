"""Tasks one at a time on an idle system, as a user of the client sees them: submitted, started, their result there.

Plan: `target`, `workspace`, `secret`; `payload`; `calls` and `warm_up`.
"""

from typing import Any

from bench import task
from bench.load import protocol
from openmcp_chain.client.aio import AsyncClient


async def main(plan: dict[str, Any]) -> None:
    async with AsyncClient(plan["target"], workspace_id=plan["workspace"], workspace_secret=plan["secret"]) as client:

        async def trip() -> float:
            done = await client.wait(await client.submit(task.TYPE, plan["payload"]), check=True)
            assert done.result, "it has succeeded"
            return float(done.result["started"])

        await protocol.round_trips(trip, calls=plan["calls"], warm_up=plan["warm_up"])


if __name__ == "__main__":
    protocol.run(main)
