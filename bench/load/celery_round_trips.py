"""Celery's tasks one at a time on an idle system; their results come by Redis's publish and subscribe.

Plan: `url` of a Redis; `task`, what each is told; `calls` and `warm_up`.
"""

from typing import Any

from bench.load import protocol
from bench.peers import celery_app


async def main(plan: dict[str, Any]) -> None:
    stamp = celery_app.make(plan["url"]).tasks["stamp"]

    async def trip() -> float:
        # Blocks, as its client does; nothing else is to be done.
        return float(stamp.delay(plan["task"]).get()["started"])

    await protocol.round_trips(trip, calls=plan["calls"], warm_up=plan["warm_up"])


if __name__ == "__main__":
    protocol.run(main)
