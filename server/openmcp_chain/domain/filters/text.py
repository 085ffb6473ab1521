"""A filter's text becomes a tree. Of AIP-160's grammar there is this.

    filter    = [all]
    all       = any {["AND"] any}         terms side by side mean AND
    any       = term {"OR" term}          OR binds tighter than AND
    term      = ["NOT" | "-"] (condition | "(" all ")")
    condition = field comparator value
              | "labels." key comparator value
              | "labels." key ":*" | "labels:" key

Left out: words without a field, functions, alternatives as a value (`status = (A OR B)`), and wildcards. A `*` in a
value is refused unless escaped, so that wildcards may come one day and no filter changes its meaning.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Never

from openmcp_chain.domain import errors, ids
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.filters.tree import (
    EVERYTHING,
    And,
    Comparator,
    Comparison,
    Filter,
    Label,
    Not,
    Or,
)
from openmcp_chain.domain.task import Status

CHARACTERS = 1024
CONDITIONS = 32
DEPTH = 10
"""How deep parentheses nest. A level is up to six of BSON's, and MongoDB takes 100 of those."""


def parse(text: str) -> Filter:
    """The filter that the text means. Raises InvalidArgument: where the text is wrong, and what would be right."""
    if len(text) > CHARACTERS:
        description = f"has {len(text):,} characters; at most {CHARACTERS:,} are allowed"
        raise errors.InvalidArgument(Violation("filter", description))
    return _Reader(text).filter()


# --- values: what ValueErrors say goes on after the text that is wrong


def _status(text: str) -> Status:
    with suppress(ValueError):
        return Status(text.removeprefix("TASK_STATUS_"))
    raise ValueError(f"is not a status; these are: {', '.join(Status)}")


def _integer(text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise ValueError("is not a whole number, such as 3")
    return int(text)


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def _time(text: str) -> datetime:
    """By RFC 3339. A time between two milliseconds is some microseconds after the first."""
    if match := _TIME.fullmatch(text):
        second, decimals, zone = match.groups("")
        with suppress(ValueError, OverflowError):
            whole = datetime.fromisoformat((second + zone).upper()).astimezone(UTC)
            between = 1 if decimals[3:].strip("0") else 0
            return whole.replace(microsecond=int(decimals[:3].ljust(3, "0")) * 1000 + between)
    raise ValueError("is not a time, such as 2024-01-01T00:00:00Z")


_EQUALITY = ("=", "!=")
_ORDER = ("=", "!=", "<", "<=", ">", ">=")
_FIELDS: Mapping[str, tuple[tuple[str, ...], Callable[[str], Status | str | int | datetime]]] = MappingProxyType(
    {
        "status": (_EQUALITY, _status),
        "type": (_EQUALITY, str),
        "priority": (_ORDER, _integer),
        "submitted_at": (_ORDER, _time),
        "updated_at": (_ORDER, _time),
        "schedule_time": (_ORDER, _time),
        "expire_time": (_ORDER, _time),
    }
)
"""What each may be compared by, and with."""

_DUE: Mapping[str, tuple[Status, ...]] = MappingProxyType(
    {"schedule_time": (Status.PENDING,), "expire_time": tuple(status for status in Status if status.terminal)}
)
"""Times that only tasks with these statuses have."""

_WITHIN = {Comparator.LESS: Comparator.AT_MOST, Comparator.AT_LEAST: Comparator.GREATER}
"""To be before a time between two milliseconds is to be at the first at most; to be after it, after the first."""

# --- the text

_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"""[^\s()"'=<>!:.,]+""")
_BARE = re.compile(r"""[^\s()"'=<>!,]+""")  # a value without quotes may be a time, with colons and dots
_QUOTED = re.compile(r""""((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'""", re.DOTALL)
_SPECIAL = re.compile(r"\\.|\*", re.DOTALL)
_ANY = re.compile(r"\*(?![^\s()])")
_COMPARATOR = re.compile("<=|>=|!=|[=<>:]")
_OPEN, _CLOSE, _MINUS, _DOT = (re.compile(re.escape(mark)) for mark in "()-.")
_KEYWORDS = ("AND", "OR", "NOT")
_WILDCARD = r"there are no wildcards; the character itself is written \* in quotes"


class _Reader:
    """Reads from left to right: each method what it is named after, from where the last one ended."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._conditions = 0

    def filter(self) -> Filter:
        if self._rest() == "":
            return EVERYTHING
        chosen = self._all(0)
        if self._rest():
            self._refuse(self._at, "`)` closes nothing")
        return chosen

    def _all(self, depth: int) -> Filter:
        parts = [self._any(depth)]
        while self._rest() not in ("", ")"):
            self._keyword("AND")
            parts.append(self._any(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _any(self, depth: int) -> Filter:
        parts = [self._term(depth)]
        while self._keyword("OR"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _term(self, depth: int) -> Filter:
        if self._keyword("NOT") or self._take(_MINUS):
            return Not(self._simple(depth))
        return self._simple(depth)

    def _simple(self, depth: int) -> Filter:
        at = self._skip()
        if not self._take(_OPEN):
            return self._condition()
        if depth == DEPTH:
            self._refuse(at, f"one parenthesis too many; at most {DEPTH} may be open")
        chosen = self._all(depth + 1)
        self._skip()
        if not self._take(_CLOSE):
            self._refuse(at, "`(` is not closed")
        return chosen

    def _condition(self) -> Filter:
        at = self._skip()
        name = self._take(_WORD)
        if not name or name in _KEYWORDS:
            here = self._rest()
            found = "" if name or here in ("", ")") else f" before `{_shown(here)}`"
            self._refuse(at, f"a condition is missing{found}, such as `status = FAILED`")
        self._conditions += 1
        if self._conditions > CONDITIONS:
            self._refuse(at, f"one condition too many; at most {CONDITIONS} are allowed")
        if name == "labels":
            return self._label()
        if name.upper() in _KEYWORDS:
            self._refuse(at, f"`{name}` is written {name.upper()}")
        if name not in _FIELDS:
            self._refuse(at, f"`{_shown(name)}` is not a field; these are: {', '.join(_FIELDS)}, labels.<key>")
        comparators, value = _FIELDS[name]
        return self._compared(name, self._comparator(name, comparators), value)

    def _compared(self, field: str, sign: str, value: Callable[[str], Status | str | int | datetime]) -> Filter:
        at = self._skip()
        text = self._value()
        try:
            wanted = value(text)
        except ValueError as error:
            self._refuse(at, f"`{_shown(text)}` {error}")
        comparator = Comparator(sign.removeprefix("!"))
        if isinstance(wanted, datetime) and (between := wanted.microsecond % 1000):
            if comparator is Comparator.EQUAL:
                self._refuse(at, f"`{_shown(text)}` equals no time; tasks have theirs to the millisecond")
            wanted = wanted.replace(microsecond=wanted.microsecond - between)
            comparator = _WITHIN.get(comparator, comparator)
        comparison: Filter = Comparison(field, comparator, wanted)
        if field in _DUE:
            having = Or(tuple(Comparison("status", Comparator.EQUAL, status) for status in _DUE[field]))
            own = "due_at" if field == "expire_time" else field
            comparison = And((having, Comparison(own, comparator, wanted)))
        return Not(comparison) if sign == "!=" else comparison

    def _label(self) -> Filter:
        if not self._take(_DOT):
            self._comparator("labels", (":",), "write labels.<key>, or labels:<key>")
            return Label(self._key(self._skip(), self._value()), None)
        at = self._at
        quoted = _QUOTED.match(self._text, at)
        key = self._key(at, self._value() if quoted else self._take(_WORD))
        if self._take(_DOT):
            self._refuse(at, 'a key with a dot is written in quotes, as in labels."a.b"')
        sign = self._comparator(f"labels.{key}", (*_EQUALITY, ":"))
        self._skip()
        if sign == ":" and self._take(_ANY):
            return Label(key, None)
        label = Label(key, self._value())
        return Not(label) if sign == "!=" else label

    def _key(self, at: int, text: str) -> str:
        if not text:
            self._refuse(at, "a label's key is missing")
        if not ids.is_label_key(text):
            self._refuse(at, f"`{_shown(text)}` is not a label's key: 1 to 63 of a-z 0-9 _ . -")
        return text

    def _comparator(self, subject: str, allowed: tuple[str, ...], hint: str = "") -> str:
        at = self._skip()
        sign = self._take(_COMPARATOR)
        if sign not in allowed:
            self._refuse(at, hint or f"`{subject}` is compared by one of {' '.join(allowed)}")
        return sign

    def _value(self) -> str:
        at = self._skip()
        if match := _QUOTED.match(self._text, at):
            self._at = match.end()
            return _SPECIAL.sub(lambda special: self._unescaped(at + 1, special), match[1] or match[2] or "")
        text = self._take(_BARE)
        if "*" in text:
            self._refuse(at + text.index("*"), _WILDCARD)
        if text in _KEYWORDS:
            self._refuse(at, f'a value is missing; the word itself is written "{text}"')
        if not text:
            here = self._rest()
            hint = "; for one of several, write `type = a OR type = b`" if here == "(" else ""
            self._refuse(at, "the quote is not closed" if here in ("'", '"') else f"a value is missing{hint}")
        return text

    def _unescaped(self, start: int, special: re.Match[str]) -> str:
        at, text = start + special.start(), special[0]
        if text == "*":
            self._refuse(at, _WILDCARD)
        if text[1] not in r"""\"'*""":
            self._refuse(at, f"`{_shown(text)}` is not an escape; " r"""these are: \\ \" \' \*""")
        return text[1]

    def _keyword(self, word: str) -> bool:
        self._skip()
        match = _WORD.match(self._text, self._at)
        if match is None or match[0] != word:
            return False
        self._at = match.end()
        return True

    def _take(self, pattern: re.Pattern[str]) -> str:
        """What is here of the pattern, passed over; empty if nothing is."""
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _skip(self) -> int:
        """Passes over white space; returns where it then is."""
        self._take(_SPACE)
        return self._at

    def _rest(self) -> str:
        """The next character, if there is one."""
        at = self._skip()
        return self._text[at : at + 1]

    def _refuse(self, at: int, description: str) -> Never:
        place = f"at character {at + 1}" if at < len(self._text) else "at the end"
        raise errors.InvalidArgument(Violation("filter", f"{place}: {description}"))


def _shown(text: str) -> str:
    """A part of a filter, fit for a message: short, and on one line."""
    short = text if len(text) <= 32 else f"{text[:32]}…"
    return short if short.isprintable() else short.encode("unicode_escape").decode()
