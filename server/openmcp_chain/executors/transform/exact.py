"""Whether the integers of a JSON input survive: exactly, as documented, up to 64 bits.

DuckDB makes one type of all that a field holds in all records, and of integers beside fractions it makes DOUBLE, at any
depth. Such a column holds no integer past 2^53 that is odd, for instance. So where `strict_json` has seen one that no
double holds, each value is looked at again beside the type that it got.
"""

import json
from typing import TypeAlias

import duckdb
from duckdb.sqltypes import DuckDBPyType

from openmcp_chain.executors.transform import strict_json
from openmcp_chain.executors.transform.job import INPUT
from openmcp_chain.executors.transform.tables import quoted

_SUSPECT = r"(^|[^0-9.])[0-9]{16,20}([^0-9.eE]|$)"
"""What is in a row's text if it has such an integer."""
_AT_ONCE = 1000
"""Rows."""
_DOUBLE = "double"
_Doubles: TypeAlias = "str | list[_Doubles] | dict[str, _Doubles]"
"""Where doubles are: here (`_DOUBLE`), in each item of a list, or in some fields of an object."""


class Fault(Exception):
    """Which integer would change."""


def check(connection: duckdb.DuckDBPyConnection, source: str) -> None:
    """Compares the table `input` with what it was read from: `source`, with the same columns, but all as JSON.

    Raises:
        Fault: An integer has become another number.
    """
    table = connection.table(INPUT)
    found = ((name, _doubles(kind)) for name, kind in zip(table.columns, table.types, strict=True))
    doubles = {name: inside for name, inside in found if inside}
    if not doubles:
        return
    listed = ", ".join(map(quoted, doubles))
    # No name of ours stands beside the columns: a field may have any, and would be taken in its place.
    rows = connection.execute(
        f"SELECT number, text FROM (SELECT row_number() OVER () AS number, to_json([{listed}])::VARCHAR AS text "
        f"FROM {source}) WHERE regexp_matches(text, '{_SUSPECT}')"
    )
    while some := rows.fetchmany(_AT_ONCE):
        for number, text in some:
            field = _rounded(dict(zip(doubles, json.loads(text), strict=True)), doubles)
            if field is not None:
                raise Fault(
                    f"record {number}, field `{field[1:]}`: an integer past 2^53 among numbers that can "
                    "only be doubles together, and no double is this one"
                )


def _doubles(kind: DuckDBPyType | int | list[str]) -> "_Doubles | None":
    """Where in values of this type doubles are; None: nowhere."""
    if not isinstance(kind, DuckDBPyType):
        return None
    if kind.id == "double":
        return _DOUBLE
    if kind.id not in ("struct", "list"):
        return None
    found = ((name, _doubles(inner)) for name, inner in kind.children)
    fields = {name: inside for name, inside in found if inside}
    return [*fields.values()] if kind.id == "list" else fields


def _rounded(value: object, doubles: _Doubles) -> str | None:
    """The path, in the value, of an integer that changes; None if there is none."""
    match doubles, value:
        case str(), int(integer):
            return "" if strict_json.rounds(integer) else None
        case [inside], list(items):
            for item in items:
                if (path := _rounded(item, inside)) is not None:
                    return f"[]{path}"
        case dict(fields), dict(values):
            for name, inside in fields.items():
                if (path := _rounded(values.get(name), inside)) is not None:
                    return f".{name}{path}"
    return None
