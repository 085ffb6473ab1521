"""What a payload may say, and what is said of one that is wrong."""

from typing import Any

import pytest

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.data_pipeline import payload
from openmcp_chain.executors.transform.job import Format


def test_the_specifications_example() -> None:
    """`{"input_uri": "s3://bucket/path/input.json"}` alone means `s3://bucket/path/output.json`, as JSON."""
    order = payload.read({"input_uri": "s3://bucket/path/input.json"})
    assert (order.input_format, order.output_format, order.sql) == (Format.JSON, Format.JSON, None)
    first, second = order.default_outputs("T")
    assert first.text == "s3://bucket/path/output.json"
    assert second.text == "s3://bucket/path/output-T.json"


@pytest.mark.parametrize(
    ("source", "output_format", "expected"),
    [
        ("file:///a/input.csv", None, "file:///a/output.csv"),
        ("file:///a/input.csv", "parquet", "file:///a/output.parquet"),
        ("file:///a/sales%20%C3%A9.csv", "json", "file:///a/sales%20%C3%A9.output.json"),
        ("s3://bucket/sales.parquet", None, "s3://bucket/sales.output.parquet"),
        ("s3://bucket/a/input.jsonl", None, "s3://bucket/a/output.ndjson"),
    ],
)
def test_the_default_name(source: str, output_format: str | None, expected: str) -> None:
    """The artifact goes beside the input, and is named after it and after the format."""
    order = payload.read({"input_uri": source, "output_format": output_format})
    assert order.default_outputs("T")[0].text == expected


def test_formats_follow_the_extensions() -> None:
    """Each side's format is its extension's unless the payload says otherwise."""
    order = payload.read({"input_uri": "file:///a/x.CSV", "output_uri": "s3://bucket/y.parquet"})
    assert (order.input_format, order.output_format) == (Format.CSV, Format.PARQUET)
    order = payload.read(
        {"input_uri": "file:///a/x", "input_format": "csv", "output_uri": "file:///a/y", "output_format": "json"}
    )
    assert (order.input_format, order.output_format) == (Format.CSV, Format.JSON)


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        ({}, ["payload.input_uri: is needed"]),
        ({"input_uri": 1.0}, ["payload.input_uri: must be text"]),
        ({"input_uri": ""}, ["payload.input_uri: must be more than empty text"]),
        ({"input_uri": "file:///a.json", "foo": 1.0, "bar": None}, ["payload.foo: is not", "payload.bar: is not"]),
        ({"input_uri": "file:///a.json", "sql": {"q": "x"}}, ["payload.sql: must be text"]),
        ({"input_uri": "ftp://host/a.json"}, ["payload.input_uri: must be a URI that begins with file://"]),
        ({"input_uri": "/etc/passwd"}, ["payload.input_uri: must be a URI"]),
        ({"input_uri": "file://host/a.json"}, ["payload.input_uri: must not name a host"]),
        ({"input_uri": "file:///a/../b.json"}, ["payload.input_uri: must name a file"]),
        ({"input_uri": "file:///a/%2e%2e/b.json"}, ["payload.input_uri: must name a file"]),
        ({"input_uri": "file:///a/%2E%2E%2Fb.json"}, ["payload.input_uri: must name a file"]),
        ({"input_uri": "file:///a%00.json"}, ["payload.input_uri: must not have a NUL"]),
        ({"input_uri": "file:///a%ff.json"}, ["payload.input_uri: must be UTF-8"]),
        ({"input_uri": "file:///a//b.json"}, ["payload.input_uri: must name a file"]),
        ({"input_uri": "s3://bucket/a/"}, ["payload.input_uri: must name a file or object"]),
        ({"input_uri": "s3://Bucket/a.json"}, ["payload.input_uri: must name a bucket"]),
        ({"input_uri": "s3://bucket"}, ["payload.input_uri: must name a file or object"]),
        ({"input_uri": "s3://key:secret@bucket/a.json"}, ["payload.input_uri: must not carry a user name"]),
        (
            {"input_uri": "https://user:secret@host/a.json", "output_uri": "file:///b.json"},
            ["payload.input_uri: must not carry a user name"],
        ),
        ({"input_uri": "https://host/a.json"}, ["payload.output_uri: is needed"]),
        ({"input_uri": "https:///a.json", "output_uri": "file:///b.json"}, ["payload.input_uri: must name a host"]),
        (
            {"input_uri": "https://host:x/a.json", "output_uri": "file:///b.json"},
            ["payload.input_uri: must have a host, and a port"],
        ),
        ({"input_uri": "https://a\\@b/a.json", "output_uri": "file:///b.json"}, ["payload.input_uri: must not have"]),
        ({"input_uri": "file:///a\n.json"}, ["payload.input_uri: must not have"]),
        ({"input_uri": "file:///" + "a" * 2048 + ".json"}, ["payload.input_uri: must have at most 2048"]),
        (
            {"input_uri": "file:///a.json", "output_uri": "https://host/b.json"},
            ["payload.output_uri: only file:// and s3://"],
        ),
        (
            {"input_uri": "file:///a.json", "output_uri": "file:///a.json"},
            ["payload.output_uri: must not be the input"],
        ),
        ({"input_uri": "file:///a.xml"}, ["payload.input_format: is needed"]),
        ({"input_uri": "file:///a.json", "input_format": "xml"}, ["payload.input_format: must be one of json"]),
        ({"input_uri": "file:///a.json", "output_uri": "file:///b"}, ["payload.output_format: is needed"]),
        ({"input_uri": "ftp://x", "sql": 1.0, "foo": 1.0}, ["payload.foo", "payload.sql", "payload.input_uri"]),
    ],
)
def test_every_bad_field_is_named(fields: dict[str, Any], faults: list[str]) -> None:
    """Each fault is told with its field, all of them at once, and without the value of a URI that may hold a secret."""
    with pytest.raises(Refused) as caught:
        payload.read(fields)
    assert caught.value.code is Code.PAYLOAD_INVALID
    assert [fault for fault in faults if fault not in caught.value.message] == []
    assert caught.value.message.count("payload.") == len(faults)
    assert "secret" not in caught.value.message


def test_a_query_is_not_shown() -> None:
    """A presigned URI carries its signature in the query, so messages leave that out."""
    order = payload.read({"input_uri": "https://host/a.json?X-Signature=s3cret", "output_uri": "s3://bucket/b.json"})
    assert str(order.input) == "https://host/a.json?…"
