"""Filters: what a text means, what of a task it says, and what is no filter."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.filters import FILTERS, LAST, various_tasks, written
from support.samples import NOW, make_task

from openmcp_chain.domain import errors, filters
from openmcp_chain.domain.filters import CHARACTERS, CONDITIONS, DEPTH, EVERYTHING, MILLISECOND, Filter
from openmcp_chain.domain.task import Status

PAGE = (Path(__file__).parents[2] / "docs" / "filters.md").read_text(encoding="utf-8")
TASKS = various_tasks()
TASK = replace(
    make_task(task_type="data_pipeline", priority=2, labels={"team": "search", "a.b": "x y"}), status=Status.FAILED
)
"""Submitted and updated at 2026-01-02T03:04:05.678Z."""


def refusal(text: str) -> str:
    with pytest.raises(errors.InvalidArgument) as refused:
        filters.parse(text)
    (violation,) = refused.value.violations
    assert violation.field == "filter"
    return violation.description


@settings(max_examples=80, deadline=None)
@given(st.data(), FILTERS)
def test_a_filter_is_read_as_it_was_meant(data: st.DataObject, chosen: Filter) -> None:
    """However it is spelled: quotes, white space, signs of negation, more parentheses than needed or just enough."""
    text = data.draw(written(chosen))
    assume(len(text) <= CHARACTERS)
    assert filters.parse(text) == chosen


A, B, C, D = "status = FAILED", "type = x", "priority < 3", "labels:team"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (f"{A} AND {B} OR {C}", f"({A}) AND (({B}) OR ({C}))"),
        (f"{A} OR {B} AND {C}", f"(({A}) OR ({B})) AND ({C})"),
        (f"{A} {B} OR {C} {D}", f"({A}) AND (({B}) OR ({C})) AND ({D})"),
        (f"{A} {B} AND {C} {D}", f"({A}) AND ({B}) AND ({C}) AND ({D})"),
        (f"NOT {A} OR {B}", f"(NOT ({A})) OR ({B})"),
        (f"-{A} {B}", f"(NOT ({A})) AND ({B})"),
        (f"NOT ({A} OR {B})", f"-(({A}) OR ({B}))"),
        ("type != x", "NOT type = x"),
        ("labels.team != x", "-(labels.team = x)"),
        ("labels.team:x", "labels.team = x"),
        ("labels.team:*", "labels:team"),
        ("status = TASK_STATUS_FAILED", "status = FAILED"),
        ("submitted_at<2024-01-01T02:00:00+02:00", 'submitted_at < "2024-01-01T00:00:00.000Z"'),
        (" \t\r\n", ""),
    ],
)
def test_two_ways_to_say_the_same(text: str, meaning: str) -> None:
    """AIP-160's precedence, and its synonyms."""
    assert filters.parse(text) == filters.parse(meaning)


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("status = FAILED", True),
        ("status != FAILED", False),
        ("type = data_pipeline", True),
        ("type = Data_pipeline", False),
        ("priority >= 2 AND priority < 3", True),
        ("priority > 2", False),
        ("submitted_at = 2026-01-02T03:04:05.678Z", True),
        ("updated_at > 2026-01-02T03:04:05.678Z", False),
        ("updated_at <= 2026-01-02T05:04:05.678+02:00", True),
        ("expire_time > 2026-01-02T03:04:05Z", True),
        ("expire_time < 2026-01-02T03:04:05Z", False),
        ("expire_time != 2026-01-02T03:04:05Z", True),
        ("schedule_time > 2026-01-02T03:04:05Z", False),
        ("schedule_time < 9999-01-02T03:04:05Z", False),
        ("schedule_time != 2026-01-02T03:04:05Z", True),
        ("labels.team = search", True),
        ("labels.team != search", False),
        ('labels."a.b" = "x y"', True),
        ('labels."a.b":*', True),
        ("labels:team", True),
        # A task that lacks the label: it is not equal, and each negation is the opposite of what it negates.
        ("labels:owner", False),
        ("NOT labels:owner", True),
        ("labels.owner = x", False),
        ("labels.owner != x", True),
        ("NOT labels.owner = x", True),
        ("NOT labels.owner != x", False),
        ("labels.owner:* AND labels.owner != x", False),
    ],
)
def test_what_a_task_matches(text: str, selected: bool) -> None:
    """Each field and comparator, on a task that has a label and lacks another."""
    assert filters.matches(filters.parse(text), TASK) is selected


SIGNS = {
    "=": lambda one, other: one == other,
    "!=": lambda one, other: one != other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


@settings(deadline=None)
@given(sign=st.sampled_from(list(SIGNS)), away=st.integers(-2_000_000, 2_000_000))
def test_a_time_between_two_milliseconds_is_compared_exactly(sign: str, away: int) -> None:
    """To the nanosecond, though tasks have times to the millisecond; equal to none of them, it is refused with `=`."""
    whole, rest = divmod(away, 1_000_000)
    text = (NOW + whole * MILLISECOND).isoformat(timespec="milliseconds").replace("+00:00", f"{rest:06}Z")
    if rest and sign in ("=", "!="):
        assert refusal(f"submitted_at {sign} {text}") == (
            f"at character {15 + len(sign)}: `{text}` equals no time; tasks have theirs to the millisecond"
        )
    else:
        assert filters.matches(filters.parse(f"submitted_at {sign} {text}"), TASK) is SIGNS[sign](0, away)


def is_missing(at: int, what: str) -> str:
    return f"at character {at}: {what} is missing"


SUCH_AS = ", such as `status = FAILED`"
WILDCARD = r"there are no wildcards; the character itself is written \* in quotes"
ESCAPES = r"""these are: \\ \" \' \*"""
STATUSES = "is not a status; these are: PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED"
FIELDS = (
    "is not a field; these are: "
    "status, type, priority, submitted_at, updated_at, schedule_time, expire_time, labels.<key>"
)
TIME = "is not a time, such as 2024-01-01T00:00:00Z"
KEY = "is not a label's key: 1 to 63 of a-z 0-9 _ . -"


@pytest.mark.parametrize(
    ("text", "description"),
    [
        # values
        ("status = failed", f"at character 10: `failed` {STATUSES}"),
        ("status = TASK_STATUS_UNSPECIFIED", f"at character 10: `TASK_STATUS_UNSPECIFIED` {STATUSES}"),
        ("status=PENDING OR status=1", f"at character 26: `1` {STATUSES}"),
        (f"status = {'x' * 99}", f"at character 10: `{'x' * 32}…` {STATUSES}"),
        ('status = "a\nb\x1b"', rf"at character 10: `a\nb\x1b` {STATUSES}"),
        ("priority = high", "at character 12: `high` is not a whole number, such as 3"),
        ("priority = 3.5", "at character 12: `3.5` is not a whole number, such as 3"),
        ("priority < 9999999999", "at character 12: `9999999999` is not a whole number, such as 3"),
        ("priority = ３", "at character 12: `３` is not a whole number, such as 3"),
        ("updated_at > 2024-01-01", f"at character 14: `2024-01-01` {TIME}"),
        ("updated_at > 2024-01-01T00:00:00", f"at character 14: `2024-01-01T00:00:00` {TIME}"),
        ("updated_at > 2024-02-30T00:00:00Z", f"at character 14: `2024-02-30T00:00:00Z` {TIME}"),
        ("updated_at > 2024-01-01T00:00:00+24:00", f"at character 14: `2024-01-01T00:00:00+24:00` {TIME}"),
        ("updated_at > 0001-01-01T00:00:00+01:00", f"at character 14: `0001-01-01T00:00:00+01:00` {TIME}"),
        # fields
        ("color = red", f"at character 1: `color` {FIELDS}"),
        ("hello", f"at character 1: `hello` {FIELDS}"),
        ("--type = x", f"at character 2: `-type` {FIELDS}"),
        ("labels", "at the end: write labels.<key>, or labels:<key>"),
        ("labels = x", "at character 8: write labels.<key>, or labels:<key>"),
        ("labels. = x", is_missing(8, "a label's key")),
        ('labels."" = x', is_missing(8, "a label's key")),
        ("labels.Team = x", f"at character 8: `Team` {KEY}"),
        ('labels:"a b"', f"at character 8: `a b` {KEY}"),
        (f"labels:{'k' * 64}", f"at character 8: `{'k' * 32}…` {KEY}"),
        ("labels.a.b = x", 'at character 8: a key with a dot is written in quotes, as in labels."a.b"'),
        # comparators
        ("status", "at the end: `status` is compared by one of = !="),
        ("status FAILED", "at character 8: `status` is compared by one of = !="),
        ("status.x = FAILED", "at character 7: `status` is compared by one of = !="),
        ("status:FAILED", "at character 7: `status` is compared by one of = !="),
        ("type < b", "at character 6: `type` is compared by one of = !="),
        ("priority:3", "at character 9: `priority` is compared by one of = != < <= > >="),
        ("labels.team > a", "at character 13: `labels.team` is compared by one of = != :"),
        # what is written as a value
        ("type =", "at the end: a value is missing"),
        ("type == x", is_missing(7, "a value")),
        ("type = (a OR b)", f"{is_missing(8, 'a value')}; for one of several, write `type = a OR type = b`"),
        ("type = NOT", f'{is_missing(8, "a value")}; the word itself is written "NOT"'),
        ('type = "abc', "at character 8: the quote is not closed"),
        (r"type = 'abc\'", "at character 8: the quote is not closed"),
        ("type = data_*", f"at character 13: {WILDCARD}"),
        ('type = "*_pipeline"', f"at character 9: {WILDCARD}"),
        ("type = *", f"at character 8: {WILDCARD}"),
        ("labels:*", f"at character 8: {WILDCARD}"),
        ("labels.team:*x", f"at character 13: {WILDCARD}"),
        (r'type = "a\nb"', rf"at character 10: `\n` is not an escape; {ESCAPES}"),
        # what joins conditions
        ("type=x and type=y", "at character 8: `and` is written AND"),
        ("not type=x", "at character 1: `not` is written NOT"),
        ("type=x OR", f"at the end: a condition is missing{SUCH_AS}"),
        ("AND type=x", f"{is_missing(1, 'a condition')}{SUCH_AS}"),
        ("type=x AND AND type=y", f"{is_missing(12, 'a condition')}{SUCH_AS}"),
        ("NOT NOT type=x", f"{is_missing(5, 'a condition')}{SUCH_AS}"),
        ("type=x, type=y", f"{is_missing(7, 'a condition')} before `,`{SUCH_AS}"),
        ('"type" = x', f'{is_missing(1, "a condition")} before `"`{SUCH_AS}'),
        ("type=x \u00a0", rf"{is_missing(8, 'a condition')} before `\xa0`{SUCH_AS}"),
        ("()", f"{is_missing(2, 'a condition')}{SUCH_AS}"),
        ("(type=x", "at character 1: `(` is not closed"),
        ("type=x) AND (type=y", "at character 7: `)` closes nothing"),
        # limits
        ("x" * 1025, "has 1,025 characters; at most 1,024 are allowed"),
        ("(" * 11 + "type=x" + ")" * 11, "at character 11: one parenthesis too many; at most 10 may be open"),
        ("type=x " * 33, "at character 225: one condition too many; at most 32 are allowed"),
    ],
)
def test_what_is_no_filter(text: str, description: str) -> None:
    """The refusal names the place, and says what would be right there."""
    assert refusal(text) == description


def test_what_is_just_allowed() -> None:
    """The limits themselves are inside."""
    assert filters.parse("(" * DEPTH + "type=x" + ")" * DEPTH) == filters.parse("type=x")
    assert filters.parse(" OR ".join(["type=x"] * CONDITIONS)) == filters.Or((filters.parse("type=x"),) * CONDITIONS)
    assert filters.parse("".ljust(CHARACTERS)) == EVERYTHING
    assert filters.matches(filters.parse("priority > -999999999 AND priority < 999999999"), TASK)


PIECES = st.sampled_from(
    [
        *("status", "labels", "type", "submitted_at", "AND", "OR", "NOT", "-", "(", ")", '"', "'", "\\", ".", ":", "*"),
        *("=", "!=", "<", "!", ",", "x", "FAILED", "2024-01-01T00:00:00Z", " ", " ", "\n", "\0", "\u2028", "é", "😀"),
    ]
)


@settings(max_examples=250, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=1100))
def test_no_text_is_more_than_refused(text: str) -> None:
    """Whatever a client sends, it is a filter, or it is told in one short, printable line why it is none."""
    message = ""
    try:
        filters.parse(text)
    except errors.InvalidArgument as refused:
        message = refused.message
    assert len(message) < 300
    assert message.isprintable()


@pytest.mark.parametrize(
    "piece", ["(", "-", "NOT ", '"', "\\", '"\\', "((((((((((type=x))))))))))", " ", "labels.", "x"]
)
def test_no_text_is_deep(piece: str) -> None:
    """As many as fit of what could nest, or be tried again and again."""
    with pytest.raises(errors.InvalidArgument):
        filters.parse((piece * CHARACTERS)[: CHARACTERS - 1] + ")")


@settings(max_examples=150, deadline=None)
@given(FILTERS)
def test_a_span_holds_all_that_matches(chosen: Filter) -> None:
    """So a listing that looks inside it misses nothing."""
    start, end = filters.span(chosen)
    for task in TASKS:
        if filters.matches(chosen, task):
            assert start is None or start <= task.submitted_at
            assert end is None or task.submitted_at < end


DAY = datetime(2024, 1, 1, tzinfo=UTC)
NEXT_DAY = DAY + timedelta(days=1)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("", None, None),
        ("submitted_at >= 2024-01-01T00:00:00Z", DAY, None),
        ("submitted_at > 2024-01-01T00:00:00Z", DAY + MILLISECOND, None),
        ("submitted_at < 2024-01-01T00:00:00Z", None, DAY),
        ("submitted_at <= 2024-01-01T00:00:00Z", None, DAY + MILLISECOND),
        ("submitted_at = 2024-01-01T00:00:00Z", DAY, DAY + MILLISECOND),
        ("submitted_at >= 2024-01-01T00:00:00Z (status=FAILED submitted_at < 2024-01-02T00:00:00Z)", DAY, NEXT_DAY),
        ("submitted_at > 2023-01-01T00:00:00Z submitted_at >= 2024-01-01T00:00:00Z", DAY, None),
        ("submitted_at < 2024-01-01T00:00:00Z submitted_at <= 2024-01-02T00:00:00Z", None, DAY),
        ("submitted_at >= 2024-01-02T00:00:00Z submitted_at < 2024-01-01T00:00:00Z", NEXT_DAY, DAY),
        ("submitted_at <= 9999-12-31T23:59:59.999Z", None, None),
        ("submitted_at > 9999-12-31T23:59:59.999Z", LAST, None),
        # Not all of these have to hold.
        ("submitted_at >= 2024-01-01T00:00:00Z OR status = FAILED", None, None),
        ("NOT submitted_at >= 2024-01-01T00:00:00Z", None, None),
        ("updated_at >= 2024-01-01T00:00:00Z", None, None),
    ],
)
def test_the_span_of_what_must_hold(text: str, start: datetime | None, end: datetime | None) -> None:
    """From the conditions on `submitted_at` that all tasks have to satisfy, and no others."""
    assert filters.span(filters.parse(text)) == (start, end)


def test_the_page_for_users() -> None:
    """Its filters are filters, its refusal is the refusal, its fields and limits are those of the code."""
    examples, refused = re.findall(r"^```\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len([filters.parse(line) for line in examples.splitlines()]) == 5
    assert refused == f"filter: {refusal('status = failed')}"
    limits = f"{CHARACTERS:,} characters, {CONDITIONS} conditions, and parentheses {DEPTH} deep"
    assert limits in " ".join(PAGE.split())
    fields = re.findall(r"^\| `([\w.<>]+)` \| (.*?) \|", PAGE, re.MULTILINE)
    assert f"these are: {', '.join(name for name, _ in fields)}" in refusal("color = red")
    for name, signs in fields:
        assert signs.replace("`", "") in refusal(name.replace("<key>", "key"))
