"""Tasks, filters that tell them apart, and the many ways to write one filter."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st
from support.samples import NOW, make_task

from openmcp_chain.domain.filters import MILLISECOND, And, Comparator, Comparison, Filter, Label, Not, Or
from openmcp_chain.domain.task import Status, Task

TYPES = ("data_pipeline", "AND", "a.b-c")
KEYS = ("team", "a.b", "-1")
VALUES = ("search", "", "x y", "*", "\"'\\", "line\nbreak", "é😀", "a:b,c", "NOT", "$where", "zero\0byte")
TIMES = (datetime(1, 1, 1, tzinfo=UTC), *(NOW + step * MILLISECOND for step in (-1, 0, 1, 60_000)))
LAST = datetime.max.replace(microsecond=999_000, tzinfo=UTC)

_LABELS = (
    {},
    *({"team": value} for value in VALUES),
    {"a.b": "search"},
    {"team": "", "a.b": "x y", "-1": "search"},
    {"-1": "*", "team": "x y"},
)


def various_tasks() -> Sequence[Task]:
    """Sixty tasks: each label with four statuses, each `submitted_at` with each `updated_at`."""
    statuses = list(Status)
    return [
        replace(
            make_task(
                task_id=f"task-{number}",
                task_type=TYPES[number % 3],
                priority=1 + number // 4 % 5,
                labels=_LABELS[number % 15],
            ),
            status=statuses[(number + number // 15) % 5],
            submitted_at=TIMES[1 + number % 4],
            updated_at=TIMES[1 + number // 4 % 4],
            superseded=number % 7 == 0,
            scheduled_for=TIMES[1] if number % 3 == 0 else None,
        )
        for number in range(60)
    ]


_COMPARATORS = st.sampled_from(Comparator)
_EQUAL = st.just(Comparator.EQUAL)
_TIMES = st.sampled_from((*TIMES, LAST))
_CONDITIONS: st.SearchStrategy[Filter] = (
    st.builds(Comparison, st.just("status"), _EQUAL, st.sampled_from(Status))
    | st.builds(Comparison, st.just("type"), _EQUAL, st.sampled_from((*TYPES, "$ne", "")))
    | st.builds(Comparison, st.just("priority"), _COMPARATORS, st.integers(-1, 6) | st.just(999_999_999))
    | st.builds(Comparison, st.sampled_from(("submitted_at", "updated_at")), _COMPARATORS, _TIMES)
    | st.builds(Label, st.sampled_from(KEYS), st.none() | st.sampled_from(VALUES))
)


def _trees(depth: int) -> st.SearchStrategy[Filter]:
    if not depth:
        return _CONDITIONS
    parts = _trees(depth - 1)
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return parts | st.builds(Not, parts) | st.builds(And, several) | st.builds(Or, several)


FILTERS = _trees(3)


@st.composite
def written(draw: st.DrawFn, chosen: Filter) -> str:
    """The filter in one of the ways to write it, with no more parentheses than it needs, or a few."""
    match chosen:
        case Comparison(field, comparator, value):
            return draw(_joined(field, comparator, draw(_value(value))))
        case Label(key, None):
            return draw(st.sampled_from((f"labels.{draw(_key(key))}:*", f"labels:{draw(_key(key))}")))
        case Label(key, value):
            return draw(_joined(f"labels.{draw(_key(key))}", draw(st.sampled_from("=:")), draw(_text(value or ""))))
        case Not(Comparison(field, Comparator.EQUAL, value)) if draw(st.booleans()):
            return draw(_joined(field, "!=", draw(_value(value))))
        case Not(Label(key, str(value))) if draw(st.booleans()):
            return draw(_joined(f"labels.{draw(_key(key))}", "!=", draw(_text(value))))
        case Not(part):
            return draw(st.sampled_from(("NOT ", "-", "NOT\n"))) + draw(
                _part(part, bare=isinstance(part, Comparison | Label))
            )
        case And(parts):
            # Terms of an OR need no parentheses here: it binds tighter.
            texts = [draw(_part(part, bare=not isinstance(part, And))) for part in parts]
            return draw(st.sampled_from((" AND ", " ", "\tAND\r\n"))).join(texts)
        case Or(parts):
            return " OR ".join(draw(_part(part, bare=not isinstance(part, And | Or))) for part in parts)


@st.composite
def _part(draw: st.DrawFn, part: Filter, *, bare: bool) -> str:
    text = draw(written(part))
    return text if bare and draw(st.booleans()) else f"({text})"


@st.composite
def _joined(draw: st.DrawFn, field: str, sign: str, value: str) -> str:
    space = draw(st.sampled_from(("", " ", "  ")))
    return f"{field}{space}{sign}{space}{value}"


@st.composite
def _value(draw: st.DrawFn, value: Status | str | int | datetime) -> str:
    match value:
        case Status():
            return draw(_text(draw(st.sampled_from((value.value, f"TASK_STATUS_{value.value}")))))
        case datetime():
            return draw(_text(draw(_time(value))))
        case _:
            return draw(_text(str(value)))


@st.composite
def _time(draw: st.DrawFn, time: datetime) -> str:
    offset = draw(st.sampled_from((timedelta(), timedelta(hours=2), timedelta(hours=-7, minutes=-30))))
    try:
        zone = f"{'-' if offset < timedelta() else '+'}{abs(offset) // timedelta(minutes=1) // 60:02}:"
        zone += f"{abs(offset) // timedelta(minutes=1) % 60:02}"
        local = (time + offset).replace(tzinfo=None)
    except OverflowError:
        local, zone = time.replace(tzinfo=None), "z"
    return local.isoformat(draw(st.sampled_from("tT")), "milliseconds") + draw(st.sampled_from(("", "000000"))) + zone


def _key(key: str) -> st.SearchStrategy[str]:
    return st.sampled_from((f'"{key}"', f"'{key}'", *([] if "." in key else [key])))


def _text(text: str) -> st.SearchStrategy[str]:
    escaped = text.replace("\\", "\\\\").replace("*", "\\*")
    forms = ['"' + escaped.replace('"', '\\"') + '"', "'" + escaped.replace("'", "\\'") + "'"]
    plain = text not in ("", "AND", "OR", "NOT") and not set(text) & set(" \n\"'*,\\")
    return st.sampled_from([*forms, text] if plain else forms)
