"""Whether a file is JSON as RFC 8259 has it, and rows at that: an array of objects, or objects one after the other.

DuckDB's parser takes more than that (`nan`, `-inf`, `[1,]`, a key twice in a nested object, `null` for a row), and then
values arrive that nobody wrote. So each record goes through the standard library's parser first, which takes nothing
more but `NaN`, `Infinity`, half surrogate pairs and doubled keys; those are looked for here. It reads a window at a
time, and keeps nothing of a record but its fields' names: the memory goes with the largest record, not the file.

The parser does not tell the place of what its hooks dislike. `_walk` finds it, token by token, for a record that is
known to be bad: it is far too slow for the others.
"""

import codecs
import enum
import json
import math
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Never

from openmcp_chain.executors.transform.tables import folded

DEEPEST = 128
"""Levels of nesting in a record, itself among them: DuckDB's limit."""
LARGEST = 16 << 20
"""Bytes of one record: DuckDB's own default; it reserves a multiple of it for each thread."""
_INTEGERS = range(-(1 << 63), 1 << 64)
_LONG = range(len(str(1 << 53)), len(str(_INTEGERS.start)) + 1)
"""Characters of the integers among them that are past 2^53."""
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*+")
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]]|[-+.\w]++')
_WORD = re.compile(r"-?(nan|inf(inity)?)\b", re.IGNORECASE)
_KEY = re.compile(r"[ \t\n\r]*+:")
_PAIRED = re.compile(r"[^\\]*+(?:\\(?:u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|u(?![dD][89a-fA-F])|[^u])[^\\]*+)*+")
"""A text whose escaped surrogates come in pairs: what it matches ends before one that is alone."""


class Fault(Exception):
    """What is wrong, and where."""

    def __init__(self, what: str, place: str, record: int) -> None:
        super().__init__(f"{place}: {what}")
        self.what = what
        self.record = record
        """Counted from 1."""


class Layout(enum.StrEnum):
    """How the records lie in the file, by DuckDB's names for it."""

    ARRAY = "array"
    UNSTRUCTURED = "unstructured"


@dataclass(frozen=True, slots=True)
class Found:
    """What is in the file."""

    layout: Layout
    records: int
    fields: bool
    """Whether any record has one."""
    rounds: bool
    """Whether any integer `rounds`; not looked for without `doubles`."""


class _Bad(Exception):
    """A hook dislikes something in the record."""


def check(path: pathlib.Path, *, largest: int | None = LARGEST, doubles: bool = False, walk: bool = False) -> Found:
    """Reads it all.

    Args:
        path: The file, without a byte order mark.
        largest: How many bytes a record may have.
        doubles: Whether a number has to be one that a double can come near, since that is what it will become.
        walk: Whether to look through all records for nesting past `DEEPEST` too. Slow.

    Raises:
        Fault: It is not as it should be.
    """
    with path.open("rb") as file:
        return _Reader(file, path, largest=largest or sys.maxsize, doubles=doubles, walk=walk).run()


class _Reader:
    def __init__(self, file: BinaryIO, path: pathlib.Path, *, largest: int, doubles: bool, walk: bool) -> None:
        self._file = file
        self._path = path
        self._largest = largest
        self._doubles = doubles
        self._walks = walk
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._fed = 0
        """Bytes that the decoder has got."""
        self._text = ""
        """The window: from the record that is being read on."""
        self._at = 0
        self._ended = False
        self._lines = 0
        """Line ends before the window."""
        self._columns = 0
        """Characters before the window, in its first line."""
        self._records = 0
        self._names: set[str] = set()
        """Of all fields."""
        self._folded: dict[bytes, str] = {}
        """The same by what they are to DuckDB."""
        self._rounds = False
        self._parse = json.JSONDecoder(
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_double if doubles else _number,
            parse_int=self._integer if doubles else _number,
        ).raw_decode

    def run(self) -> Found:
        array = self._next() == "["
        self._at += array
        while first := self._next():
            if array and first == "]" and not self._records:
                break
            self._record(first)
            if not array:
                continue
            if (end := self._next()) == "]":
                break
            if end != ",":
                self._fault(self._at, "Expecting ',' or ']'")
            self._at += 1
            if not self._next():
                self._fault(self._at, "Expecting value")
        else:
            if array:
                self._fault(self._at, "Expecting ']'")
        if array:
            self._at += 1
            if self._next():
                self._fault(self._at, "something follows the array")
        return Found(Layout.ARRAY if array else Layout.UNSTRUCTURED, self._records, bool(self._names), self._rounds)

    def _record(self, first: str) -> None:
        self._records += 1
        if first != "{" and (called := _called(first)):
            self._fault(self._at, f"is {called}; each record must be an object")
        while True:
            start = self._at
            try:
                fields, end = self._parse(self._text, start)
                break
            except json.JSONDecodeError as error:
                if len(self._text) - start > self._largest:
                    self._fault(start, f"has more than {self._largest} bytes, or does not end")
                if not self._fill():
                    at = self._at + error.pos - start  # the window begins elsewhere now
                    word = _WORD.match(self._text, at)
                    self._fault(at, f"JSON has no {word[0]}" if word else error.msg)
            except (_Bad, RecursionError):
                self._walk(start)
        # A character has up to four bytes.
        if (end - start) * 4 > self._largest < len(self._text[start:end].encode()):
            self._fault(start, f"has more than {self._largest} bytes")
        paired = _PAIRED.match(self._text, start, end)
        if self._walks or "" in fields or not paired or paired.end() < end:
            self._walk(start)
        if not fields.keys() <= self._names:
            self._learn(start, fields)
        self._at = end

    def _learn(self, start: int, fields: Iterable[str]) -> None:
        for name in fields:
            other = self._folded.setdefault(folded(name), name)
            if other != name:
                self._fault(start, f"has a field {json.dumps(name)}, which only case tells from {json.dumps(other)}")
        self._names.update(fields)

    def _integer(self, text: str) -> None:
        _double(text)
        if len(text) in _LONG:
            self._rounds |= rounds(int(text))

    def _next(self) -> str:
        """Goes to the next character that is no white space, and returns it; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def _fill(self) -> bool:
        """Drops what is behind and reads on, twice as far each time that a record needs more. False at the end."""
        if self._ended:
            return False
        behind, self._text = self._text[: self._at], self._text[self._at :]
        self._lines, self._columns = self._place(behind)
        self._at = 0
        data = self._file.read(max(_CHUNK, len(self._text)))
        self._ended = not data
        try:
            self._text += self._utf8.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            line, byte = place(self._path, self._fed - (len(error.object) - len(data)) + error.start)
            raise Fault("not UTF-8", f"line {line}, byte {byte}", self._records) from None
        self._fed += len(data)
        return not self._ended

    def _place(self, before: str) -> tuple[int, int]:
        """Line ends, and characters in the last line, up to the end of `before`, with which the window begins."""
        lines = before.count("\n")
        since = len(before) - before.rfind("\n") - 1 if lines else self._columns + len(before)
        return self._lines + lines, since

    def _fault(self, at: int, what: str) -> Never:
        line, column = self._place(self._text[:at])
        record = f"record {self._records}, " if self._records else ""
        raise Fault(what, f"{record}line {line + 1}, column {column + 1}", self._records)

    def _walk(self, start: int) -> None:
        """Finds the place of what is wrong in a record that is JSON up to there, if anything is."""
        inside: list[set[str] | None] = []
        for token in _TOKEN.finditer(self._text, start):
            at, text = token.start(), token[0]
            if text in ("{", "["):
                inside.append(set() if text == "{" else None)
                if len(inside) > DEEPEST:
                    self._fault(at, f"nested past {DEEPEST} levels")
            elif text in ("}", "]"):
                inside.pop()
                if not inside:
                    return
            elif text[0] == '"':
                self._walk_string(at, text, inside, key=_KEY.match(self._text, token.end()) is not None)
            elif text in ("NaN", "Infinity", "-Infinity"):
                self._fault(at, f"JSON has no {text}")
            elif self._doubles and text[-1].isdigit() and math.isinf(float(text)):
                self._fault(at, "a number past the largest double")

    def _walk_string(self, at: int, text: str, inside: Sequence[set[str] | None], *, key: bool) -> None:
        paired = _PAIRED.match(text)
        if paired and paired.end() < len(text):
            self._fault(at + paired.end(), "half a surrogate pair")
        keys = inside[-1]
        if not key or keys is None:
            return
        name = json.loads(text)
        if name in keys:
            self._fault(at, f"the key {text} is twice in one object")
        if not name and len(inside) == 1:
            self._fault(at, "a field without a name")
        keys.add(name)


def _object(pairs: list[tuple[str, object]]) -> dict[str, None]:
    """What is kept of an object: the names of its fields."""
    names = dict.fromkeys(name for name, _ in pairs)
    if len(names) != len(pairs):
        raise _Bad
    return names


def _constant(_: str) -> Never:
    raise _Bad


def _number(_: str) -> None:
    """Nothing is kept of a number."""


def _double(text: str) -> None:
    if math.isinf(float(text)):
        raise _Bad


def rounds(integer: int) -> bool:
    """Whether this integer of up to 64 bits is none that a double can be. Larger ones need not survive."""
    return integer in _INTEGERS and int(float(integer)) != integer


def _called(first: str) -> str | None:
    """JSON's word for a value that begins so; None if it is no value."""
    words = {'"': "a string", "[": "an array", "t": "a boolean", "f": "a boolean", "n": "null", "-": "a number"}
    return "a number" if first in "0123456789" else words.get(first)


def place(path: pathlib.Path, offset: int) -> tuple[int, int]:
    """The line of a byte of the file, and its number in the line, both counted from 1."""
    lines, begin, done = 1, 0, 0
    with path.open("rb") as file:
        while done < offset and (data := file.read(min(_CHUNK, offset - done))):
            lines += data.count(b"\n")
            if b"\n" in data:
                begin = done + data.rfind(b"\n") + 1
            done += len(data)
    return lines, offset - begin + 1
