"""Reading, SQL and writing, without the process around them (`test_process` has that)."""

import gzip
import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.transforms import Transform, parquet, refusal

from openmcp_chain.executors.codes import Code
from openmcp_chain.executors.transform.job import Done, Format

ROWS: list[dict[str, Any]] = [
    {"id": 1, "name": 'Zoë, "Z"', "score": 1.5, "ok": True},
    {"id": 2, "name": None, "score": -0.25, "ok": False},
]
AS_INPUT: dict[str, bytes] = {
    "json": json.dumps(ROWS, indent=1).encode(),
    "ndjson": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "csv": 'id,name,score,ok\n1,"Zoë, ""Z""",1.5,true\n2,,-0.25,false\n'.encode(),
    "parquet": parquet(**{key: [row[key] for row in ROWS] for key in ROWS[0]}),
}
READ_BACK: dict[str, Callable[[bytes], object]] = {
    "json": json.loads,
    "ndjson": lambda data: [json.loads(line) for line in data.splitlines()],
    "csv": lambda data: data,
    "parquet": lambda data: pq.read_table(io.BytesIO(data)).to_pylist(),
}


@pytest.mark.parametrize("sql", [None, "SELECT * FROM input"])
@pytest.mark.parametrize("target", list(Format))
@pytest.mark.parametrize("source", list(Format))
def test_every_pair_of_formats(transform: Transform, source: str, target: str, sql: str | None) -> None:
    """Rows keep their values and their order from each format into each, with SQL and without."""
    done, output = transform(AS_INPUT[source], source, target, sql)
    assert done == Done(rows_in=2, rows=2, columns=4)
    assert READ_BACK[target](output) == (AS_INPUT["csv"] if target == "csv" else ROWS)


@pytest.mark.parametrize(
    "value",
    [
        9007199254740993,
        -9223372036854775808,
        18446744073709551615,
        0.1,
        5e-324,
        "2024-01-01",
        "2024-01-01T00:00:00Z",
        "550E8400-E29B-41D4-A716-446655440000",
        "007",
        "",
        "a\u0000b\n\u2028\U0001f600",
        [],
        [1, "two", None, {"x": []}],
        {"A": {"b": [1.5]}},
    ],
)
@pytest.mark.parametrize("sql", [None, "SELECT v FROM input"])
def test_a_json_value_survives(transform: Transform, value: object, sql: str | None) -> None:
    """Large integers, doubles, strings that look like something else, and nested values come out as they went in."""
    _, output = transform(json.dumps([{"v": value}]), sql=sql)
    assert json.loads(output) == [{"v": value}]


@pytest.mark.parametrize(
    ("first", "last", "field"),
    [
        ("1.5", "9007199254740993", "v"),
        ("1e2", "-9007199254740993", "v"),
        ("1.5", "18446744073709551615", "v"),
        ("123456789012345678901234567890", "9223372036854775807", "v"),
        ("[0.5, 1]", "[2, null, 9007199254740993]", "v[]"),
        ('{"a b": 0.5}', '{"c": "9007199254740993", "a b": 9007199254740993}', "v.a b"),
        ('[{"n": [{"d": 0.5}]}]', '[{}, {"n": [null, {"d": 9007199254740993}]}]', "v[].n[].d"),
    ],
)
@pytest.mark.parametrize(("target", "sql"), [("json", "FROM input"), ("csv", "SELECT 1 AS one"), ("parquet", None)])
def test_an_integer_that_would_change_is_told_with_its_place(
    transform: Transform, first: str, last: str, field: str, target: str, sql: str | None
) -> None:
    """Among numbers that become doubles, at any depth, an integer of up to 64 bits is exact or refused."""
    data = f'[{{"v": {first}, "u": 0.5}}, {{"w": 9007199254740993}},\n{{"v": {last}}}]'
    code, message = refusal(transform, data, target=target, sql=sql)
    assert code is Code.INPUT_INVALID
    assert message.startswith(f"record 3, field `{field}`: an integer past 2^53 ")


def test_an_integer_that_would_change_far_down_is_told(transform: Transform) -> None:
    """After any number of records that look as if they could hold one."""
    data = '{"v":1.5}\n' + '{"v":9007199254740994}\n' * 2500 + '{"v":9007199254740993}'
    assert refusal(transform, data, sql="FROM input")[1].startswith("record 2502, field `v`: ")


@pytest.mark.parametrize("name", ["record", "number", "text", "input", 'a "b'])
@pytest.mark.parametrize("inner", ["%s", '{"a": %s}'])
def test_an_integer_that_would_change_is_told_whatever_its_field_is_named(
    transform: Transform, name: str, inner: str
) -> None:
    """No field is hidden by its name: not one that SQL knows, nor one that the check could have used itself."""
    first, last = (inner % number for number in ("1.5", "9007199254740993"))
    data = f'[{{"b": 1, {json.dumps(name)}: {first}}}, {{{json.dumps(name)}: {last}}}]'
    code, message = refusal(transform, data, sql="FROM input")
    assert code is Code.INPUT_INVALID
    assert message.startswith(f"record 2, field `{name}")


def test_integers_that_do_not_change_are_taken(transform: Transform) -> None:
    """Doubles among them hold many; beside text, true or an object nothing becomes a double; nor in another field."""
    same = [1.5, 9007199254740994, -9223372036854775808, 18446744073709549568, 2**70]
    mixed = [9007199254740993, 0.5, "9007199254740993"]
    rows = [{"same": number, "mixed": mixed, "nested": {"id": 2**63 - 1, "f": 0.1234567890123456}} for number in same]
    assert json.loads(transform(json.dumps(rows), sql="FROM input")[1]) == rows


def test_without_sql_json_is_carried_as_it_is(transform: Transform) -> None:
    """What DuckDB has no type for goes through untouched: large integers, keys that differ by case, absent keys."""
    text = '{"v":123456789012345678901234567890,"n":{"a":1,"A":2}}\n{"n":{"b":1},"w":[{"x":1},{"y":2}]}'
    rows = json.loads(transform(text)[1])
    assert rows == [
        {"v": 123456789012345678901234567890, "n": {"a": 1, "A": 2}, "w": None},
        {"v": None, "n": {"b": 1}, "w": [{"x": 1}, {"y": 2}]},
    ]


def test_nested_values_in_csv_are_json(transform: Transform) -> None:
    """CSV has no nesting: lists and objects are written as JSON, with SQL and without."""
    data = '[{"n":{"a":[1,null]},"t":"x","u":null}]'
    expected = b'n,t,u\n"{""a"":[1,null]}",x,\n'
    assert transform(data, target="csv")[1] == expected
    assert transform(data, target="csv", sql="FROM input")[1] == expected


def test_nested_values_become_native_in_parquet(transform: Transform) -> None:
    """Parquet gets structs and lists, not text."""
    _, output = transform('[{"n":{"a":[1,2]}}]', target="parquet")
    assert pq.read_table(io.BytesIO(output)).to_pylist() == [{"n": {"a": [1, 2]}}]


def test_large_integers_stay_exact_in_parquet(transform: Transform) -> None:
    """128-bit integers, such as every `sum`, are written as decimals and not as doubles."""
    _, output = transform('[{"i":9007199254740993}]', target="parquet", sql="SELECT sum(i) s, [sum(i)] l FROM input")
    (row,) = pq.read_table(io.BytesIO(output)).to_pylist()
    assert int(row["s"]) == 9007199254740993
    assert [int(item) for item in row["l"]] == [9007199254740993]


@pytest.mark.parametrize("target", list(Format))
def test_json_made_by_sql_is_json(transform: Transform, target: str) -> None:
    """What DuckDB takes for JSON though it is none gets into no artifact; such words inside strings are no fault."""
    for text in ('{"a":nan}', "[-Infinity]", "inf"):
        for sql in (f"SELECT '{text}'::JSON v", f"SELECT ['{text}'::JSON] v", f"SELECT {{'j': '{text}'::JSON}} v"):
            assert refusal(transform, "[]", target=target, sql=sql)[0] is Code.OUTPUT_INVALID
    text = '{"nan":["inf, ]","\\\\\\"NaN"]}'
    transform("[]", target=target, sql=f"SELECT '{text}'::JSON v, 'nan' w, [1.5] x")


@pytest.mark.parametrize("target", ["csv", "parquet"])
def test_a_comma_too_many_made_by_sql(transform: Transform, target: str) -> None:
    """Where DuckDB writes a JSON value's own text, a trailing comma is refused."""
    sql = "SELECT '[1, ]'::JSON v"
    assert refusal(transform, "[]", target=target, sql=sql)[0] is Code.OUTPUT_INVALID
    assert json.loads(transform("[]", sql=sql)[1]) == [{"v": [1]}]


def test_a_key_twice_made_by_sql(transform: Transform) -> None:
    """A JSON artifact has no key twice in one object."""
    told = refusal(transform, "[]", sql="""SELECT '{"a":1,"a":2}'::JSON v""")
    assert told == (Code.OUTPUT_INVALID, 'row 1: the key "a" is twice in one object')


def test_nan_in_a_list_has_no_form_in_csv(transform: Transform) -> None:
    """Lists are written to CSV as JSON, which has no NaN; a column of doubles has one."""
    sql = "SELECT {} v"
    assert refusal(transform, "[]", target="csv", sql=sql.format("['nan'::DOUBLE]"))[0] is Code.OUTPUT_INVALID
    assert transform("[]", target="csv", sql=sql.format("'nan'::DOUBLE"))[1] == b"v\nnan\n"


def test_a_type_that_parquet_lacks(transform: Transform) -> None:
    """The fault is the result's, and not that of the SQL, which runs."""
    code, text = refusal(transform, "[]", target="parquet", sql="SELECT {} v")
    assert code is Code.OUTPUT_INVALID
    assert "Empty STRUCT" in text


@pytest.mark.slow
def test_five_hundred_columns(transform: Transform) -> None:
    """A wide CSV file needs no more memory than a task has."""
    wide = ",".join(f"c{number}" for number in range(500)) + "\n" + ",".join(["1"] * 500) + "\n"
    assert transform(wide, "csv")[0] == Done(rows_in=1, rows=1, columns=500)


@pytest.mark.parametrize("value", ["'nan'::DOUBLE", "['-inf'::DOUBLE]"])
def test_what_json_cannot_express_is_refused(transform: Transform, value: str) -> None:
    """NaN and infinities are told with their row; the same words inside a text are no fault."""
    sql = f"SELECT 'NaN, Infinity' t, 1.0::DOUBLE v UNION ALL SELECT 'x', {value.strip('[]')}"
    code, text = refusal(transform, "[]", sql=sql)
    assert code is Code.OUTPUT_INVALID
    assert text.startswith("row 2: JSON has no ")


def test_parquet_needs_a_column(transform: Transform) -> None:
    """An input without columns has no Parquet form."""
    assert refusal(transform, "[]", target="parquet")[0] is Code.OUTPUT_INVALID


def test_too_many_rows(transform: Transform) -> None:
    """A result past the row limit is refused."""
    code, text = refusal(transform, "[]", sql="SELECT range FROM range(1001)")
    assert (code, text) == (Code.OUTPUT_TOO_LARGE, "has more than 1000 rows")


def test_too_many_bytes(transform: Transform) -> None:
    """A result past the byte limit is refused."""
    code, text = refusal(transform, "[]", sql="SELECT repeat('x', 1000) FROM range(10)", output_bytes=9000)
    assert (code, text) == (Code.OUTPUT_TOO_LARGE, "has more than 9000 bytes")


def test_the_same_input_gives_the_same_bytes(transform: Transform) -> None:
    """Repeating a transformation gives the same checksum: another attempt is another try at the same artifact."""
    for target in Format:
        first, second = (transform(AS_INPUT["json"], target=target)[1] for _ in range(2))
        assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


@pytest.mark.parametrize("source", ["json", "csv", "parquet"])
def test_compressed_input_is_not_expanded(transform: Transform, source: str) -> None:
    """A gzip file is no input, so that a few bytes can't become many."""
    assert refusal(transform, gzip.compress(AS_INPUT[source]), source)[0] is Code.INPUT_INVALID
