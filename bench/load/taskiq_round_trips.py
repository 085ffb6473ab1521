"""taskiq's tasks one at a time on an idle system. That a result is there its client learns by asking, again and again.

Plan: `url` of a Redis; `task`, what each is told; `ask`, the seconds between two questions; `calls` and `warm_up`.
"""

from typing import Any

from bench.load import protocol
from bench.peers import taskiq_app


async def main(plan: dict[str, Any]) -> None:
    broker, stamp = taskiq_app.make(plan["url"])
    await broker.startup()

    async def trip() -> float:
        result = await (await stamp.kiq(plan["task"])).wait_result(check_interval=plan["ask"])
        return float(result.return_value["started"])

    await protocol.round_trips(trip, calls=plan["calls"], warm_up=plan["warm_up"])


if __name__ == "__main__":
    protocol.run(main)
