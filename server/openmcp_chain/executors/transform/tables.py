"""The names and types of DuckDB's columns, as text in its SQL."""

import re

import duckdb

_TOKEN = re.compile(r'"(?:[^"]|"")*"|\w+')


def columns(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """The columns of a table or table function: name to DuckDB type, in order."""
    return {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE FROM {source}").fetchall()}


def retype(kind: str, changes: dict[str, str]) -> str:
    """A type with some of the names in it replaced, at any depth; the quoted names of its fields stay."""
    return _TOKEN.sub(lambda found: changes.get(found[0], found[0]), kind)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
