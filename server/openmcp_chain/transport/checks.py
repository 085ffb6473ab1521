"""What a request's fields must be like. Each check adds to a list, so that the caller is told of all faults at once."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from openmcp.chain.v1 import workers_pb2
from openmcp_chain import structs
from openmcp_chain.domain import errors, ids
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.task import HIGH, LOW, NORMAL
from openmcp_chain.transport import codec

LEASE_CHARACTERS = 64
METADATA_ENTRIES = 64
METADATA_KEY_CHARACTERS = 128
METADATA_VALUE_CHARACTERS = 1024
FAILURE_CODE_CHARACTERS = 64

_SECRET_ID = re.compile(r"[0-9a-f]{8}")
_NAME = re.compile(r"[!-~][ -~]{0,127}")
_PRIORITIES = {"high": HIGH, "normal": NORMAL, "low": LOW}
_UNITS = {"day": 86_400_000, "hour": 3_600_000, "minute": 60_000, "second": 1000, "millisecond": 1}
"""In milliseconds."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LABELS = 16
LABEL_VALUE_CHARACTERS = 128


class Checks:
    """Collects what is wrong with a request; `done` raises it."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def done(self) -> None:
        """Raises InvalidArgument if anything was wrong."""
        if self._violations:
            raise errors.InvalidArgument(*self._violations)

    def refuse(self, field: str, description: str) -> None:
        """Something is wrong with this field."""
        self._violations.append(Violation(field, description))

    def required(self, field: str, value: str) -> None:
        if not value:
            self.refuse(field, "is required")

    def task_type(self, field: str, value: str) -> None:
        if not value:
            self.refuse(field, "is required")
        elif not ids.is_task_type(value):
            self.refuse(field, ids.TASK_TYPE_RULE)

    def secret_id(self, field: str, value: str) -> None:
        """What is no id may be the secret itself, which no answer repeats."""
        if not value:
            self.refuse(field, "is required")
        elif not _SECRET_ID.fullmatch(value):
            self.refuse(field, "must be the eight digits (0-9 a-f) that stand first in the secret, not the secret")

    def name(self, field: str, value: str) -> None:
        if not _NAME.fullmatch(value):
            self.refuse(field, "must be 1 to 128 printable ASCII characters")

    def lease(self, field: str, ref: workers_pb2.LeaseRef) -> None:
        """A lease is sent back with its answer: what can't be one is refused before it takes up memory."""
        for name in ("workspace_id", "task_id", "lease_token"):
            if not 0 < len(getattr(ref, name)) <= LEASE_CHARACTERS:
                self.refuse(f"{field}.{name}", f"must be 1 to {LEASE_CHARACTERS} characters, as the task came with")

    def request_id(self, field: str, value: str) -> None:
        if value and not ids.is_uuid(value):
            self.refuse(field, "must be a UUID")

    def at_least(self, field: str, value: int, least: int, most: int) -> None:
        if not least <= value <= most:
            self.refuse(field, f"must be from {least} to {most}")

    def at_most(self, field: str, value: str, most: int) -> None:
        if len(value) > most:
            self.refuse(field, f"has {len(value)} characters; at most {most} are allowed")

    def duration(self, field: str, value: Duration | None, least: float, most: float) -> timedelta | None:
        """A time in seconds, to the millisecond; None for one that is not set."""
        if value is None:
            return None
        seconds = value.seconds + value.nanos / 1e9
        if abs(value.nanos) >= 10**9 or not least <= seconds <= most:
            self.refuse(field, f"must be from {_spoken(least)} to {_spoken(most)}")
            return None
        return timedelta(milliseconds=round(seconds * 1000))

    def time(self, field: str, value: Timestamp | None, latest: datetime) -> datetime | None:
        """A point in time, to the millisecond; None for one that is not set."""
        if value is None:
            return None
        milliseconds = value.seconds * 1000 + round(value.nanos / 1e6)
        if not 0 <= value.nanos < 10**9 or not 0 <= milliseconds <= latest.timestamp() * 1000:
            self.refuse(field, f"must be a time from 1970 on, and no later than {latest:%Y-%m-%dT%H:%M:%SZ}")
            return None
        return _EPOCH + timedelta(milliseconds=milliseconds)

    def labels(self, field: str, entries: Mapping[str, str]) -> None:
        if len(entries) > LABELS:
            self.refuse(field, f"has {len(entries)} entries; at most {LABELS} are allowed")
            return
        for key, value in entries.items():
            if not ids.is_label_key(key):
                self.refuse(field, "has a key that is not 1 to 63 of a-z 0-9 _ . -")
            else:
                self.at_most(f'{field}["{key}"]', value, LABEL_VALUE_CHARACTERS)

    def priority(self, field: str, value: int, from_metadata: int | None) -> int:
        """The priority of a task: the field's, else that of its metadata, else the normal one."""
        if value == 0:
            return from_metadata or NORMAL
        self.at_least(field, value, 1, 5)
        if from_metadata not in (None, value):
            self.refuse(field, f"must agree with the priority in metadata, which stands for {from_metadata}")
        return value

    def metadata(self, field: str, entries: Mapping[str, str]) -> int | None:
        """Checks a task's metadata; returns the priority in it, if there is one."""
        if len(entries) > METADATA_ENTRIES:
            self.refuse(field, f"has {len(entries)} entries; at most {METADATA_ENTRIES} are allowed")
            return None
        for key, value in entries.items():
            if not 0 < len(key) <= METADATA_KEY_CHARACTERS:
                self.refuse(field, f"has a key of {len(key)} characters; 1 to {METADATA_KEY_CHARACTERS} are allowed")
            elif len(value) > METADATA_VALUE_CHARACTERS:
                place = f'{field}["{key}"]'
                self.refuse(place, f"has {len(value)} characters; at most {METADATA_VALUE_CHARACTERS} are allowed")
        if "priority" not in entries:
            return None
        priority = _PRIORITIES.get(entries["priority"])
        if priority is None:
            self.refuse(f'{field}["priority"]', f"must be one of {', '.join(_PRIORITIES)}")
        return priority

    def struct(self, field: str, value: Struct, *, deterministic: bool) -> bytes:
        """Checks that a Struct can be kept and read back exactly, by gRPC and as JSON; returns it serialized."""
        data = codec.struct_to_bytes(value, deterministic=deterministic)
        fault = structs.fault(field, data)
        if fault is not None:
            self._violations.append(fault)
        return data


def _spoken(seconds: float) -> str:
    """A time as people say it, in the largest unit of which it has a whole number."""
    for unit, length in _UNITS.items():
        count, rest = divmod(round(seconds * 1000), length)
        if count and not rest:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "0"
