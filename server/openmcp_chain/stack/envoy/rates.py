"""Envoy's limits of calls and of bytes: a bucket for each workspace or address, in the form of Envoy's descriptors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openmcp_chain.domain.plans import REPORT_BYTES, REQUEST_BYTES, Plan, smallest
from openmcp_chain.stack.envoy import routes

BYTES = {routes.CALLERS: REQUEST_BYTES, routes.WORKERS: REPORT_BYTES}
"""How many bytes a plan allows for each call that it allows."""

MOST = 2**32 - 1
"""Of calls or bytes, at once or a second: Envoy does not start with a bucket of more."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something may happen."""

    per_second: int
    """On average."""
    burst: int
    """At once, after a pause."""


def plan_of_token(plans: Mapping[str, Plan]) -> str:
    """The plan by which a token's workspace is limited, as Envoy computes it.

    One that this Envoy has not been told of, since it was added or taken away elsewhere first, counts as the smallest:
    what fits no bucket would have no limit at all.
    """
    claims = 'metadata.filter_metadata["envoy.filters.http.jwt_authn"].payload'
    known = json.dumps([*plans])
    return f"has({claims}.plan) && {claims}.plan in {known} ? {claims}.plan : {json.dumps(smallest(plans).name)}"


def of_calls(plans: Mapping[str, Plan]) -> list[dict[str, Any]]:
    """A descriptor for each plan that has a limit; its workspace has no value, so each gets a bucket of its own."""
    return [
        bucket([{"key": "plan", "value": plan.name}, {"key": "workspace"}], Rate(plan.requests_per_second, plan.burst))
        for plan in plans.values()
        if plan.requests_per_second
    ]


def of_bodies(plans: Mapping[str, Plan], largest: int) -> list[dict[str, Any]]:
    """The same of bytes, of workers' calls by themselves. A bucket that is full has room for the largest request."""
    limits: list[dict[str, Any]] = []
    for plan in filter(lambda plan: plan.requests_per_second, plans.values()):
        for whose, each in BYTES.items():
            entries = [{"key": "header_match", "value": "body"}, {"key": "whose", "value": whose}]
            entries += [{"key": "plan", "value": plan.name}, {"key": "workspace"}]
            burst = max(plan.burst * each, largest + routes.FRAME_BYTES)
            limits.append(bucket(entries, Rate(plan.requests_per_second * each, burst)))
    return limits


def lua_table(plans: Mapping[str, Plan]) -> str:
    """How many bytes a second each plan allows, as a Lua table; a plan that Envoy does not know has no name in it."""
    rows = []
    for name, plan in {**plans, **({"": smallest(plans)} if plans else {})}.items():
        rates = ", ".join(f"{whose} = {plan.requests_per_second * each}" for whose, each in BYTES.items())
        rows.append(f'["{name}"] = {{ {rates} }}')
    return f"local BYTES = {{ {', '.join(rows)} }}\n"


def bucket(entries: list[dict[str, str]], rate: Rate) -> dict[str, Any]:
    """What holds for each set of values that an entry without a value stands for: the rate, as far as Envoy counts."""
    burst, per_second = min(rate.burst, MOST), min(rate.per_second, MOST)
    tokens = {"max_tokens": burst, "tokens_per_fill": per_second, "fill_interval": "1s"}
    return {"entries": entries, "token_bucket": tokens}
