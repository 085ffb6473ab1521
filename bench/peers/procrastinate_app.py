"""procrastinate on a PostgreSQL. It keeps no results: its task writes down when it was started, in a file.

`python -m bench.peers.procrastinate_app URL FILE` is a worker, which is told of tasks by LISTEN.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from procrastinate import App, PsycopgConnector


def make(url: str, connections: int) -> App:
    """The application, which holds so many connections."""
    return App(connector=PsycopgConnector(conninfo=url, min_size=connections, max_size=connections))


async def main(url: str, file: Path) -> None:
    app = make(url, 4)
    with file.open("w", buffering=1) as stamps:

        async def stamp(task: dict[str, Any]) -> None:  # noqa: ARG001 - it is told it, as others are
            stamps.write(f"{time.monotonic()}\n")

        app.task(name="stamp")(stamp)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            print("ready", flush=True)
            await app.run_worker_async(listen_notify=True, install_signal_handlers=False)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], Path(sys.argv[2])))
