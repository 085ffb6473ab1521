"""The names and types of DuckDB's columns, as text in its SQL."""

from collections.abc import Mapping

import duckdb
from duckdb.sqltypes import DuckDBPyType


def columns(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, DuckDBPyType]:
    """The columns of a table or table function: name to type, in order."""
    found = connection.sql(f"FROM {source}")
    return dict(zip(found.columns, found.types, strict=True))


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
