"""Which other sites' pages may call, by REST, SSE and gRPC-Web (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).

None unless they are named. What they are let in for is a call with a bearer token, which no browser adds by itself: so
cookies and the like stay out of it, and a page can do no more than its token may.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from openmcp_chain.stack.envoy.view import Method

VARIABLE = "OPENMCP_CORS_ORIGINS"
SENT = (
    *("authorization", "content-type", "last-event-id", "traceparent"),
    *("grpc-timeout", "x-grpc-web", "x-user-agent"),  # gRPC-Web's
)
"""Request headers that a page may set."""
SHOWN = (
    *("grpc-status", "grpc-message", "grpc-status-details-bin"),
    *("retry-after", "www-authenticate", "x-request-id"),
    *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
)
"""Response headers that a page may read."""
MAX_AGE_SECONDS = 600


def from_environment(environment: Mapping[str, str]) -> Sequence[str]:
    """The origins that the variable names, separated by commas. Raises ValueError for what is none."""
    origins = [text.strip() for text in environment.get(VARIABLE, "").split(",") if text.strip()]
    for origin in origins:
        try:
            url = urlsplit(origin)
        except ValueError:
            url = urlsplit("")
        if url.scheme not in ("http", "https") or not url.netloc or origin != f"{url.scheme}://{url.netloc}".lower():
            raise ValueError(
                f"{VARIABLE}: {origin!r} is no origin, such as https://app.example or http://localhost:3000"
            )
    return origins


def policy(origins: Sequence[str], methods: Iterable[Method]) -> dict[str, Any]:
    """The virtual host's configuration of the filter, which does nothing without."""
    if not origins:
        return {}
    verbs = {"GET", "POST", *(verb for method in methods for verb, _ in method.routes)}
    return {
        "envoy.filters.http.cors": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{"exact": origin} for origin in origins],
            "allow_methods": ", ".join(sorted(verbs)),
            "allow_headers": ", ".join(SENT),
            "expose_headers": ", ".join(SHOWN),
            "max_age": str(MAX_AGE_SECONDS),
            "forward_not_matching_preflights": False,
        }
    }


def preflights(origins: Sequence[str]) -> list[dict[str, Any]]:
    """The route of a browser's question, before all others: the filter answers it, but only where there is a cluster.

    An origin that is not let in gets an answer without its name, which a browser takes for a no.
    """
    if not origins:
        return []
    asks: list[dict[str, Any]] = [{"name": ":method", "string_match": {"exact": "OPTIONS"}}]
    asks += [{"name": name, "present_match": True} for name in ("origin", "access-control-request-method")]
    route = {"match": {"prefix": "/", "headers": asks}, "route": {"cluster": "server"}}
    return [{"name": "cors:preflight", **route}]
