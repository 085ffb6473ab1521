"""A worker whose tasks do nothing but tell when they were started: by the clock that all processes here share.

Configured as `openmcp worker` is.
"""

import time
from typing import Any

import uvloop

from bench import task
from openmcp_chain.worker import Worker


def main() -> None:
    worker = Worker.from_environment(name="bench")

    @worker.task(task.TYPE)
    async def stamp(_: dict[str, Any]) -> dict[str, float]:
        return {"started": time.monotonic()}

    worker.run(loop_factory=uvloop.new_event_loop)


if __name__ == "__main__":
    main()
