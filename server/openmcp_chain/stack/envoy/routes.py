"""Envoy's route table, made from the contract: a new method has its routes without anyone writing them.

Each method has a gRPC route, and a route for each of its REST bindings. A REST request passes two routes: first that
of its path, then, once the transcoder has made it a gRPC request, that of its method. Both say the same. What no route
knows is refused, in REST with a 404, 405 or 415 that needs no token.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openmcp_chain.stack.envoy import replies
from openmcp_chain.stack.envoy.view import Method

Json = dict[str, Any]

OPEN: Mapping[str, str] = {
    "openmcp.chain.v1.AuthService/Authenticate": replies.TOO_MANY_SIGN_INS,
    "openmcp.chain.v1.RestService/ServeJsonWebKeySet": replies.TOO_MANY_OPEN_CALLS,
    "grpc.health.v1.Health/Check": replies.TOO_MANY_OPEN_CALLS,
}
"""The methods that need no token, each with the reply to an address that makes too many such calls.

Not reflection: whoever explores has a token, and strangers can't hold its streams.
"""

FOREIGN = (
    Method("grpc.health.v1.Health/Check", streams=False),
    Method("grpc.health.v1.Health/Watch", streams=False),
    Method("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", streams=False, uploads=True),
)
"""What the server serves besides the contract.

Streams too end when a unary call would: no workspace's quota counts them, and nothing ends them with their token.
"""

CALLERS, WORKERS = "callers", "workers"
"""Whose bytes they are: each have a limit of their own."""
SMALL_BYTES = 64 * 1024
"""What a request may have to a method that needs no token: without one, nobody holds much of Envoy's memory."""
FRAME_BYTES = 5
"""What gRPC puts before a message (a flag and a length)."""

_PINGED = ("google.api.HttpBody",)
"""What is told by streams that the server pings: if they are read, they are not silent for longer than any call."""
_UNTRACED = ("openmcp.chain.v1.RestService/ServeJsonWebKeySet", "grpc.health.v1.Health/Check")
"""Asked for every few seconds, by Envoy itself among others: a collector has no use for it."""
_JSON = r'(?i)application/json\s*(;\s*(charset="?utf-8"?\s*)?)?'
_GRPC_TYPE = r"application/grpc(-web(-text)?)?(\+proto)?"
_POST: Json = {"name": ":method", "string_match": {"exact": "POST"}}
_GRPC: list[Json] = [_POST, {"name": "content-type", "string_match": {"safe_regex": {"regex": _GRPC_TYPE}}}]
_LIKE_GRPC: list[Json] = [{"name": "content-type", "string_match": {"prefix": "application/grpc"}}]
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
_JWT = "envoy.filters.http.jwt_authn"
_TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
_BUFFER = "envoy.filters.http.buffer"
_RATE_LIMIT = "envoy.filters.http.local_ratelimit"


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a request may be, and how long a call may take."""

    bytes: int
    """Of a request, as JSON or as a message."""
    seconds: float
    """Of a unary call, the slow sending of its request included."""
    stream_silence: float
    """Seconds for which nothing may move on a stream that is not pinged."""


def too_large(method: Method, limits: Limits) -> tuple[str, int]:
    """The field that is blamed for a request that is too large, and how many bytes it may have."""
    return method.bulky, SMALL_BYTES if method.name in OPEN else limits.bytes


def table(methods: Sequence[Method], limits: Limits) -> list[Json]:
    """All routes, most specific first."""
    grpc = [
        {
            "name": f"grpc:{method.name}",
            "match": {"path": f"/{method.name}", "headers": _GRPC},
            **_call(method, limits, framed=True),
        }
        for method in (*methods, *FOREIGN)
    ]
    # The server has the right words for a method that does not exist.
    unknown = {
        "name": "grpc:unknown",
        "match": {"prefix": "/", "headers": _GRPC},
        **_call(Method("", streams=False), limits, framed=True),
    }
    # Such as application/grpc+json, or application/grpcx, which the transcoder would read as JSON; or a GET, which it
    # would leave as it is, for the server to make nothing of.
    other = _refusal("grpc:no gRPC", {"prefix": "/", "headers": _LIKE_GRPC}, 415)
    # A tunnel has no path, and no end that a filter could wait for: with a route, Envoy refuses it before its filters.
    tunnel = _refusal("rest:CONNECT", {"connect_matcher": {}}, 404)
    return [
        *grpc,
        unknown,
        other,
        *_rest(methods, limits),
        tunnel,
        _refusal("rest:unknown", {"prefix": "/"}, 404),
    ]


def pattern(template: str) -> str:
    """The regular expression of a path template (google/api/http.proto)."""

    def segment(match: re.Match[str]) -> str:
        return ".+" if "**" in match[0] else "[^/]+"

    if re.search(r"\{[^}]*/", template):
        raise ValueError(f"{template}: a variable of several segments is not supported here")
    pieces = re.split(r"(\{[^}]*\}|\*\*|\*)", template)
    return "".join(
        re.sub(r".+", segment, piece) if index % 2 else re.escape(piece).replace(r"\-", "-")
        for index, piece in enumerate(pieces)
    )


def _rest(methods: Iterable[Method], limits: Limits) -> list[Json]:
    paths: dict[str, dict[str, Method]] = {}
    for method in methods:
        for verb, template in method.routes:
            paths.setdefault(template, {})[verb] = method
    routes = []
    # A literal path goes before a template that would match it too.
    for template in sorted(paths, key=lambda t: (t.count("{"), -len(t))):
        regex: Json = {"safe_regex": {"regex": pattern(template)}}
        for verb, method in paths[template].items():
            of_verb = {"name": ":method", "string_match": {"exact": verb}}
            if verb not in ("GET", "DELETE"):
                encoded = {"name": "content-encoding", "string_match": {"ignore_case": True, "exact": "identity"}}
                not_json = {"name": "content-type", "string_match": {"safe_regex": {"regex": _JSON}}}
                for header in (encoded, not_json):
                    match = regex | {"headers": [of_verb, header | {"invert_match": True}]}
                    routes.append(_refusal(f"rest:{verb} {template} (no JSON)", match, 415))
            match = regex | {"headers": [of_verb]}
            call = _call(method, limits)
            call["metadata"]["filter_metadata"]["request"] = {
                "message": method.input,
                "has_body": method.body,
                "in_path": dict.fromkeys(re.findall(r"\{(\w+)", template), True),
            }
            routes.append({"name": f"rest:{verb} {template}", "match": match, **call})
        allow = {"header": {"key": "allow", "value": ", ".join(sorted(paths[template]))}}
        routes.append(_refusal(f"rest:{template}", regex, 405) | {"response_headers_to_add": [allow]})
    return routes


def _call(method: Method, limits: Limits, *, framed: bool = False) -> Json:
    """What holds for a call of the method, by whatever route it came; `framed`: as gRPC."""
    action: Json = {
        "cluster": "server",
        "host_rewrite_literal": "server",  # what a caller calls us is of no use to the server
        "timeout": "0s",  # counts only from a request's last byte, and would end streams
        # Only what is sure not to have reached the server is sent again: to another one, or to one that is back within
        # the second that this takes. After it, with no other server, callers get UPSTREAM_UNAVAILABLE until it is back.
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"},
        },
    }
    if method.streams and method.output not in _PINGED:
        # How long it waits is no error, and a client that is dead is found by HTTP/2's pings. But by one that does not
        # read it would be kept for ever: as long as more is left than Envoy takes at a time, it does not see the end of
        # what the server is done with.
        action["idle_timeout"] = f"{limits.stream_silence}s"
    elif not method.streams:
        # A gRPC caller's own deadline counts if it is sooner, and the server is told of it.
        longest = f"{limits.seconds}s"
        action["max_stream_duration"] = {"max_stream_duration": longest, "grpc_timeout_header_max": longest}
    filters = _without(*((_JWT, _RATE_LIMIT) if method.name in OPEN else ()))
    field, size = too_large(method, limits)
    if method.uploads:
        filters |= _without(_BUFFER)  # its messages go on as they come
    else:
        buffer = {"max_request_bytes": size + (FRAME_BYTES if framed else 0)}
        filters[_BUFFER] = {"@type": f"{_FILTERS}.buffer.v3.BufferPerRoute", "buffer": buffer}
    told: Json = {"too_large": replies.too_large(field, size)}
    if method.output in _TASKS:
        told["nulls"] = _TASKS[method.output]
    metadata: Json = {"envoy.filters.http.lua": told}
    if method.name not in OPEN:
        told["whose"] = WORKERS if ".WorkerService/" in method.name else CALLERS
        metadata["bodies"] = {"whose": told["whose"]}
    if limit := OPEN.get(method.name):
        told["rate_limited"] = limit
        metadata["addresses"] = {"limit": limit}
    call: Json = {"route": action, "typed_per_filter_config": filters, "metadata": {"filter_metadata": metadata}}
    if method.name in _UNTRACED:
        call["tracing"] = {"overall_sampling": {"numerator": 0}}
    return call


_TASKS = {
    "openmcp.chain.v1.TaskDetail": 1,
    "openmcp.chain.v1.ListTasksResponse": 3,
    "openmcp.chain.v1.BatchGetTasksResponse": 3,
}
"""The answers that hold TaskDetails, and how deep in their JSON: there, what is not set is shown as null."""


def _refusal(name: str, match: Json, status: int) -> Json:
    """Answers with the status, in the words that the first Lua filter has for it."""
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status},
        "typed_per_filter_config": _without(_JWT, _RATE_LIMIT, _BUFFER, _TRANSCODER),
    }


def _without(*filters: str) -> dict[str, Json]:
    config = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    return dict.fromkeys(filters, config)
