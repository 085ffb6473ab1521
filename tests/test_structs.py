"""What a Struct must be like: the walk over its bytes finds what a walk over its messages does."""

import math
from collections.abc import Iterator

import pytest
from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmcp_chain import structs

KEYS = st.one_of(st.sampled_from(["", "a", "a.b", "$where", "\0", "x" * 127, "x" * 128, "é" * 70]), st.text(max_size=5))
NUMBERS = st.one_of(
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e-100, -0.9e-100, math.inf, math.nan, 2.0**53 + 2]),
)
LEAVES = st.one_of(
    st.builds(Value, number_value=NUMBERS),
    st.builds(Value, string_value=st.sampled_from(["", "x", "x" * 200, "é"])),
    st.builds(Value, bool_value=st.booleans()),
    st.just(Value(null_value=NullValue.NULL_VALUE)),
    st.sampled_from([Value(), Value(struct_value=Struct()), Value(list_value=ListValue())]),
)


def _struct(fields: dict[str, Value]) -> Value:
    return Value(struct_value=Struct(fields=fields))


def _list(values: list[Value]) -> Value:
    return Value(list_value=ListValue(values=values))


VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(KEYS, inner, max_size=4).map(_struct), st.lists(inner, max_size=40).map(_list)
    ),
    max_leaves=20,
)


def faults(place: str, value: Value) -> Iterator[tuple[str, str]]:
    """Where something is wrong, and how what is said of it begins."""
    kind = value.WhichOneof("kind")
    if kind is None:
        yield place, "has no value"
    elif kind == "number_value" and not math.isfinite(value.number_value):
        yield place, "is not a finite number"
    elif kind == "struct_value":
        for key, inner in value.struct_value.fields.items():
            yield from faults(f"{place}.{key}", inner)
    elif kind == "list_value":
        for index, inner in enumerate(value.list_value.values):
            yield from faults(f"{place}[{index}]", inner)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(fields=st.dictionaries(KEYS, VALUES, max_size=5), deterministic=st.booleans())
def test_a_fault_is_told_with_its_place(fields: dict[str, Value], deterministic: bool) -> None:
    value = _struct(fields)
    wrong = dict(faults("payload", value))
    found = structs.fault("payload", value.struct_value.SerializeToString(deterministic=deterministic))
    if not wrong:
        assert found is None
    else:
        assert found is not None
        assert found.field in wrong
        assert found.description.startswith(wrong[found.field])


def deep(levels: int, inner: Value) -> Struct:
    """Of so many levels, lists and maps in turns, with this in the innermost."""
    value = inner
    for level in range(levels - 1):
        value = _list([value]) if level % 2 else _struct({"k": value})
    return Struct(fields={"a": value})


@pytest.mark.parametrize("inner", [Value(bool_value=True), Value(struct_value=Struct()), Value(list_value=ListValue())])
def test_levels_are_counted(inner: Value) -> None:
    """A container counts, has it anything in it or not."""
    own = int(inner.WhichOneof("kind") != "bool_value")
    assert structs.fault("payload", deep(structs.LEVELS - own, inner).SerializeToString()) is None
    found = structs.fault("payload", deep(structs.LEVELS - own + 1, inner).SerializeToString())
    assert found is not None
    assert (found.field, found.description) == ("payload", f"is nested deeper than {structs.LEVELS} levels")


def test_tiny_numbers_are_counted_over_all_of_it() -> None:
    half = [Value(number_value=1e-200)] * (structs.TINY_NUMBERS // 2)
    struct = Struct(fields={"a": _list(half), "b": _struct({"c": _list(half)})})
    assert structs.fault("payload", struct.SerializeToString()) is None
    struct.fields["d"].number_value = -1e-200
    found = structs.fault("payload", struct.SerializeToString())
    assert found is not None
    assert found.field == "payload"


@pytest.mark.parametrize("size", [structs.BYTES, structs.BYTES + 1])
def test_bytes_are_counted(size: int) -> None:
    struct = Struct(fields={"a": Value(string_value="x" * (size - 20))})
    struct.fields["a"].string_value += "x" * (size - struct.ByteSize())
    found = structs.fault("payload", struct.SerializeToString())
    assert (found is None) is (size == structs.BYTES)
