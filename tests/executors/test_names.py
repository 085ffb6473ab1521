"""Fields and columns whose names look like others, or like something else."""

import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.transforms import Transform, refusal

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


def test_letters_past_ascii_tell_fields_apart(transform: Transform) -> None:
    """As they do for columns."""
    assert json.loads(transform('[{"é":1,"É":2}]', sql="FROM input")[1]) == [{"é": 1, "É": 2}]


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


def test_a_csv_columns_suffix_is_nobodys_name(transform: Transform) -> None:
    """Whether the column with that name comes before or after."""
    assert json.loads(transform("id,ID,ID_1\n1,2,3\n", "csv")[1]) == [{"id": 1, "ID_2": 2, "ID_1": 3}]
    assert json.loads(transform("id_1,id,ID\n3,1,2\n", "csv")[1]) == [{"id_1": 3, "id": 1, "ID_2": 2}]
    assert json.loads(transform(",column0\n1,2\n", "csv")[1]) == [{"column0_1": 1, "column0": 2}]
