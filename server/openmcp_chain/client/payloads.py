"""Plain values ↔ `google.protobuf.Struct`.

A Struct has one kind of number, the double. So a whole number comes back as an int wherever doubles are exact (up to
2^53 either way), whether it was submitted as `3` or as `3.0`; any other comes back as a float. What a double would
change is refused rather than changed: send an integer beyond 2^53 as a string.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value

from openmcp_chain import structs
from openmcp_chain.client.errors import PayloadError

EXACT = 2.0**53
"""Up to here every integer is a double of its own."""
_PLACE = 200
"""Characters of a place that are shown."""


class Dataclass(Protocol):
    """An instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Model(Protocol):
    """An instance of a pydantic model, or of what behaves like one."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Its fields; with the mode `json`, as JSON values."""


Payload: TypeAlias = Mapping[str, Any] | Dataclass | Model
"""JSON values in a mapping, a dataclass or a pydantic model; those may be nested in each other."""


def to_struct(payload: Payload | None, name: str = "payload") -> Struct:
    """The payload as it is sent. Raises PayloadError naming the place that can't be, which begins with `name`."""
    struct = Struct()
    plain = _plain(payload if payload is not None else {})
    if not isinstance(plain, Mapping):
        raise PayloadError(f"{name}: must be a mapping, a dataclass or a pydantic model, not {_kind(payload)}")
    try:
        _fill(struct, plain, 1)
    except _Fault as fault:
        place = "".join([name, *reversed(fault.steps)])
        raise PayloadError(f"{place[:_PLACE]}: {fault.description}") from None
    if wrong := structs.fault(name, struct.SerializeToString()):
        raise PayloadError(f"{wrong.field[:_PLACE]}: {wrong.description}")
    return struct


def from_struct(struct: Struct) -> dict[str, Any]:
    """The values, plain; whole numbers as ints. Sorted by key: a Struct keeps no order."""
    return {key: _value(struct.fields[key]) for key in sorted(struct.fields)}


class _Fault(Exception):
    """What is wrong with a value. Its place is put together on the way up: only where there is a fault."""

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self.description = description
        self.steps: list[str] = []


def _fill(struct: Struct, values: Mapping[Any, Any], level: int) -> None:
    _check_level(level)
    for key, value in values.items():
        if not isinstance(key, str):
            raise _Fault(f"has a key that is not a string but {_kind(key)}")
        _check_text(key)
        try:
            _set(struct.fields[key], value, level)
        except _Fault as fault:
            fault.steps.append(f".{key}")
            raise


def _fill_list(target: ListValue, values: Sequence[Any], level: int) -> None:
    _check_level(level)
    for number, value in enumerate(values):
        try:
            _set(target.values.add(), value, level)
        except _Fault as fault:
            fault.steps.append(f"[{number}]")
            raise


def _set(target: Value, value: object, level: int) -> None:
    plain = _plain(value)
    if plain is None:
        target.null_value = NULL_VALUE
    elif isinstance(plain, bool):
        target.bool_value = plain
    elif isinstance(plain, str):
        _check_text(plain)
        target.string_value = plain
    elif isinstance(plain, int | float):
        target.number_value = _number(plain)
    elif isinstance(plain, Mapping):
        target.struct_value.SetInParent()
        _fill(target.struct_value, plain, level + 1)
    elif isinstance(plain, list | tuple):
        target.list_value.SetInParent()
        _fill_list(target.list_value, plain, level + 1)
    else:
        raise _Fault(f"is not a JSON value but {_kind(plain)}")


def _plain(value: object) -> object:
    if isinstance(value, type):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if dump := getattr(value, "model_dump", None):
        return dump(mode="json")
    if dataclasses.is_dataclass(value):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return value


def _number(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if isinstance(value, int) and number != value:
        raise _Fault("is an integer that a double can't hold; send it as a string")
    return number


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Fault("has a lone surrogate, which is not a character") from None


def _check_level(level: int) -> None:
    if level > structs.LEVELS:
        raise _Fault(f"is nested deeper than {structs.LEVELS} levels")


def _kind(value: object) -> str:
    return type(value).__qualname__


def _value(value: Value) -> Any:  # noqa: ANN401 - JSON has no closer type
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= EXACT else number
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return from_struct(value.struct_value)
    if kind == "list_value":
        return [_value(item) for item in value.list_value.values]
    return None
