"""What a message of a worker's is about, told from its bytes: its kind, and its lease, without decoding the rest.

A result of 4 MiB may hold a million values. To decode them stops everybody for a tenth of a second, to read them takes
ten times that, and on a stream nobody counts how often they come. So a message that is not small is decoded when it is
known that it ends a lease: with the first that does, the lease is over.
"""

from itertools import islice
from typing import NamedTuple

from google.protobuf.message import DecodeError

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation
from openmcp_chain.transport import wire

FIELDS = 8
"""Among so many fields of a message its lease must be. All libraries write it first."""
LEASE_BYTES = 4096
"""What a lease may have."""


class Outline(NamedTuple):
    """What is known of a message before it is decoded."""

    kind: str
    lease: workers_pb2.LeaseRef | None
    """None: its kind has none."""


def of(data: bytes) -> Outline:
    """The outline of a serialized `WorkRequest`. Raises InvalidArgument unless it holds one message and no more."""
    try:
        spans = list(islice(wire.spans(data, 0, len(data)), 2))
        field = workers_pb2.WorkRequest.DESCRIPTOR.fields_by_number.get(spans[0].number) if len(spans) == 1 else None
        if field is None or field.message_type is None or not spans[0].delimited:
            raise errors.InvalidArgument(Violation("message", "must be one, of a kind that this server knows"))
        kind, (_, begin, end, _) = field.name, spans[0]
        lease = field.message_type.fields_by_name.get("lease")
        if lease is None:
            return Outline(kind, None)
        for span in islice(wire.spans(data, begin, end), FIELDS):
            if span.number == lease.number and span.delimited and span.end - span.begin <= LEASE_BYTES:
                return Outline(kind, workers_pb2.LeaseRef.FromString(data[span.begin : span.end]))
    except (IndexError, DecodeError, ValueError):
        raise errors.InvalidArgument(Violation("message", "cannot be decoded: malformed, or not UTF-8")) from None
    raise errors.InvalidArgument(Violation(f"{kind}.lease", "is missing, or too large, or not among the first fields"))
