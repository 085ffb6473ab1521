"""Payloads and results: what goes in comes out, and what could not is refused where it is."""

import enum
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pydantic
import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from openmcp_chain import structs
from openmcp_chain.client import PayloadError, payloads

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
EXACT = 2**53
NUMBERS = st.integers(-EXACT, EXACT) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_what_goes_in_comes_out(payload: dict[str, Any]) -> None:
    """Any JSON survives the wire as it was; Python's `1 == 1.0` is the only licence taken."""
    sent = Struct.FromString(payloads.to_struct(payload).SerializeToString())
    assert payloads.from_struct(sent) == payload


@pytest.mark.parametrize(
    ("number", "kind"), [(3, int), (3.0, int), (-(2**53), int), (2.5, float), (1e300, float), (float(2**54), float)]
)
def test_whole_numbers_are_ints(number: float, kind: type) -> None:
    """Whole numbers come back as ints as long as doubles are exact; others as floats."""
    value = payloads.from_struct(payloads.to_struct({"n": number}))["n"]
    assert (value, type(value)) == (number, kind)


def test_nothing_is_an_empty_payload() -> None:
    """No payload is `{}`."""
    assert payloads.from_struct(payloads.to_struct(None)) == {}


@dataclass
class Point:
    x: int
    tags: tuple[str, ...] = ()


class Model(pydantic.BaseModel):
    at: datetime
    point: Point


def test_dataclasses_and_models() -> None:
    """Dataclasses and pydantic models are sent as their fields, wherever they stand; tuples as lists."""
    model = Model(at=datetime(2026, 1, 2, tzinfo=UTC), point=Point(1))
    sent = payloads.to_struct({"points": [Point(2, ("a", "b"))], "model": model})
    assert payloads.from_struct(sent) == {
        "points": [{"x": 2, "tags": ["a", "b"]}],
        "model": {"at": "2026-01-02T00:00:00Z", "point": {"x": 1, "tags": []}},
    }
    assert payloads.to_struct(model) == payloads.to_struct({"at": "2026-01-02T00:00:00Z", "point": Point(1)})


class Odd(enum.Enum):
    RED = "red"
    BYTES = b"x"


def test_enums() -> None:
    """A member of an enum is sent as its value."""
    assert payloads.from_struct(payloads.to_struct({"a": Odd.RED})) == {"a": "red"}


def deep(levels: int) -> dict[str, Any]:
    """Mappings in mappings, so many in all."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        pytest.param({"a": [1, {"b": 2**53 + 1}]}, "payload.a[1].b: is an integer that a double", id="rounded"),
        pytest.param({"a": 10**400}, "payload.a: is an integer that a double", id="beyond doubles"),
        pytest.param({"a": math.nan}, "payload.a: is not a finite number", id="not a number"),
        pytest.param({"a": -math.inf}, "payload.a: is not a finite number", id="infinity"),
        pytest.param({"a": [1e-200] * 10_001}, "payload: has more than 10000 numbers closer to 0", id="tiny numbers"),
        pytest.param({"a": "\ud800"}, "payload.a: has a lone surrogate", id="surrogate"),
        pytest.param({"\ud800": 1}, "payload: has a lone surrogate", id="surrogate in a key"),
        pytest.param({"a": {1: 2}}, "payload.a: has a key that is not a string but int", id="key"),
        pytest.param({"a": b"x"}, "payload.a: is not a JSON value but bytes", id="bytes"),
        pytest.param({"a": Odd.BYTES}, "payload.a: is not a JSON value but bytes", id="enum of what is not JSON"),
        pytest.param({"a": Point}, "payload.a: is not a JSON value but type", id="a class"),
        pytest.param([1], "payload: must be a mapping, a dataclass or a pydantic model, not list", id="list"),
        pytest.param(deep(33), ".a: is nested deeper than 32 levels", id="33 levels"),
        pytest.param(deep(5000), ".a: is nested deeper than 32 levels", id="5000 levels"),
        pytest.param({"a": "x" * structs.BYTES}, f"at most {structs.BYTES} are allowed", id="too large"),
    ],
)
def test_what_can_not_be_sent(payload: Any, told: str) -> None:
    """What a Struct would change or can't hold is refused, with its place and without its value."""
    with pytest.raises(PayloadError) as refused:
        payloads.to_struct(payload)
    assert told in str(refused.value)


def test_as_deep_as_is_allowed() -> None:
    """32 levels are sent, and lists count as levels."""
    assert payloads.from_struct(payloads.to_struct(deep(32))) == deep(32)
    with pytest.raises(PayloadError, match="32 levels"):
        payloads.to_struct({"a": [deep(31)]})


def test_one_that_holds_itself() -> None:
    """A payload that contains itself is refused, not followed for ever."""
    payload: dict[str, Any] = {}
    payload["self"] = payload
    with pytest.raises(PayloadError, match="32 levels"):
        payloads.to_struct(payload)
