"""Fields and columns whose names look like others, or like something else."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.transforms import Transform, parquet, refusal, written

from openmcp_chain.executors.codes import Code

UUID = "550E8400-E29B-41D4-A716-446655440000"


@pytest.mark.parametrize("sql", [None, "FROM input"], ids=["copied", "by_sql"])
@pytest.mark.parametrize(
    ("data", "place", "name", "other"),
    [
        ('[{"a":1,"A":2}]', "record 1, line 1, column 2", "A", "a"),
        ('{"ID":1}\n{"x":1,"id":2}', "record 2, line 2, column 1", "id", "ID"),
        ('[{"id":1,"ID":2,"ID_1":3}]', "record 1, line 1, column 2", "ID", "id"),
    ],
    ids=["in_one_record", "in_two", "beside_a_suffix"],
)
def test_fields_that_only_case_tells_apart(
    transform: Transform, sql: str | None, data: str, place: str, name: str, other: str
) -> None:
    """A table has one column for both: neither gets the other's name, nor one that a third has."""
    code, message = refusal(transform, data, sql=sql)
    assert code is Code.INPUT_INVALID
    assert message.startswith(place)
    assert {f'"{name}"', f'"{other}"'} <= set(message.replace(",", "").split())


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [("id", "ID", 'a column "ID", which only case tells from "id"'), ("id", "id", 'a column "id" twice')],
)
@pytest.mark.parametrize("sql", [None, "SELECT id_1 FROM input"], ids=["copied", "by_sql"])
def test_columns_that_nothing_but_case_tells_apart(
    transform: Transform, first: str, second: str, told: str, sql: str | None
) -> None:
    """The same holds for every format, and for what SQL makes: a third column keeps its name, and its values."""
    names = [first, second, "id_1"]
    table = pa.Table.from_arrays([pa.array([number]) for number in range(3)], names=names)
    assert refusal(transform, written(table), "parquet", sql=sql) == (Code.INPUT_INVALID, f"has {told}")
    in_csv = f"{','.join(names)}\n0,1,2\n"
    assert refusal(transform, in_csv, "csv", sql=sql) == (Code.INPUT_INVALID, f"line 1: has {told}")
    by_sql = "SELECT " + ", ".join(f'{number} AS "{name}"' for number, name in enumerate(names))
    code, message = refusal(transform, "[]", sql=by_sql)
    assert code is Code.SQL_INVALID
    assert message.startswith(f"its result has {told}")


def test_the_name_that_a_csv_column_lacks(transform: Transform) -> None:
    """Is its position's, unless that is another's."""
    assert json.loads(transform(",a\n1,2\n", "csv")[1]) == [{"column0": 1, "a": 2}]
    assert refusal(transform, ",column0\n1,2\n", "csv")[0] is Code.INPUT_INVALID


def test_a_parquet_column_without_a_name(transform: Transform) -> None:
    """Gets none of DuckDB's, which may be another's."""
    assert refusal(transform, parquet(**{"": [1]}), "parquet")[0] is Code.INPUT_INVALID


def test_fields_in_parquet_that_only_case_tells_apart(transform: Transform) -> None:
    """Are told with the place of their struct; the keys of a map are values, and names at other places are others."""
    nested = parquet(t=[1], s=pa.array([[{"q": {"a": 1, "A": 2}}]]))
    told = 'has a field "A", which only case tells from "a", in "s.list.element.q"'
    assert refusal(transform, nested, "parquet") == (Code.INPUT_INVALID, told)
    kind = pa.map_(pa.string(), pa.int64())
    apart = parquet(a=[1], s=pa.array([{"a": {"A": 1}}]), m=pa.array([[("a", 1), ("A", 2)]], kind))
    assert json.loads(transform(apart, "parquet")[1]) == [{"a": 1, "s": {"a": {"A": 1}}, "m": {"a": 1, "A": 2}}]


def test_letters_past_ascii_tell_fields_apart(transform: Transform) -> None:
    """As they do for columns, whatever the format."""
    for data, source in (('[{"é":1,"É":2}]', "json"), ("é,É\n1,2\n", "csv"), (parquet(é=[1], É=[2]), "parquet")):
        assert json.loads(transform(data, source, sql="FROM input")[1]) == [{"é": 1, "É": 2}]


@pytest.mark.parametrize(
    "data", ['[{"s":{"a":1,"A":2}}]', '[{"s":{"a":1}},{"s":{"A":2}}]', '[{"x":[{"a":1},{"A":2}]}]']
)
def test_nested_fields_that_only_case_tells_apart(transform: Transform, data: str) -> None:
    """As JSON they are carried as they are; a type has room for one, and the field is named."""
    assert json.dumps(json.loads(transform(data)[1])) == json.dumps(json.loads(data))
    told = (Code.INPUT_INVALID, 'a field "A" in objects, which only case tells from another')
    assert refusal(transform, data, sql="FROM input") == told
    assert refusal(transform, data, target="parquet") == told


@pytest.mark.parametrize(
    "rows",
    [
        [{"a": {"UUID": UUID, "DATE": "2020-01-01"}}],
        [{"a": {"UUID": 5}}, {"a": {"UUID": 6}, "b": UUID}],
        [{"HUGEINT": {"HUGEINT": [1], "uuid": [{"JSON": UUID}]}, "VARCHAR": UUID}],
    ],
)
def test_fields_with_the_names_of_types(transform: Transform, rows: list[dict[str, Any]]) -> None:
    """Are fields like any other, beside text that looks like a UUID and stays text."""
    columns = {name for row in rows for name in row}
    whole = [{name: row.get(name) for name in columns} for row in rows]
    assert json.loads(transform(json.dumps(rows), sql="FROM input")[1]) == whole
    assert pq.read_table(io.BytesIO(transform(json.dumps(rows), target="parquet")[1])).to_pylist() == whole


def test_results_with_the_names_of_types(transform: Transform) -> None:
    """In Parquet, 128-bit integers are decimals wherever they are; names and an enum's values are left alone."""
    sql = (
        "SELECT {'HUGEINT': sum(v)} AS s, [sum(v)] AS l, MAP {'k': sum(v)} AS m, "
        "'UHUGEINT'::ENUM('UHUGEINT', 'b') AS e FROM input"
    )
    table = pq.read_table(io.BytesIO(transform('[{"v":1},{"v":2}]', target="parquet", sql=sql)[1]))
    assert table.to_pylist() == [{"s": {"HUGEINT": 3}, "l": [3], "m": [("k", 3)], "e": "UHUGEINT"}]
    assert str(table.schema.field("l").type.value_type) == "decimal128(38, 0)"
