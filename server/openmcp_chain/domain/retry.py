"""When a failed attempt is tried again."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how soon, an attempt is followed by another. The names are Temporal's."""

    initial_interval: timedelta = timedelta(milliseconds=500)
    backoff_coefficient: float = 2.0
    maximum_interval: timedelta = timedelta(minutes=1)
    maximum_attempts: int = 5
    non_retryable_error_codes: frozenset[str] = frozenset()

    def backoff(self, attempt: int, jitter: float) -> timedelta:
        """How long to wait after the given attempt (1, 2, …): exponential, with full jitter.

        `jitter` is a random number in [0, 1). Full jitter spreads the tries of many tasks that failed together
        (Brooker, "Exponential Backoff And Jitter", AWS 2015).
        """
        # 300 is more than there are attempts; 10 to the 300th is a float yet.
        ceiling = self.initial_interval.total_seconds() * self.backoff_coefficient ** min(attempt - 1, 300)
        seconds = min(ceiling, self.maximum_interval.total_seconds()) * jitter
        return timedelta(milliseconds=round(seconds * 1000))


DEFAULT = RetryPolicy()
