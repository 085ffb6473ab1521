"""What a payload may hold, by REST and by gRPC: it comes back exactly as it went in, or is refused by the field's name.

Each payload that is accepted goes to a worker and back as its result, so both ways are walked, and read on both
surfaces.
"""

import json
import math
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from contract.errorshape import fields_named, grpc_error, grpc_fields_named, rest_error
from contract.rawhttp import exchange
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.rest import Rest
from support.stack import StackInfo

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc

SECONDS = 30.0
LIMIT = 1024 * 1024
"""Bytes that a payload may have, in protobuf encoding."""
Metadata = tuple[tuple[str, str | bytes], ...]


@pytest.fixture
def tasks(channel: grpc.Channel) -> tasks_pb2_grpc.TaskServiceStub:
    return tasks_pb2_grpc.TaskServiceStub(channel)


@pytest.fixture(scope="module", autouse=True)
def deep_python() -> Iterator[None]:
    """Python itself is not to be the limit."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    yield
    sys.setrecursionlimit(before)


def nested(levels: int) -> dict[str, Any]:
    """Objects and lists within each other, the payload itself counted as the first level."""
    value: Any = 1.0
    for level in range(levels - 1):
        value = [value] if level % 2 else {"a": value}
    return {"a": value}


def sized(size: int) -> Struct:
    """A Struct of exactly so many bytes."""
    result, text = Struct(), ""
    for _ in range(3):  # the lengths of lengths
        result["text"] = text
        text = "x" * (len(text) + size - result.ByteSize())
    result["text"] = text
    assert result.ByteSize() == size
    return result


EXACT: dict[str, dict[str, Any]] = {
    "empty": {},
    "operators": {"$where": "1", "$set": {"$gt": ""}, "a.b": 1.0, ".": 1.0, "$": None, "_id": 1.0, "__proto__": {}},
    "keys": {"": "empty", " ": 1.0, "\0": "NUL", "a\0b": "\0", "\n": "\r\n", "é": "e\u0301", "💩": "\U0010ffff"},
    "text": {
        "a": "\u2028\u2029\ufeff\ufffe\uffff",
        "b": "".join(map(chr, range(128))),
        "c": '<>&"\\/',
        "d": "\x7f\x80",
    },
    "numbers": {"a": [0.0, 1.0, -1.0, 0.1, 2.0**53, -(2.0**53), 2.0**63, 2.0**64, 1e21, 1e22, 123456789012345680.0]},
    "extremes": {"a": [1.7976931348623157e308, 5e-324, 2.2250738585072014e-308, -5e-324, 1e-7, 1.0000000000000002]},
    "kinds": {"a": [None, True, False, "", [], {}, [[]], [{}], {"a": {}}]},
    "like ours": {"error": "", "result": None, "task_id": "x", '"error":""': '"result":', "<error>": "null"},
    "31 levels": nested(31),
    "32 levels": nested(32),
    "many": {str(number): float(number) for number in range(5000)},
    "wide": {"a": [[] for _ in range(20_000)]},
}


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: equal numbers, and no number for a boolean."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


@pytest.mark.parametrize("name", EXACT)
def test_rest_round_trip(rest: Rest, channel: grpc.Channel, bearer: Metadata, name: str) -> None:
    """What went in by REST comes back from a worker exactly: by REST, and by gRPC."""
    task_id = rest.submit("echo", EXACT[name])
    task = rest.ended(task_id)
    assert task["status"] == "SUCCEEDED", task["error"]
    assert same(task["result"], EXACT[name])
    detail = tasks_pb2_grpc.TaskServiceStub(channel).GetTask(
        tasks_pb2.GetTaskRequest(task_id=task_id), metadata=bearer, timeout=SECONDS
    )
    assert same(MessageToDict(detail.result), EXACT[name])


@pytest.mark.parametrize("name", EXACT)
def test_grpc_round_trip(tasks: tasks_pb2_grpc.TaskServiceStub, rest: Rest, bearer: Metadata, name: str) -> None:
    """What went in by gRPC comes back from a worker exactly: by gRPC, and by REST."""
    request = tasks_pb2.SubmitTaskRequest(type="echo")
    request.payload.update(EXACT[name])
    task_id = tasks.SubmitTask(request, metadata=bearer, timeout=SECONDS).task_id
    assert same(rest.ended(task_id)["result"], EXACT[name])
    detail = tasks.GetTask(tasks_pb2.GetTaskRequest(task_id=task_id), metadata=bearer, timeout=SECONDS)
    assert detail.result == request.payload


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**53 + 2, 2**64, 10**22, 0.1 + 0.2])
def test_numbers_are_doubles(rest: Rest, number: float) -> None:
    """Every number is a double, as the contract says; one that a double is comes back exactly, however large."""
    assert rest.ended(rest.submit("echo", {"a": number}))["result"] == {"a": number}


TOO_MUCH: dict[str, str] = {
    "33 levels": json.dumps(nested(33)),
    "34 levels": json.dumps(nested(34)),
    "100 levels": json.dumps(nested(100)),
    "10,000 levels": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "NaN": '{"a":NaN}',
    "infinity": '{"a":{"b":[Infinity]}}',
    "minus infinity": '{"a":-Infinity}',
    "beyond double": '{"a":1e999}',
    "2^53+1": '{"a":9007199254740993}',
    "2^63-1": '{"a":{"b":[1,9223372036854775807]}}',
    "minus 2^64+1": '{"a":-18446744073709551617}',
    "30 digits": '{"a":123456789012345678901234567890}',
    "lone surrogate": '{"a":"\\ud800"}',
    "lone surrogate in a key": '{"\\udfff":1}',
    "a mebibyte": json.dumps({"text": "x" * LIMIT}),
    "many small values": json.dumps({"a": [0] * 120_000}),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_rest_refuses_naming_the_field(stack: StackInfo, rest: Rest, name: str) -> None:
    """What can't be kept exactly is INVALID_ARGUMENT, naming the payload or what is in it."""
    body = f'{{"type":"echo","payload":{TOO_MUCH[name]}}}'.encode()
    headers = [("authorization", f"Bearer {rest.token}"), ("content-type", "application/json")]
    answer = exchange(stack.rest_url, "POST", "/v1/tasks", headers, body)
    error = rest_error(answer.status, answer.headers["content-type"], answer.body)
    assert error["code"] == "INVALID_ARGUMENT", error
    (field,) = fields_named(error)
    assert field.startswith("payload"), error


def chain(levels: int) -> bytes:
    """A SubmitTaskRequest whose payload has so many levels, encoded by hand: no library would."""
    value = b"\x11" + struct.pack("<d", 1.0)  # Value.number_value
    for _ in range(levels - 1):
        value = _field(5, _field(1, _field(1, b"a") + _field(2, value)))  # Value.struct_value, its entry
    return _field(2, b"echo") + _field(3, _field(1, _field(1, b"a") + _field(2, value)))


def submit_bytes(channel: grpc.Channel) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    """SubmitTask, without a codec."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/openmcp.chain.v1.TaskService/SubmitTask")
    return call


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    length, size = bytearray(), len(value)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + value


def payload(value: bytes) -> bytes:
    """A SubmitTaskRequest whose payload has one entry, `a`, with this encoded Value."""
    return _field(2, b"echo") + _field(3, _field(1, _field(1, b"a") + _field(2, value)))


BAD_MESSAGES: dict[str, bytes | Callable[[], bytes]] = {
    # Made when it is sent: each process that collects would wait for the deepest.
    **{f"{levels} levels": partial(chain, levels) for levels in (33, 34, 35, 100, 10_000)},
    "NaN": payload(b"\x11" + struct.pack("<d", math.nan)),
    "infinity": payload(b"\x11" + struct.pack("<d", math.inf)),
    "minus infinity": payload(b"\x11" + struct.pack("<d", -math.inf)),
    "no kind": payload(b""),
    "lone surrogate": payload(_field(3, b"\xed\xa0\x80")),
    "not UTF-8": payload(_field(3, b"\xff")),
    "key not UTF-8": _field(2, b"echo") + _field(3, _field(1, _field(1, b"\xff") + _field(2, b"\x20\x01"))),
    "a byte too many": tasks_pb2.SubmitTaskRequest(type="echo", payload=sized(LIMIT + 1)).SerializeToString(),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_grpc_refuses_naming_the_field(channel: grpc.Channel, bearer: Metadata, name: str) -> None:
    """The same by gRPC, where clients may send what JSON can't say."""
    message = BAD_MESSAGES[name]
    with pytest.raises(grpc.RpcError) as raised:
        submit_bytes(channel)(message if isinstance(message, bytes) else message(), metadata=bearer, timeout=SECONDS)
    assert grpc_error(raised.value).code == "INVALID_ARGUMENT"
    (field,) = grpc_fields_named(raised.value)
    assert field.startswith("payload")


def test_levels_that_are_allowed(channel: grpc.Channel, rest: Rest, bearer: Metadata) -> None:
    """32 levels by hand-made bytes: the deepest that is kept, and it can be read everywhere."""
    answer = submit_bytes(channel)(chain(32), metadata=bearer, timeout=SECONDS)
    task = rest.ended(tasks_pb2.TaskSummary.FromString(answer).task_id)
    assert json.dumps(task["result"]).count("{") == 32


def test_largest_payload(tasks: tasks_pb2_grpc.TaskServiceStub, rest: Rest, bearer: Metadata) -> None:
    """A payload of exactly a mebibyte is kept, worked on, and read back by both."""
    request = tasks_pb2.SubmitTaskRequest(type="echo", payload=sized(LIMIT))
    task_id = tasks.SubmitTask(request, metadata=bearer, timeout=SECONDS).task_id
    assert rest.ended(task_id)["result"]["text"] == request.payload["text"]
    detail = tasks.GetTask(tasks_pb2.GetTaskRequest(task_id=task_id), metadata=bearer, timeout=SECONDS)
    assert detail.result == request.payload


def test_largest_payload_of_escapes(rest: Rest) -> None:
    """Text that JSON writes six times as long fits, as long as the request itself does."""
    text = "\x01" * 600_000
    assert rest.ended(rest.submit("echo", {"text": text}))["result"] == {"text": text}


TEXT = st.text(max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(sent=st.dictionaries(TEXT, VALUES, max_size=4))
def test_any_payload(rest: Rest, sent: dict[str, Any]) -> None:
    """Whatever JSON can say comes back as it was."""
    task = rest.ended(rest.submit("echo", sent))
    assert task["status"] == "SUCCEEDED", task["error"]
    assert same(task["result"], sent)
