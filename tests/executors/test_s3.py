"""Objects in and out, on a real S3-speaking server (moto's) on loopback."""

import contextlib
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.pipelines import Bench

from openmcp_chain.executors.data_pipeline import Limits, S3Settings

MakeBench = Callable[..., Bench]
BUCKETS = 'buckets = ["bucket", "shared/ws-test/"]'


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - takes long, in every process that collects tests

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def settings(endpoint: str) -> S3Settings:
    return S3Settings(endpoint=endpoint, access_key_id="key", secret_access_key="s3cret")


@pytest.fixture
def client(endpoint: str) -> Iterator[Any]:
    """Amazon's own client, to put and look at objects."""
    import boto3  # noqa: PLC0415 - takes long, in every process that collects tests
    from botocore.config import Config  # noqa: PLC0415 - as above

    made = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="s3cret",
        config=Config(s3={"addressing_style": "path"}),
    )
    for bucket in ("bucket", "shared", "private"):
        made.create_bucket(Bucket=bucket)
    yield made
    for bucket in ("bucket", "shared", "private"):
        for entry in made.list_objects_v2(Bucket=bucket).get("Contents", []):
            made.delete_object(Bucket=bucket, Key=entry["Key"])
        made.delete_bucket(Bucket=bucket)
    made.close()


@pytest.fixture
def cloud(make_bench: MakeBench, settings: S3Settings, client: Any) -> Bench:
    return make_bench(policy=BUCKETS, s3=settings)


def keys(client: Any, bucket: str = "bucket") -> set[str]:
    return {entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])}


def body(client: Any, key: str, bucket: str = "bucket") -> bytes:
    with contextlib.closing(client.get_object(Bucket=bucket, Key=key)["Body"]) as stream:
        read: bytes = stream.read()
        return read


async def test_the_specifications_example(cloud: Bench, client: Any) -> None:
    """`s3://bucket/path/input.json` becomes `s3://bucket/path/output.json`, with the checksum of what is there."""
    client.put_object(Bucket="bucket", Key="path/input.json", Body=b'[{"a":1},{"a":2}]')
    result = await cloud.run(input_uri="s3://bucket/path/input.json")
    assert result["artifact_uri"] == "s3://bucket/path/output.json"
    data = body(client, "path/output.json")
    assert json.loads(data) == [{"a": 1}, {"a": 2}]
    assert result["checksum"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert result["bytes"] == len(data)
    assert keys(client) == {"path/input.json", "path/output.json"}


@pytest.mark.parametrize("key", ["sp ace/é%20+&=?#.json", "a.b/c~d.json", "plus+key=1.json"])
async def test_keys_are_taken_as_written(cloud: Bench, client: Any, key: str) -> None:
    """A key is not decoded: percent signs, spaces, question marks and letters of any script are themselves."""
    client.put_object(Bucket="bucket", Key=key, Body=b'[{"a":1}]')
    result = await cloud.run(input_uri=f"s3://bucket/{key}")
    expected = key.removesuffix(".json") + ".output.json"
    assert result["artifact_uri"] == f"s3://bucket/{expected}"
    assert keys(client) == {key, expected}


async def test_a_default_never_replaces(cloud: Bench, client: Any) -> None:
    """Two tasks with one input: equal artifacts share the key, another gets its own; an explicit one replaces."""
    client.put_object(Bucket="bucket", Key="input.json", Body=b'[{"a":1}]')
    uri = "s3://bucket/input.json"
    first = await cloud.run("task-a", input_uri=uri)
    again = await cloud.run("task-b", input_uri=uri)
    other = await cloud.run("task-c", input_uri=uri, sql="SELECT 2 AS a")
    assert first["artifact_uri"] == again["artifact_uri"] == "s3://bucket/output.json"
    assert other["artifact_uri"] == "s3://bucket/output-task-c.json"
    assert json.loads(body(client, "output.json")) == [{"a": 1}]
    await cloud.run(input_uri=uri, output_uri="s3://bucket/output.json", sql="SELECT 3 AS a")
    assert json.loads(body(client, "output.json")) == [{"a": 3}]


async def test_from_a_file_to_an_object_and_back(cloud: Bench, client: Any) -> None:
    """Sources and sinks combine freely; a part of a bucket can be allowed by the beginning of its keys."""
    uri = "s3://shared/ws-test/x.parquet"
    await cloud.run(input_uri=cloud.put("input.csv", "a,b\n1,x\n"), output_uri=uri)
    await cloud.run(input_uri=uri, output_uri=cloud.uri("back.csv"))
    assert (cloud.files / "back.csv").read_text() == "a,b\n1,x\n"


@pytest.mark.parametrize("uri", ["s3://private/a.json", "s3://shared/ws-other/a.json", "s3://shared/ws-test.json"])
async def test_buckets_that_are_not_allowed(cloud: Bench, client: Any, uri: str) -> None:
    """Other buckets, and other parts of a shared one, are refused, to read and to write."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=key, Body=b"[]")
    inside = cloud.put("input.json", "[]")
    for fields in ({"input_uri": uri}, {"input_uri": inside, "output_uri": uri}):
        failed = await cloud.fails(**fields)
        assert (failed.code, failed.message) == ("ACCESS_DENIED", f"{uri}: this workspace may not touch it")
    assert body(client, key, bucket) == b"[]"


async def test_what_is_not_there(make_bench: MakeBench, settings: S3Settings, client: Any) -> None:
    """A missing object, or bucket, is told for what it is and not tried again."""
    bench = make_bench(policy='buckets = ["bucket", "absent"]', s3=settings)
    for uri in ("s3://bucket/nothing.json", "s3://absent/nothing.json"):
        failed = await bench.fails(input_uri=uri)
        assert (failed.code, failed.retryable) == ("INPUT_NOT_FOUND", False)
    failed = await bench.fails(input_uri=bench.put("input.json", "[]"), output_uri="s3://absent/out.json")
    assert (failed.code, failed.retryable) == ("OUTPUT_FAILED", False)


async def test_an_object_too_large(make_bench: MakeBench, settings: S3Settings, client: Any) -> None:
    """An object past the limit is refused before it is fetched."""
    client.put_object(Bucket="bucket", Key="a.json", Body=b" " * 101)
    bench = make_bench(policy=BUCKETS, s3=settings, limits=Limits(input_bytes=100))
    failed = await bench.fails(input_uri="s3://bucket/a.json")
    assert (failed.code, failed.message) == ("INPUT_TOO_LARGE", "s3://bucket/a.json: has more than 100 bytes")


async def test_a_store_that_is_away(make_bench: MakeBench) -> None:
    """No store: another attempt may help, and neither the endpoint nor a key is told."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        settings = S3Settings(endpoint=endpoint, access_key_id="key", secret_access_key="s3cret")
        bench = make_bench(policy=BUCKETS, s3=settings, limits=Limits(transfer_seconds=10))
        for fields, code in (
            ({"input_uri": "s3://bucket/a.json"}, "INPUT_UNAVAILABLE"),
            ({"input_uri": bench.put("input.json", "[]"), "output_uri": "s3://bucket/a.json"}, "OUTPUT_FAILED"),
        ):
            failed = await bench.fails(**fields)
            assert (failed.code, failed.retryable) == (code, True)
            assert "127.0.0.1" not in failed.message
            assert "s3cret" not in failed.message


def test_settings_from_the_environment() -> None:
    """The usual variables are read, and the secret is not shown."""
    found = S3Settings.from_environment(
        {
            "AWS_ENDPOINT_URL": "http://localhost:9000",
            "AWS_DEFAULT_REGION": "eu-north-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "s3cret",
        }
    )
    assert (found.endpoint, found.region, found.secret_access_key) == ("http://localhost:9000", "eu-north-1", "s3cret")
    assert "s3cret" not in repr(found)
    assert S3Settings.from_environment({}) == S3Settings()
