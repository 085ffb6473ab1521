"""Plans: what a workspace may use. The numbers are in `plans.toml`, which Envoy's configuration is made from too."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields

REQUEST_BYTES = 4 * 1024
"""Of what is sent, for each call that a plan allows. A mebibyte of small values takes Envoy a quarter of a second of a
processor, if it is JSON, and the server as much again, whatever it is."""
REPORT_BYTES = 16 * 1024
"""The same of what workers send by calls: a result of a mebibyte must not wait for longer than a lease lives."""
ANSWER_BYTES = 16 * 1024
"""Of large answers, in protobuf encoding. To make JSON of a mebibyte of small values takes Envoy 0.2 s of one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan's limits."""

    name: str
    requests_per_second: int
    """Calls through Envoy, on average, and as many times `REQUEST_BYTES`; and in one server process as many messages
    on workers' streams, beside those that leases need, and as many times `ANSWER_BYTES` of large answers. 0 means no
    limit."""
    burst: int
    """As many at once, after a pause."""
    streams: int
    """Event and worker streams open at a time, in one server process."""
    pending_tasks: int = 1_000_000
    """Tasks that wait at a time."""
    weight: int = 1
    """How many tasks of a workspace go out in its turn, where workspaces share workers."""


def parse(tables: Mapping[str, object]) -> dict[str, Plan]:
    """Plans from the file's tables. Raises ValueError naming what is missing or wrong."""
    if not tables:
        raise ValueError("names no plan")
    return {name: _plan(name, table) for name, table in tables.items()}


def largest(plans: Mapping[str, Plan]) -> Plan:
    """The plan that allows most calls, and of those the one with most streams."""
    return max(plans.values(), key=_size)


def smallest(plans: Mapping[str, Plan]) -> Plan:
    """The plan that allows fewest calls, and of those the one with fewest streams: an unknown one is as this."""
    return min(plans.values(), key=_size)


def _size(plan: Plan) -> tuple[float, int]:
    return plan.requests_per_second or math.inf, plan.streams


def _plan(name: str, table: object) -> Plan:
    if not isinstance(table, Mapping):
        raise ValueError(f"plan {name}: must be a table, [{name}]")  # noqa: TRY004 - wrong in the file, not in the code
    limits = {field.name: field for field in fields(Plan) if field.name != "name"}
    for key, value in table.items():
        if key not in limits:
            raise ValueError(f"plan {name}: has no limit {key}; only {', '.join(limits)}")
        # TOML's true is no number, whatever Python says.
        if type(value) is not int:
            raise ValueError(f"plan {name}: {key} must be a whole number")
    if missing := [key for key, field in limits.items() if field.default is MISSING and key not in table]:
        raise ValueError(f"plan {name}: lacks {', '.join(missing)}")
    plan = Plan(name=name, **table)
    if (
        plan.requests_per_second < 0
        or plan.burst < plan.requests_per_second
        or min(plan.streams, plan.pending_tasks, plan.weight) < 1
    ):
        raise ValueError(
            f"plan {name}: needs requests_per_second >= 0, burst >= requests_per_second, "
            "and streams, pending_tasks and weight >= 1"
        )
    return plan
