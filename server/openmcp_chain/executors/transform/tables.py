"""The names and types of DuckDB's columns, and how its SQL spells them."""

import json
from collections.abc import Iterable, Mapping

import duckdb
from duckdb.sqltypes import DuckDBPyType


def columns(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, DuckDBPyType]:
    """The columns of a table or table function: name to type, in order."""
    found = connection.sql(f"FROM {source}")
    return dict(zip(found.columns, found.types, strict=True))


def folded(name: str) -> bytes:
    """What a name is to DuckDB, which tells no two columns apart by the case of a letter (of ASCII)."""
    return name.encode().lower()


def clash(names: Iterable[str]) -> str | None:
    """Says which name is another's too, since DuckDB would give it a third one, which may be another's; or None."""
    there: dict[bytes, str] = {}
    for name in names:
        other = there.get(folded(name))
        if other is not None:
            written = json.dumps(name)
            return f"{written} twice" if name == other else f"{written}, which only case tells from {json.dumps(other)}"
        there[folded(name)] = name
    return None


def spelled(kind: DuckDBPyType, changes: Mapping[str, str]) -> str:
    """The type with some of the types in it replaced, at any depth. A field's name is none of them, whatever it is."""
    parts = dict(kind.children) if kind.id in ("struct", "list", "array", "map", "union") else {}
    inner = {name: spelled(part, changes) for name, part in parts.items() if isinstance(part, DuckDBPyType)}
    match kind.id:
        case "struct":
            return f"STRUCT({', '.join(f'{quoted(name)} {part}' for name, part in inner.items())})"
        case "list":
            return f"{inner['child']}[]"
        case "array":
            return f"{inner['child']}[{parts['size']}]"
        case "map":
            return f"MAP({inner['key']}, {inner['value']})"
        case "union":
            # The first is the tag.
            return f"UNION({', '.join(f'{quoted(name)} {part}' for name, part in inner.items() if name)})"
        case _:
            return changes.get(str(kind), str(kind))


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
