"""What a tenant's SQL may be: one SELECT, over `input` and what it makes itself.

DuckDB's own locks (`query._lock`) are what keeps SQL from files and network. This check is for what they leave open:
the settings, which name the worker's folders, and table functions that take addresses in memory (`arrow_scan`). It
works on DuckDB's parse tree, so it sees what DuckDB sees.
"""

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform.job import INPUT

TABLE_FUNCTIONS = frozenset({"generate_series", "json_each", "json_tree", "range", "repeat", "unnest"})
"""Those that SQL may call in FROM: they make rows of their arguments alone."""
_REFUSED_FUNCTIONS = frozenset({"current_setting", "getenv", "write_log"})


def check(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Returns the SELECT, without what may follow it: semicolons and comments.

    Raises:
        Refused: SQL_INVALID, saying what it may not do.
        duckdb.Error: It can't be parsed.
    """
    statements = connection.extract_statements(sql)
    if not statements:
        raise Refused(Code.SQL_INVALID, "must be one SELECT statement; it is empty")
    if len(statements) > 1:
        raise Refused(Code.SQL_INVALID, f"must be one SELECT statement; it is {len(statements)} statements")
    ((serialized,),) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    try:
        tree = json.loads(serialized)
    except RecursionError:
        raise Refused(Code.SQL_INVALID, "is nested too deep") from None
    if statements[0].type != duckdb.StatementType.SELECT or tree["error"]:
        raise Refused(Code.SQL_INVALID, f"must be one SELECT statement; it is of the kind {statements[0].type.name}")
    _check_tree(connection, tree["statements"])
    return _without_end(sql)


def _check_tree(connection: duckdb.DuckDBPyConnection, tree: list[Any]) -> None:
    nodes = list(_walk(tree))
    named = {entry["key"].lower() for node in nodes if "cte_map" in node for entry in node["cte_map"]["map"]}
    # A CTE hides a built-in view only within its scope. So it may not have the name of one.
    built_in = {name for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
    tables = ({INPUT} | named) - built_in
    for node in nodes:
        match node:
            case {"type": "BASE_TABLE", "table_name": name, "schema_name": schema}:
                if schema:
                    raise Refused(Code.SQL_INVALID, f"`{schema}.{name}`: write a table's name without a schema")
                if name.lower() not in tables:
                    raise Refused(Code.SQL_INVALID, f"there is no table `{name}`; the only one is `{INPUT}`")
            case {"type": "TABLE_FUNCTION", "function": {"function_name": name}}:
                if name.lower() not in TABLE_FUNCTIONS:
                    raise Refused(Code.SQL_INVALID, f"`{name}` may not be called in FROM: {_offer()}")
            case {"type": "SHOW_REF", "table_name": name} if name:
                raise Refused(Code.SQL_INVALID, f"SHOW is not allowed; `DESCRIBE {INPUT}` is")
            case {"class": "FUNCTION", "function_name": name} if name.lower() in _REFUSED_FUNCTIONS:
                raise Refused(Code.SQL_INVALID, f"the function `{name}` is not allowed")
            case {"type": "INSERT_QUERY_NODE" | "UPDATE_QUERY_NODE" | "DELETE_QUERY_NODE" | "MERGE_QUERY_NODE"}:
                raise Refused(Code.SQL_INVALID, "must not change anything")


def _offer() -> str:
    return f"only {', '.join(sorted(TABLE_FUNCTIONS))} may"


def _walk(tree: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any JSON value
    """Every object in it. Without recursion: the tree may be deep."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _without_end(sql: str) -> str:
    """DuckDB counts tokens in bytes, and takes no semicolon in what becomes part of another statement."""
    text = sql.encode()
    end = len(text)
    for offset, kind in reversed(duckdb.tokenize(sql)):
        if kind != duckdb.token_type.comment and text[offset : offset + 1] != b";":
            break
        end = offset
    return text[:end].decode()
