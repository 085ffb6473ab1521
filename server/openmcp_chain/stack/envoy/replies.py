"""The replies that Envoy makes itself, made from the error table: what `envoy/rest.lua` picks from.

All three forms of a reply are made here, once: REST's JSON body, the gRPC status line, and the gRPC details. Which
reply is sent when is the Lua filter's to say.
"""

import base64
import math
import string
import urllib.parse
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation
from openmcp_chain.transport import status

_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What grpc-message carries as it is; all else is percent-encoded (gRPC over HTTP/2)."""
_PLAIN = frozenset(string.ascii_letters + string.digits + " -_=:,.{}[]/'()")

TOO_MANY_SIGN_INS = errors.TooManySignIns.code
TOO_MANY_OPEN_CALLS = "TOO_MANY_OPEN_CALLS"
"""The names of the replies to an address that signs in, or makes other calls without a token, too often."""
BODIES = "BODIES"
"""The name of the replies to a workspace that sends more bytes than its plan allows, before the seconds."""
BODIES_STATUS = 402
"""The status by which the Lua filter knows that refusal; no client sees it. Envoy takes only such as it knows."""
BODIES_SECONDS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120)
"""When it may go on, in one such reply each: the larger what it sends, the later."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply."""

    error: errors.Error
    http: int
    """The HTTP status that REST gets."""


def too_large(field: str, limit: int) -> str:
    """The name of the reply which says that this field makes a request too large."""
    return f"{errors.RequestTooLarge.code} {field} {limit}"


def replies(sizes: Collection[tuple[str, int]], header_limit: int) -> Mapping[str, Reply]:
    """What Envoy says, by the name under which the Lua filters know it: the error's code, or a name for one case of it.

    `sizes` has the fields by which a request can be too large, with their limits: in bytes, as that of headers is.
    """
    by_code = (
        errors.DeadlineExceeded(),
        errors.HttpsRequired(),
        errors.Internal(),
        errors.InvalidArgument(Violation("FIELD", "DESCRIPTION")),  # the Lua filter puts in what it knows
        errors.MalformedRequest(),
        errors.MethodNotAllowed(),
        errors.MethodNotFound(),
        errors.RateLimited(),
        errors.RouteNotFound(),
        errors.TokenExpired(),
        errors.TokenInvalid(),
        errors.TokenMissing(),
        errors.TooManySignIns(),
        errors.UnsupportedMediaType(),
        errors.UpstreamUnavailable(),
    )
    by_case = {
        "BAD_ENCODING": errors.InvalidArgument(Violation("grpc-encoding", "must be identity, if it is there")),
        "BAD_COMPRESSION": errors.InvalidArgument(Violation("request", "is not compressed as grpc-encoding says")),
        "BAD_GRPC_TYPE": errors.InvalidArgument(
            Violation("content-type", "must be application/grpc or application/grpc+proto")
        ),
        "BAD_TIMEOUT": errors.InvalidArgument(
            Violation("grpc-timeout", "must be 1 to 8 digits and a unit, one of H, M, S, m, u, n")
        ),
        TOO_MANY_OPEN_CALLS: errors.RateLimited("address"),
    }
    by_case |= {f"{BODIES} {seconds}": errors.RateLimited("requests", float(seconds)) for seconds in BODIES_SECONDS}
    by_size = {too_large(field, limit): errors.RequestTooLarge(field, None, limit) for field, limit in sizes}
    by_size["REQUEST_TOO_LARGE"] = errors.RequestTooLarge("request", None, max(limit for _, limit in sizes))
    named = {error.code: error for error in by_code} | by_case | by_size
    return {name: Reply(error, error.http) for name, error in named.items()} | {
        "HEADERS_TOO_LARGE": Reply(errors.RequestTooLarge("headers", None, header_limit), 431),
        "REQUEST_TIMEOUT": Reply(errors.DeadlineExceeded(), 408),  # the client was slow, not we
    }


def lua_table(table: Mapping[str, Reply]) -> str:
    """The replies as a Lua statement, to stand before the filter's source."""
    rows = "".join(f"  [{_quote(name)}] = {{{_row(reply)}}},\n" for name, reply in sorted(table.items()))
    return f"local REPLIES = {{\n{rows}}}\n"


def details(error: errors.Error) -> str:
    """The header `grpc-status-details-bin`."""
    return base64.b64encode(status.encode(error).SerializeToString()).decode().rstrip("=")


def retry_after(error: errors.Error) -> str:
    """The header `retry-after`, in whole seconds."""
    return str(math.ceil(error.retry_after or 0))


def _row(reply: Reply) -> str:
    error, encoded = reply.error, status.encode(reply.error)
    fields = {
        "http": str(reply.http),
        "body": status.shown(error),
        "grpc_status": str(encoded.code),
        "grpc_message": urllib.parse.quote(encoded.message, safe=_PRINTABLE),
        "grpc_details": details(error),
    }
    if error.retry_after is not None:
        fields["retry_after"] = retry_after(error)
    return ", ".join(f"{field} = {_quote(value)}" for field, value in fields.items())


def _quote(text: str) -> str:
    """A Lua string literal; what could mean something else to Lua is written as its number."""
    return '"' + "".join(c if c in _PLAIN else "".join(f"\\{b:03d}" for b in c.encode()) for c in text) + '"'
