"""Plans: what a workspace may use. The numbers are in `plans.toml`, which Envoy's configuration is made from too."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan's limits."""

    name: str
    requests_per_second: int
    """Calls through Envoy, on average; 0 means no limit."""
    burst: int
    """Calls at once, after a pause."""
    streams: int
    """Event streams open at a time, in one server process."""


def parse(tables: Mapping[str, Mapping[str, int]]) -> dict[str, Plan]:
    """Plans from the file's tables. Raises ValueError naming what is missing or wrong."""
    if not tables:
        raise ValueError("names no plan")
    plans = {}
    for name, table in tables.items():
        try:
            plan = Plan(name=name, **table)
        except TypeError as error:
            raise ValueError(f"plan {name}: {error}") from None
        if not all(isinstance(number, int) for number in table.values()):
            raise ValueError(f"plan {name}: its limits are whole numbers")
        if plan.requests_per_second < 0 or plan.burst < plan.requests_per_second or plan.streams < 1:
            raise ValueError(f"plan {name}: needs requests_per_second >= 0, burst >= requests_per_second, streams >= 1")
        plans[name] = plan
    return plans
