"""A filter as a tree, and what it says of a task.

Every condition is either true or false of every task, and `!=` is the negation of `=`: a task that has no label `team`
matches `labels.team != "search"`. So what a filter means does not hang on how its negations are spelled.
"""

import enum
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeAlias

from openmcp_chain.domain.task import Status, Task

MILLISECOND = timedelta(milliseconds=1)
"""Tasks have no finer times, nor have filters."""

_LAST = datetime.max.replace(microsecond=999_000, tzinfo=UTC)


class Comparator(enum.StrEnum):
    """How a task's value stands to the filter's. `!=` is `Not` of EQUAL."""

    EQUAL = "="
    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="


@dataclass(frozen=True, slots=True)
class Comparison:
    """A condition on a field that every task has."""

    field: str
    """Its name, the same in `Task` as in the contract: `status`, `type`, `priority`, `submitted_at`, `updated_at`,
    `schedule_time` of a PENDING one. And `due_at`, the contract's `expire_time` of one that has ended; `superseded`,
    which the contract has not, for EQUAL to True alone: a store need not keep that it is false."""
    comparator: Comparator
    value: Status | str | int | datetime
    """Of the field's own type. Times are UTC, to the millisecond; numbers fit in 32 bits."""


@dataclass(frozen=True, slots=True)
class Label:
    """The task has the label: with this value, or with any if it is None."""

    key: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Not:
    part: "Filter"


@dataclass(frozen=True, slots=True)
class And:
    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    parts: "tuple[Filter, ...]"
    """One at least."""


Filter: TypeAlias = Comparison | Label | Not | And | Or

EVERYTHING = And(())
"""What every task matches: the filter that is left empty."""

_HOLDS: Mapping[Comparator, Callable[[Any, Any], bool]] = MappingProxyType(
    {
        Comparator.EQUAL: operator.eq,
        Comparator.LESS: operator.lt,
        Comparator.AT_MOST: operator.le,
        Comparator.GREATER: operator.gt,
        Comparator.AT_LEAST: operator.ge,
    }
)


def matches(chosen: Filter, task: Task) -> bool:
    """Whether the filter selects the task."""
    match chosen:
        case Comparison(field, comparator, value):
            return _HOLDS[comparator](getattr(task, field), value)
        case Label(key, None):
            return key in task.labels
        case Label(key, value):
            return task.labels.get(key) == value
        case Not(part):
            return not matches(part, task)
        case And(parts):
            return all(matches(part, task) for part in parts)
        case Or(parts):
            return any(matches(part, task) for part in parts)


def span(chosen: Filter) -> tuple[datetime | None, datetime | None]:
    """Bounds on the `submitted_at` of the tasks that the filter selects: from (inclusive), to (exclusive).

    None is no bound. They follow from the conditions that must all hold, and may be wider than need be: a task inside
    them need not match. If `from` is not before `to`, no task matches.
    """
    match chosen:
        case Comparison("submitted_at", comparator, datetime() as time):
            after = time + MILLISECOND if time < _LAST else None
            match comparator:
                case Comparator.EQUAL:
                    return time, after
                case Comparator.LESS:
                    return None, time
                case Comparator.AT_MOST:
                    return None, after
                case Comparator.GREATER:
                    return after or time, None
                case Comparator.AT_LEAST:
                    return time, None
        case And(parts):
            spans = [span(part) for part in parts]
            return (
                max((start for start, _ in spans if start), default=None),
                min((end for _, end in spans if end), default=None),
            )
    return None, None
