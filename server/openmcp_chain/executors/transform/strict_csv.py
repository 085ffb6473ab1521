"""Whether a file is CSV as RFC 4180 has it, so that no field changes on the way in.

DuckDB's reader, as strict as it can be told to be, drops what stands around quotes (`1, "x"`), takes a quote in the
middle of a field, and skips blank lines. So every row is matched first, by one expression that says what a row is. Two
things are taken beside the letter of the RFC: rows may end in LF or CR instead of CRLF, if all end in the same; and
there may be any UTF-8 in a field.
"""

import codecs
import pathlib
import re
from typing import BinaryIO, Never

from openmcp_chain.executors.transform.strict_json import place

LARGEST = 2_000_000
"""Bytes of one row: DuckDB's own default."""
_CHUNK = 1 << 20
_FIELD = rb'(?:"[^"]*+(?:""[^"]*+)*+"|[^",\r\n]*+)'
_ROW = re.compile(rb"%b(?:,%b)*+" % (_FIELD, _FIELD))
_ONE = re.compile(_FIELD)
_ENDING = re.compile(rb"\r\n|\n|\r")
_NAMES = {b"\n": "LF", b"\r\n": "CRLF", b"\r": "CR"}


class Fault(Exception):
    """What is wrong, and in which line."""


def check(path: pathlib.Path) -> list[str]:
    """Reads it all, a window at a time. Returns the fields of the first row.

    Raises:
        Fault: It is not as it should be.
    """
    with path.open("rb") as file:
        return _Reader(file, path).run()


class _Reader:
    def __init__(self, file: BinaryIO, path: pathlib.Path) -> None:
        self._file = file
        self._path = path
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._fed = 0
        """Bytes that the decoder has got."""
        self._data = b""
        """The window: from the row that is being read on."""
        self._ended = False
        self._line = 1
        """The number of the window's first line."""
        self._ending = b""
        """What the first row ends in, once it has been read."""
        self._fields = 0
        """How many it has."""

    def run(self) -> list[str]:
        names = self._header()
        row = rb"%b(?:,%b){%d}%b" % (_FIELD, _FIELD, self._fields - 1, self._ending)
        rows = re.compile(rb"(?:%b)*+" % (row + rb"(?!\n)" if self._ending == b"\r" else row))
        while True:
            if len(self._data) > LARGEST and len(_matched(_ROW, self._data)) > LARGEST:
                self._fault(0, f"has more than {LARGEST} bytes")
            taken = len(_matched(rows, self._data))
            self._take(taken)
            if self._data and (self._ended or not taken):
                self._explain()
            if self._ended:
                return names
            self._read_on()

    def _header(self) -> list[str]:
        self._read_on()
        while True:
            row = _matched(_ROW, self._data)
            ending = _ENDING.match(self._data, len(row))
            if ending and (ending.end() < len(self._data) or self._ended):
                break
            self._explain()
            self._read_on()
        if len(row) > LARGEST:
            self._fault(0, f"has more than {LARGEST} bytes")
        self._ending = ending[0]
        self._take(ending.end())
        fields = _split(row)
        self._fields = len(fields)
        return [_plain(field).decode() for field in fields]

    def _read_on(self) -> None:
        data = self._file.read(_CHUNK)
        self._ended = not data
        try:
            self._utf8.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            line, _ = place(self._path, self._fed - (len(error.object) - len(data)) + error.start)
            raise Fault(f"line {line}: not UTF-8") from None
        self._fed += len(data)
        self._data += data
        if self._ended and self._data and self._data[-1:] not in b"\r\n":  # the last row may go without
            self._data += self._ending or b"\n"

    def _take(self, size: int) -> None:
        self._line += _lines(self._data[:size])
        self._data = self._data[size:]

    def _explain(self) -> None:
        """Says what is wrong with the first row of the window, unless the row may go on in what is not read yet."""
        at = len(_matched(_ROW, self._data))
        ending = _ENDING.match(self._data, at)
        opens = self._data[at : at + 1] == b'"'
        cut = at == len(self._data) or (ending and ending.end() == len(self._data))
        if (cut or (opens and self._begins(at))) and not self._ended:
            if len(self._data) > LARGEST:
                self._fault(0, f"a row has more than {LARGEST} bytes, or a quoted field does not end")
        elif ending and ending[0] != self._ending:
            self._fault(at, f"ends in {_NAMES[ending[0]]}, and line 1 in {_NAMES[self._ending]}")
        elif ending:
            found = len(_split(self._data[:at]))
            self._fault(0, f"has {found} fields where the header has {self._fields}")
        elif opens and self._begins(at):
            self._fault(at, "a quoted field does not end as it should")
        elif opens:
            self._fault(at, "a quote inside a field that does not begin with one")
        else:
            self._fault(at, "something between the end of a quoted field and the next comma")

    def _begins(self, at: int) -> bool:
        """Whether a field begins here."""
        return at == 0 or self._data[at - 1 : at] == b","

    def _fault(self, at: int, what: str) -> Never:
        raise Fault(f"line {self._line + _lines(self._data[:at])}: {what}")


def _matched(pattern: re.Pattern[bytes], data: bytes) -> bytes:
    """What a pattern that can match nothing matches at the beginning."""
    found = pattern.match(data)
    return found[0] if found else b""


def _split(row: bytes) -> list[bytes]:
    """The fields of a row, as they are written."""
    fields = [_matched(_ONE, row)]
    at = len(fields[0])
    while at < len(row):  # at a comma
        field = _ONE.match(row, at + 1)
        fields.append(field[0] if field else b"")
        at += 1 + len(fields[-1])
    return fields


def _plain(field: bytes) -> bytes:
    return field[1:-1].replace(b'""', b'"') if field.startswith(b'"') else field


def _lines(data: bytes) -> int:
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
