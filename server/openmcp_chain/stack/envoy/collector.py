"""Where Envoy sends its spans: an OpenTelemetry collector, over gRPC, in plain text or by TLS.

It is named as for every other process, by the variables that OpenTelemetry's exporters read
(https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import grpc

from openmcp_chain.stack.envoy import sampling
from openmcp_chain.stack.envoy.sampling import Sampler
from openmcp_chain.stack.envoy.tls import subject_kind

PATH = "%DYNAMIC_METADATA(openmcp:path)%"
"""A request's path, as logs and traces may show it: in Envoy's terms, what `envoy/shown.lua` has made of it."""
_UNSHOWN = ("http.url", "grpc.path", "grpc.authority", "grpc.content_type", "grpc.timeout")
"""The attributes of spans that Envoy makes of what a caller sent, whole; but for those of headers that `envoy.yaml` has
removed before. Of a call that was refused, they would have up to 256 KiB."""
_PORT = 4317
_ROOTS = Path(grpc.__file__).parent / "_cython" / "_credentials" / "roots.pem"
"""The certificates that gRPC, and so the server's own exporter, trusts if it is told of no others."""


@dataclass(frozen=True, slots=True)
class Collector:
    """A collector that takes OTLP over gRPC."""

    host: str
    port: int
    roots: str | None = None
    """The certificates to trust, in PEM; None: no TLS."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What each request carries, such as a key; secret."""
    sampler: Sampler | None = None
    """Which traces it gets; None: all that their callers have not decided against."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Collector | None":
        """What the variables say, those for traces before the general ones; None without one. Raises ValueError."""

        def value(name: str) -> str:
            return environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environment.get(
                f"OTEL_EXPORTER_OTLP_{name}", ""
            )

        endpoint = value("ENDPOINT")
        if not endpoint or environment.get("OTEL_TRACES_EXPORTER") == "none":
            return None
        try:
            url = urlsplit(endpoint)
            port = url.port or _PORT
        except ValueError:
            url, port = urlsplit(""), _PORT
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"the OTLP endpoint must be http://host:port or https://host:port, not {endpoint!r}")
        return cls(
            url.hostname,
            port,
            _certificates(value("CERTIFICATE")) if url.scheme == "https" else None,
            _headers(value("HEADERS")),
            sampling.from_environment(environment),
        )

    def transport_socket(self) -> dict[str, Any] | None:
        """How Envoy's cluster speaks to it; None for plain text."""
        if self.roots is None:
            return None
        validation = {
            "trusted_ca": {"inline_string": self.roots},
            "match_typed_subject_alt_names": [{"san_type": subject_kind(self.host), "matcher": {"exact": self.host}}],
        }
        tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        common = {"alpn_protocols": ["h2"], "validation_context": validation}
        typed_config = {"@type": tls, "sni": self.host, "common_tls_context": common}
        return {"name": "envoy.transport_sockets.tls", "typed_config": typed_config}

    def tracing(self) -> dict[str, Any]:
        """The configuration of Envoy's tracing, with spans to the cluster `otlp`."""
        service = {
            "envoy_grpc": {"cluster_name": "otlp"},
            "timeout": "1s",
            "initial_metadata": [{"key": name, "value": value} for name, value in self.headers.items()],
        }
        config = {
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
            "service_name": "openmcp-envoy",
            "grpc_service": service,
            "sampler": self.sampler,
        }
        return {
            "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": config},
            "spawn_upstream_span": True,
            # A tag of ours takes the place of Envoy's own of that name.
            "custom_tags": [
                {"tag": "url.path", "value": PATH},
                *({"tag": name, "literal": {"value": "-"}} for name in _UNSHOWN),
            ],
        }


def _certificates(path: str) -> str:
    try:
        return Path(path or _ROOTS).read_text()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"the OTLP certificate {path!r} can't be read") from None


def _headers(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split(",") if "=" in pair)
    return {unquote(name).strip().lower(): unquote(value).strip() for name, _, value in pairs}
