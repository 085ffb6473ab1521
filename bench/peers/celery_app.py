"""Celery on a Redis, as one sets it up to lose nothing: a task is acknowledged when it is done, its result is kept.

`python -m bench.peers.celery_app URL POOL` is a worker whose task tells when it was started.
"""

import sys
import time
from typing import Any

from celery import Celery, signals


def make(url: str) -> Any:  # noqa: ANN401 - Celery has no types
    """The application. Its results are in the same Redis, for a day, which is Celery's default."""
    app = Celery("bench", broker=url, backend=url)
    app.conf.update(
        task_acks_late=True,
        # After this time the tasks of a worker that was killed are given to another: Celery's default, an hour.
        broker_transport_options={"visibility_timeout": 3600},
        broker_connection_retry_on_startup=True,
        worker_redirect_stdouts=False,
    )
    app.task(name="stamp")(stamp)
    return app


def stamp(_: dict[str, Any]) -> dict[str, float]:
    """The task: tells when it was started, by the clock that all processes here share."""
    return {"started": time.monotonic()}


def worker(app: Any, pool: str) -> Any:  # noqa: ANN401 - Celery has no types
    """A worker at its best, one task at a time, with nothing that nobody asks for."""
    return app.Worker(
        pool=pool,
        concurrency=1,
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )


def _ready(**_: object) -> None:
    print("ready", flush=True)


if __name__ == "__main__":
    signals.worker_ready.connect(_ready)
    worker(make(sys.argv[1]), sys.argv[2]).start()
