"""What a task function gets: plain JSON values as the type that its annotation names."""

import enum
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

import pytest
from pydantic import BaseModel, Field, field_validator

from openmcp_chain.worker import payloads
from openmcp_chain.worker.payloads import Misfit


class Fit(enum.Enum):
    COVER = "cover"
    CONTAIN = "contain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    width: int
    height: int | None = None

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise ValueError("width must be positive")


@dataclass
class Resize:
    uri: str
    size: Size
    fit: Fit = Fit.COVER
    quality: float = 0.8
    mode: Literal["fast", "best", 3] = "fast"
    steps: list[Size] = field(default_factory=list)
    names: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    either: int | str = 0
    more: dict[str, Any] = field(default_factory=dict)
    strict: bool = False
    nothing: None = None
    made: int = field(default=7, init=False)


@dataclass
class Tree:
    name: str
    children: Sequence["Tree"] = ()


LEAST: dict[str, Any] = {"uri": "a", "size": {"width": 1}}


def read(kind: Any, value: Mapping[str, Any]) -> Any:
    return payloads.reader(kind)(value)


def test_dataclasses_are_read_with_all_that_they_hold() -> None:
    """Nested dataclasses, lists, tuples, mappings, choices and alternatives become what the fields say."""
    given = {
        "uri": "s3://a",
        "size": {"width": 3, "height": None},
        "fit": "contain",
        "quality": 1,
        "mode": 3,
        "steps": [{"width": 1}, {"width": 2, "height": 4}],
        "names": ["a", "b"],
        "weights": {"a": 1, "b": 0.5},
        "either": "x",
        "more": {"n": 1, "list": [None]},
        "strict": True,
        "nothing": None,
        "made": 9,
        "unknown": "passed over",
    }
    resize = read(Resize, given)
    assert resize == Resize(
        "s3://a",
        Size(width=3),
        Fit.CONTAIN,
        1.0,
        3,
        [Size(width=1), Size(width=2, height=4)],
        ("a", "b"),
        {"a": 1.0, "b": 0.5},
        "x",
        {"n": 1, "list": [None]},
        strict=True,
    )
    assert isinstance(resize.quality, float)
    assert resize.made == 7


def test_a_dataclass_may_hold_itself() -> None:
    """A type that refers to itself is read to any depth."""
    assert read(Tree, {"name": "a", "children": [{"name": "b", "children": [{"name": "c"}]}]}) == Tree(
        "a", [Tree("b", [Tree("c")])]
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "payload.uri: is needed"),
        ({"uri": 3, "size": {"width": 1}}, "payload.uri: must be a string"),
        ({"uri": "a", "size": []}, "payload.size: must be an object"),
        ({"uri": "a", "size": {}}, "payload.size.width: is needed"),
        ({"uri": "a", "size": {"width": 1.5}}, "payload.size.width: must be a whole number"),
        ({"uri": "a", "size": {"width": True}}, "payload.size.width: must be a whole number"),
        ({"uri": "a", "size": {"width": 1e300}}, "payload.size.width: must be a whole number, of at most 2^53"),
        ({"uri": "a", "size": {"width": 0}}, "payload.size: width must be positive"),
        ({"uri": "a", "size": {"width": 1, "height": "x"}}, "payload.size.height: must be a whole number"),
        (LEAST | {"steps": [{"width": 1}, {"width": None}]}, "payload.steps[1].width: must be a whole number"),
        (LEAST | {"steps": {}}, "payload.steps: must be a list"),
        (LEAST | {"fit": "fill"}, "payload.fit: must be one of cover, contain"),
        (LEAST | {"mode": 4}, "payload.mode: must be one of fast, best, 3"),
        (LEAST | {"names": ["a", None]}, "payload.names[1]: must be a string"),
        (LEAST | {"weights": {"a.b": "x"}}, "payload.weights.a.b: must be a number"),
        (LEAST | {"quality": False}, "payload.quality: must be a number"),
        (LEAST | {"either": None}, "payload.either: must be a whole number, of at most 2^53 either way; or must be a"),
        (LEAST | {"strict": 1}, "payload.strict: must be true or false"),
        (LEAST | {"nothing": 0}, "payload.nothing: must be null"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], told: str) -> None:
    """The first field that does not fit is named by its whole path, with what would."""
    with pytest.raises(Misfit) as caught:
        read(Resize, given)
    assert caught.value.told("payload").startswith(told)


def test_alternatives_may_be_objects() -> None:
    """Of several dataclasses, the one that fits is taken; if none does, each says why."""

    @dataclass
    class Both:
        one: Size | Tree

    assert read(Both, {"one": {"name": "a"}}) == Both(Tree("a"))
    with pytest.raises(Misfit) as caught:
        read(Both, {"one": {}})
    assert caught.value.told("payload") == "payload.one: width: is needed; or name: is needed"


@pytest.mark.parametrize("kind", [Any, object, dict, dict[str, Any], Mapping[str, object], Mapping])
def test_mappings_come_as_they_are(kind: Any) -> None:
    """A function that wants a mapping, or says nothing, gets the JSON values."""
    assert read(kind, {"n": 1, "list": [{"x": None}]}) == {"n": 1, "list": [{"x": None}]}


class Order(BaseModel):
    uri: str
    count: int = Field(gt=0)
    at: datetime | None = None
    lines: list[dict[str, int]] = []

    @field_validator("uri")
    @classmethod
    def _known(cls, uri: str) -> str:
        if uri == "a":
            raise ValueError("a is not known")
        return uri


@dataclass
class Batch:
    orders: list[Order]


def test_pydantic_models_are_read() -> None:
    """A model validates the payload itself; also inside a dataclass."""
    given = {"uri": "b", "count": 2, "at": "2024-01-01T00:00:00Z"}
    order = read(Order, given)
    assert (order.count, order.at.year) == (2, 2024)
    assert read(Batch, {"orders": [given]}).orders == [order]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"uri": "b"}, "payload.count: Field required"),
        ({"uri": "b", "count": 0}, "payload.count: Input should be greater than 0"),
        ({"uri": "b", "count": 1, "lines": [{}, {"a": "S3CRET"}]}, "payload.lines[1].a: Input should be a valid int"),
        ({"uri": "a", "count": 1}, "payload.uri: Value error, a is not known"),
    ],
)
def test_pydantic_faults_are_named(given: dict[str, Any], told: str) -> None:
    """What the model refuses is told by its path, without the value."""
    with pytest.raises(Misfit) as caught:
        read(Order, given)
    assert caught.value.told("payload").startswith(told)
    assert "S3CRET" not in caught.value.told("payload")
    with pytest.raises(Misfit) as nested:
        read(Batch, {"orders": [{"uri": "b", "count": 1}, given]})
    assert nested.value.told("payload").startswith(told.replace("payload", "payload.orders[1]"))


class Pair(NamedTuple):
    a: int


@dataclass
class HasDate:
    when: datetime


@dataclass
class HasKeys:
    of: list[dict[int, str]]


@pytest.mark.parametrize("kind", [int, str, list[int], Fit, uuid.UUID, HasDate, HasKeys, dict[int, str], Pair])
def test_a_type_that_no_payload_can_be_is_found_at_once(kind: Any) -> None:
    """What JSON can't hold is refused when the function is registered, not when a task comes."""
    with pytest.raises(TypeError):
        payloads.reader(kind)


def test_the_field_of_an_impossible_type_is_named() -> None:
    """The refusal tells which field of which class it is."""
    with pytest.raises(TypeError, match=r"HasDate\.when: datetime is not a type that a payload's values can have"):
        payloads.reader(HasDate)
