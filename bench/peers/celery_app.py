"""Celery on a Redis, as one sets it up to lose nothing: a task is acknowledged when it is done, its result is kept."""

from typing import Any

from celery import Celery


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
    return app


def worker(app: Any, pool: str, concurrency: int = 1) -> Any:  # noqa: ANN401 - Celery has no types
    """A worker at its best, with nothing that nobody asks for."""
    return app.Worker(
        pool=pool,
        concurrency=concurrency,
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
