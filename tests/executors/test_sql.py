"""What SQL a task may have, and what becomes of other."""

import json
import pathlib

import duckdb
import pytest
from support.transforms import Transform, refusal

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform import guard
from openmcp_chain.executors.transform.job import encode_reply


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM input;",
        "SELECT a FROM input; -- done;",
        "SELECT a /* ; */ FROM input ;;",
        "WITH x AS (SELECT a FROM input) SELECT * FROM X",
        "FROM input",
        "SELECT unnest([1]) AS a FROM input",
        "SELECT range AS a FROM range(1, 2)",
        "SELECT value::INT AS a FROM json_each('[1]')",
        "(SELECT 1 AS a) UNION (SELECT a FROM input)",
    ],
)
def test_sql_that_is_one_select(transform: Transform, sql: str) -> None:
    """Comments and semicolons at the end, CTEs, FROM-first, and functions that make rows are all fine."""
    assert json.loads(transform('[{"a":1}]', sql=sql)[1]) == [{"a": 1}]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("", "is empty"),
        ("-- nothing", "is empty"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELECT 1) TO '/dev/null' --", "syntax error"),
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM input", "nope"),
        ("SELECT a FROM other", "there is no table `other`"),
        ("SELECT * FROM main.input", "without a schema"),
        ("SELECT a::DATE FROM input", "cast"),
        ("SELECT 'x'::INT FROM input", "Could not convert"),
        ("SELECT $1", "parameter"),
        ("COPY input TO 'stolen.csv'", "of the kind COPY"),
        ("ATTACH 'stolen.db'", "of the kind ATTACH"),
        ("INSTALL httpfs", "of the kind LOAD"),
        ("LOAD httpfs", "of the kind LOAD"),
        ("PRAGMA database_list", "of the kind"),
        ("SET enable_external_access = true", "of the kind"),
        ("CREATE TABLE t AS SELECT 1", "of the kind CREATE"),
        ("INSERT INTO input VALUES (2)", "of the kind INSERT"),
        ("DROP TABLE input", "of the kind DROP"),
        ("EXPORT DATABASE 'stolen'", "of the kind EXPORT"),
        ("WITH x AS (INSERT INTO input VALUES (2) RETURNING *) SELECT * FROM x", "must not change anything"),
        ("SELECT * FROM read_csv('/etc/passwd')", "`read_csv` may not be called"),
        ("SELECT * FROM read_text('/etc/passwd')", "`read_text` may not be called"),
        ("SELECT * FROM '/etc/passwd'", "there is no table"),
        ("SELECT (SELECT content FROM read_text('/etc/passwd'))", "`read_text` may not be called"),
        ("SELECT * FROM glob('/*')", "`glob` may not be called"),
        ("SELECT * FROM sniff_csv('/etc/passwd')", "`sniff_csv` may not be called"),
        ("SELECT * FROM read_json('https://example.com/')", "`read_json` may not be called"),
        ("SELECT * FROM query('SELECT 1')", "`query` may not be called"),
        ("SELECT * FROM arrow_scan(1, 2, 3)", "`arrow_scan` may not be called"),
        ("SELECT * FROM duckdb_settings()", "`duckdb_settings` may not be called"),
        ("WITH pg_settings AS (FROM pg_settings) FROM pg_settings", "there is no table `pg_settings`"),
        ("SELECT current_setting('temp_directory')", "`current_setting` is not allowed"),
        ("SELECT list_transform([1], lambda x: current_setting('temp_directory'))", "`current_setting` is not allowed"),
        ("SHOW TABLES", "SHOW is not allowed"),
        ("SELECT * FROM connection", "there is no table `connection`"),
        ("SELECT getenv('HOME')", "`getenv` is not allowed"),
    ],
)
def test_sql_that_is_refused(transform: Transform, sql: str, message: str) -> None:
    """Whatever is not one SELECT over the input is refused with the reason, and leaves no file behind."""
    code, text = refusal(transform, '[{"a":1}]', sql=sql)
    assert code is Code.SQL_INVALID
    assert message in text
    assert str(pathlib.Path.cwd()) not in text
    assert not list(pathlib.Path.cwd().glob("stolen*"))


@pytest.mark.parametrize(
    "attack",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_text('input')",
        "COPY input TO 'stolen.csv'",
        "ATTACH 'stolen.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET lock_configuration = false",
        "PRAGMA threads = 9",
        "EXPORT DATABASE 'stolen'",
        "SELECT * FROM enable_logging('QueryLog', storage = 'file', storage_path = 'stolen')",
    ],
)
def test_the_lock_holds_without_the_guard(transform: Transform, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    """DuckDB's own configuration stops each attack by itself, should the check of the parse tree ever miss one."""
    monkeypatch.setattr(guard, "check", lambda connection, sql: connection.execute(sql) and sql)
    assert refusal(transform, '[{"a":1}]', sql=attack)[0] is Code.SQL_INVALID
    assert not list(pathlib.Path.cwd().glob("stolen*"))


def test_no_other_function_may_be_called_in_from(transform: Transform) -> None:
    """Of all that this DuckDB has, the functions that make rows of their arguments alone, and no others."""
    with duckdb.connect() as connection:
        found = connection.execute("SELECT function_name FROM duckdb_functions() WHERE function_type = 'table'")
        names = {name for (name,) in found.fetchall()}
        assert {"read_text", "glob", "duckdb_secrets", "python_map_function"} < names
        for name in names - guard.TABLE_FUNCTIONS:
            with pytest.raises(Refused) as refused:
                guard.check(connection, f"FROM \"{name}\"('x')")
            assert refused.value.code is Code.SQL_INVALID, name


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "NOT " * 900 + "true",
        "SELECT " + "abs(" * 900 + "1" + ")" * 900,
        "SELECT * FROM " + "(SELECT * FROM " * 900 + "input" + ")" * 900,
        "SELECT " + "+".join(["1"] * 900),
        "SELECT " + "NOT " * 5000 + "true",
    ],
)
def test_sql_nested_too_deep(transform: Transform, sql: str) -> None:
    """Deep SQL is the tenant's fault and told so; it is no fault of ours, which would be tried again."""
    assert refusal(transform, "[]", sql=sql)[0] is Code.SQL_INVALID


@pytest.mark.parametrize("sql", ['SELECT * FROM "{}"', 'SELECT * FROM "{}"(1)', 'SELECT "{}" FROM input', "SELECT {}("])
def test_a_refusal_fits_its_line(transform: Transform, sql: str) -> None:
    """However long the names in it are, what the process answers is a line that the worker reads."""
    code, text = refusal(transform, "[]", sql=sql.format("\U0001f600" * 100_000))
    assert code is Code.SQL_INVALID
    assert len(encode_reply(Refused(code, text))) < 2**16
