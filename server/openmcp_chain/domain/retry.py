"""When a failed attempt is tried again."""

from datetime import timedelta

INITIAL_INTERVAL = timedelta(milliseconds=500)
BACKOFF_COEFFICIENT = 2.0
MAXIMUM_INTERVAL = timedelta(minutes=1)
MAXIMUM_ATTEMPTS = 5


def backoff(attempt: int, jitter: float) -> timedelta:
    """How long to wait after the given attempt (1, 2, …): exponential, with full jitter.

    `jitter` is a random number in [0, 1). Full jitter spreads the tries of many tasks that failed together
    (Brooker, "Exponential Backoff And Jitter", AWS 2015).
    """
    ceiling = min(INITIAL_INTERVAL * BACKOFF_COEFFICIENT ** min(attempt - 1, 30), MAXIMUM_INTERVAL)
    milliseconds = round(ceiling.total_seconds() * 1000 * jitter)
    return timedelta(milliseconds=milliseconds)
