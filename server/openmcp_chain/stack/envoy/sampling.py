"""Which traces Envoy's spans are kept of: OpenTelemetry's samplers by its names, as Envoy has them.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#general-sdk-configuration
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

Sampler: TypeAlias = Mapping[str, Any]

_PARTS = 1_000_000
_FOLLOWING = "parentbased_"


def from_environment(environment: Mapping[str, str]) -> Sampler | None:
    """What OTEL_TRACES_SAMPLER and its argument say. Raises ValueError.

    None for OpenTelemetry's default, which is Envoy's own too: each trace is kept whose caller does not say otherwise.
    So it is for a name that Envoy does not know. With any other, Envoy asks for each fetch of the key set as well.
    """
    name = environment.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    alone = name.removeprefix(_FOLLOWING)
    if name == f"{_FOLLOWING}always_on" or alone not in ("always_on", "always_off", "traceidratio"):
        return None
    share = _share(environment.get("OTEL_TRACES_SAMPLER_ARG", "")) if alone == "traceidratio" else alone == "always_on"
    percentage = {"numerator": round(share * _PARTS), "denominator": "MILLION"}
    sampler = _named("trace_id_ratio_based", "TraceIdRatioBased", {"sampling_percentage": percentage})
    return sampler if alone == name else _named("parent_based", "ParentBased", {"wrapped_sampler": sampler})


def _share(argument: str) -> float:
    try:
        share = float(argument or 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1, not {argument!r}")
    return share


def _named(name: str, kind: str, config: Mapping[str, Any]) -> Sampler:
    of_kind = f"type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3.{kind}SamplerConfig"
    typed_config = {"@type": of_kind, **config}
    return {"name": f"envoy.tracers.opentelemetry.samplers.{name}", "typed_config": typed_config}
