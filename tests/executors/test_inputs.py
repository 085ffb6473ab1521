"""What is read: formats to the letter, types that lose nothing, and faults with their place."""

import csv
import io
import json
import pathlib

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.transforms import Transform, parquet, refusal

from openmcp_chain.executors.codes import Code


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (["007", "12"], ["007", "12"]),
        (["7", "-12"], [7, -12]),
        (["7", "1.50"], [7.0, 1.5]),
        (["1", "9223372036854775808"], ["1", "9223372036854775808"]),
        (["0.12345678901234567890"], ["0.12345678901234567890"]),
        (["1e400"], ["1e400"]),
        (["1e-400"], ["1e-400"]),
        (["1.23456789012345e-315"], ["1.23456789012345e-315"]),
        (["2.22507385850721e-308", "0e-400"], [2.22507385850721e-308, 0.0]),
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


def test_a_parquet_bomb(transform: Transform) -> None:
    """A small file that stands for 100 MB of text stops at the limits on memory and disk."""
    file = io.BytesIO()
    texts = pa.table({"t": [f"{'x' * 1000}{number}" for number in range(100_000)]})
    pq.write_table(texts, file, use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY", compression="zstd")
    assert len(file.getvalue()) < 2_000_000
    with pytest.raises(duckdb.OutOfMemoryException):  # which becomes LIMIT_EXCEEDED, where a process is left to say so
        transform(file.getvalue(), "parquet", memory_bytes=64 << 20, spill_bytes=1 << 20, threads=1)
