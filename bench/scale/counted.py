"""`openmcp server`, which writes down each command that it gives the database: to a file in the folder that it is told.

The file is written at the end: a list of the time (monotonic), the command and the collection.
"""

import json
import os
import sys
import time
from pathlib import Path

from pymongo import monitoring

from openmcp_chain import app

OF_TASKS = frozenset({"tasks", "timers"})


class _Commands(monitoring.CommandListener):
    def __init__(self) -> None:
        self.given: list[tuple[float, str, str]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        collection = event.command.get("collection") or event.command.get(event.command_name)
        self.given.append((time.monotonic(), event.command_name, str(collection)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


def main() -> None:
    """Serves until SIGTERM."""
    commands = _Commands()
    monitoring.register(commands)
    try:
        app.main()
    finally:
        (Path(sys.argv[1]) / str(os.getpid())).write_text(json.dumps(commands.given))


if __name__ == "__main__":
    main()
