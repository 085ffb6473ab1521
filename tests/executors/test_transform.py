"""Reading, SQL and writing, without the process around them (`test_process` has that)."""

import csv
import gzip
import hashlib
import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.transforms import Transform, refusal

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform import guard, reading
from openmcp_chain.executors.transform.job import Done, Format, encode_reply


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


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


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (["007", "12"], ["007", "12"]),
        (["7", "-12"], [7, -12]),
        (["7", "1.50"], [7.0, 1.5]),
        (["1", "9223372036854775808"], ["1", "9223372036854775808"]),
        (["0.12345678901234567890"], ["0.12345678901234567890"]),
        (["1e400"], ["1e400"]),
        (["true", "false"], [True, False]),
        (["TRUE"], ["TRUE"]),
        (["2024-02-29"], ["2024-02-29"]),
        (["2024-01-01T00:00:00Z"], ["2024-01-01T00:00:00Z"]),
        (["nan"], ["nan"]),
        ([" 1"], [" 1"]),
        (["1", ""], [1, None]),
        (['""', "x"], ["", "x"]),
    ],
)
def test_a_csv_column_gets_a_type_only_if_nothing_is_lost(
    transform: Transform, column: list[str], values: list[object]
) -> None:
    """Leading zeros, spaces, digits past a double's and dates in other shapes stay text; an empty field is null."""
    lines = "".join(f"{text},\n" for text in column)
    rows = json.loads(transform(f"v,w\n{lines}", "csv")[1])
    assert [row["v"] for row in rows] == values


@pytest.mark.parametrize(("first", "last", "value"), [("1", "007", "1"), ("", "7", None), ("", "x", None)])
def test_a_csv_column_is_judged_by_all_its_rows(transform: Transform, first: str, last: str, value: object) -> None:
    """One value far down, where no sample reaches, decides as much as the first."""
    lines = f"{first},\n" * 5000 + f"{last},\n"
    rows = json.loads(transform(f"v,w\n{lines}", "csv", output_rows=10_000)[1])
    assert [rows[0]["v"], rows[-1]["v"]] == [value, 7 if last == "7" else last]


def test_csv_names_are_made_distinct(transform: Transform) -> None:
    """Names that are repeated, also in another case, or missing get a suffix or a number."""
    assert json.loads(transform("a,A,a,\n1,2,3,4\n", "csv")[1]) == [{"a": 1, "A_1": 2, "a_2": 3, "column3": 4}]


@pytest.mark.parametrize("source", ["json", "csv"])
def test_a_byte_order_mark_is_not_data(transform: Transform, source: str) -> None:
    """A UTF-8 byte order mark before the first character is dropped."""
    text = {"json": '[{"a":1}]', "csv": "a\n1\n"}[source]
    assert json.loads(transform("\ufeff" + text, source)[1]) == [{"a": 1}]


@pytest.mark.parametrize(
    ("data", "source", "target", "expected"),
    [
        ("", "json", "json", b"[]"),
        ("[]", "json", "csv", b""),
        (" \n", "ndjson", "ndjson", b""),
        ("", "csv", "json", b"[]"),
        ("a,b\n", "csv", "csv", b"a,b\n"),
        ("a,b\n", "csv", "json", b"[\n\t\n]"),
        (parquet(a=pa.array([], pa.int64())), "parquet", "csv", b"a\n"),
    ],
)
def test_an_input_without_rows(
    transform: Transform, data: bytes | str, source: str, target: str, expected: bytes
) -> None:
    """No rows in, no rows out, in the form that the target has for it."""
    done, output = transform(data, source, target)
    assert (done.rows_in, done.rows) == (0, 0)
    assert output.strip() == expected.strip()


def test_sql_over_an_input_without_columns(transform: Transform) -> None:
    """SQL that names no column of an empty input still runs."""
    assert json.loads(transform("[]", sql="SELECT count(*) AS n FROM input")[1]) == [{"n": 0}]


@pytest.mark.parametrize(
    ("data", "source", "message"),
    [
        ('[{"a":1},\n {"a":}]', "json", "record 2, line 2, column 7: Expecting value"),
        ('{"a":1}\n{"a":x}\n', "ndjson", "record 2, line 2, column 6: Expecting value"),
        ('[{"a":1}', "json", "record 1, line 1, column 9: Expecting ',' or ']'"),
        ('[{"a":1}] x', "json", "line 1, column 11: something follows the array"),
        ('[{"a":1}]{"a":2}', "json", "line 1, column 10: something follows the array"),
        ('{"a":1},{"a":2}', "json", "record 2, line 1, column 8: Expecting value"),
        (b'{"a":"\n\xe9"}', "json", "line 2, byte 1: not UTF-8"),
        ("[1]", "json", "record 1, line 1, column 2: is a number; each record must be an object"),
        ('[{"a":1},"x"]', "json", "record 2, line 1, column 10: is a string; each record must be an object"),
        ('{"a":1}\nnull\n{"a":2}', "json", "record 2, line 2, column 1: is null; each record must be an object"),
        ('[{"a":1},null]', "json", "record 2, line 1, column 10: is null; each record must be an object"),
        ('[{"a":1,"":2}]', "json", "record 1, line 1, column 9: a field without a name"),
        ("[{}]", "json", "the records have no named fields"),
        ('[{"x":NaN}]', "json", "record 1, line 1, column 7: JSON has no NaN"),
        ('[{"x":nan,"y":-inf}]', "json", "record 1, line 1, column 7: JSON has no nan"),
        ('[{"x":1},\n{"y":[-Infinity]}]', "json", "record 2, line 2, column 7: JSON has no -Infinity"),
        ('[{"y":{"z":-inf}}]', "json", "record 1, line 1, column 12: JSON has no -inf"),
        ('[{"a":2,}]', "json", "record 1, line 1, column "),
        ('[{"x":[1,2,]}]', "json", "record 1, line 1, column "),
        ('[{"x":1},]', "json", "line 1, column 10: Expecting value"),
        ('[{"a":1,"a":2}]', "json", 'record 1, line 1, column 9: the key "a" is twice in one object'),
        ('[{"x":[{"a":1,"\\u0061":2}]}]', "json", r'column 15: the key "\u0061" is twice in one object'),
        ('{"a":1}\n{"b":"x\\ud800y"}', "json", "record 2, line 2, column 8: half a surrogate pair"),
        ('[{"\\udc00":1}]', "json", "record 1, line 1, column 4: half a surrogate pair"),
        ('[{"a":"\\\\ud83d\\ude00"}]', "json", "record 1, line 1, column 15: half a surrogate pair"),
        ('{"a":01}', "json", "record 1, line 1, column 7: Expecting ',' delimiter"),
        ('{"a":"\t"}', "json", "record 1, line 1, column 7: Invalid control character at"),
        ("[{'a':1}]", "json", "record 1, line 1, column 3: Expecting property name"),
        ('[{"a":' + "[" * 300 + "]" * 300 + "}]", "json", "record 1, line 1, column 134: nested past 128 levels"),
        ('[{"a":' + "[" * 5000 + "]" * 5000 + "}]", "json", "record 1, line 1, column 134: nested past 128 levels"),
        ('{"a":"' + "x" * (16 << 20) + '"}', "json", "record 1, line 1, column 1: has more than 16777216 bytes"),
        ("a,b\n1,2\n1,2,3\n", "csv", "line 3: has 3 fields where the header has 2"),
        ("a,b\n1\n", "csv", "line 2: has 1 fields where the header has 2"),
        ("a,b\n1,2\n\n3,4\n", "csv", "line 3: has 1 fields where the header has 2"),
        ('"a\nb",c\n"p\nq",2,3\n', "csv", "line 3: has 3 fields where the header has 2"),
        ('a,b\n1,"2\n', "csv", "line 2: a quoted field does not end as it should"),
        ('"a', "csv", "line 1: a quoted field does not end as it should"),
        ('a,b\n1, "x"\n', "csv", "line 2: a quote inside a field that does not begin with one"),
        ('a,b\n1,x"y\n', "csv", "line 2: a quote inside a field that does not begin with one"),
        ('a,b\n1,"x" \n', "csv", "line 2: something between the end of a quoted field and the next comma"),
        ('a,b\n1,"x\ny"z\n', "csv", "line 3: something between the end of a quoted field and the next comma"),
        (b"a,b\n1,\xe9\n", "csv", "line 2: not UTF-8"),
        (b"\xe9\n1\n", "csv", "line 1: not UTF-8"),
        ("a,b\r\n1,2\n3,4\n", "csv", "line 2: ends in LF, and line 1 in CRLF"),
        ("a,b\n1,2\n3,4\r\n", "csv", "line 3: ends in CRLF, and line 1 in LF"),
        ("a,b\n1,2\r3,4\n", "csv", "line 2: ends in CR, and line 1 in LF"),
        ("a,b\n1," + "x" * 2_000_000 + "\n3,4\n", "csv", "line 2: has more than 2000000 bytes"),
        ('a,b\n1,"' + "x" * 3_000_000 + "\n", "csv", "line 2: a row has more than 2000000 bytes, or a quoted"),
        ("," * 1000 + "\n", "csv", "line 1: has 1001 columns; at most 1000 are read"),
        ("not parquet", "parquet", "too small to be a Parquet file"),
        (b"PAR1" + b"x" * 40 + b"PAR1", "parquet", "not a Parquet file, or a damaged one"),
    ],
)
def test_a_bad_input_is_told_with_its_place(transform: Transform, data: bytes | str, source: str, message: str) -> None:
    """What is wrong is said with line and column, line, or record, and without any name of ours."""
    code, text = refusal(transform, data, source)
    assert code is Code.INPUT_INVALID
    assert message in text
    assert "input'" not in text
    assert str(pathlib.Path.cwd()) not in text


@pytest.mark.parametrize("target", ["csv", "parquet"])
def test_a_number_past_the_largest_double(transform: Transform, target: str) -> None:
    """Where a number has to become a double, one that would become infinite is told with its place."""
    for sql in ("FROM input", None) if target == "parquet" else ("FROM input",):
        for number in ("1e400", "-" + "9" * 400):
            told = refusal(transform, f'[{{"v":1}},\n{{"v":[{number}]}}]', target=target, sql=sql)
            assert told == (Code.INPUT_INVALID, "record 2, line 2, column 7: a number past the largest double")


def test_records_anywhere_in_the_window(transform: Transform) -> None:
    """An input many times as large as what is read at once arrives whole, and its last fault is told with its place."""
    record = '{"a":"\\ud83d\\ude00 é","n":[1,{"b":null}]}'
    text = f"{record}\n" * 100_000
    assert transform(text, output_rows=200_000)[0].rows == 100_000
    assert refusal(transform, text + '{"a":1,}') == (
        Code.INPUT_INVALID,
        refusal(transform, '{"a":1,}')[1].replace("record 1, line 1", "record 100001, line 100001"),
    )


def test_rows_anywhere_in_the_window(transform: Transform) -> None:
    """The same for CSV, with quoted line ends and commas in it."""
    for end in ("\n", "\r\n", "\r"):
        text = f"a,b{end}" + f'1,"x,\r\n""é"""{end}' * 100_000
        done, output = transform(text, "csv", "ndjson", output_rows=200_000)
        assert done.rows == 100_000
        assert set(output.splitlines()) == {'{"a":1,"b":"x,\\r\\n\\"é\\""}'.encode()}
        assert refusal(transform, f'{text}1,"', "csv")[1].endswith(": a quoted field does not end as it should")


@pytest.mark.parametrize(
    "text",
    [
        'a,b\r\n1,"x\ny"\r\n',
        "a,b\r1,2\r",
        "a,b\n1,2",
        "a,b\n,\n",
        'a,b\n"""",""\n',
        '"a""b",c\n1,2\n',
        "a,b\n x ,'y'\n",
        "a\n1\n\n3\n",
        "a\n#x\n\\n\nNULL\n",
    ],
)
def test_rfc_4180_as_python_reads_it(transform: Transform, text: str) -> None:
    """What is accepted is what the standard library's reader finds: no space trimmed, no row left out."""
    names, *rows = csv.reader(io.StringIO(text, newline=""))
    read = json.loads(transform(text, "csv")[1])
    assert [list(row) for row in read] == [names] * len(read)
    values = [["" if value is None else str(value) for value in row.values()] for row in read]
    assert values == [row or [""] for row in rows]


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


@pytest.mark.parametrize("source", ["json", "csv", "parquet"])
def test_compressed_input_is_not_expanded(transform: Transform, source: str) -> None:
    """A gzip file is no input, so that a few bytes can't become many."""
    assert refusal(transform, gzip.compress(AS_INPUT[source]), source)[0] is Code.INPUT_INVALID


def test_a_parquet_bomb(transform: Transform) -> None:
    """A small file that stands for 150 MB of text stops at the limits on memory and disk."""
    file = io.BytesIO()
    texts = pa.table({"t": [f"{'x' * 1000}{number}" for number in range(150_000)]})
    pq.write_table(texts, file, use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY", compression="zstd")
    assert len(file.getvalue()) < 2_000_000
    with pytest.raises(duckdb.OutOfMemoryException):  # which becomes LIMIT_EXCEEDED, where a process is left to say so
        transform(file.getvalue(), "parquet", memory_bytes=64 << 20, spill_bytes=1 << 20, threads=1)


def test_a_header_of_one_name() -> None:
    """To tell fifty thousand columns of one name apart takes no longer than it would with names of their own."""
    names = reading.distinct(["a"] * 50_000)
    assert names[:3] == ["a", "a_1", "a_2"]
    assert len(set(names)) == 50_000


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
