"""Struct's edge cases by gRPC: an exact round trip over submit, worker, result and read, or a refusal by the field."""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from support.service import PATIENCE, Service, refusal, refused, serving

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain import structs
from openmcp_chain.domain.task import Key, View

Payload: TypeAlias = bytes | Callable[[], bytes]
"""A serialized Struct. Where it is large it is made when its test runs, and not by each process that collects them."""


def made(payload: Payload) -> bytes:
    return payload if isinstance(payload, bytes) else payload()


def _struct(**fields: Value) -> Struct:
    return Struct(fields=fields)


def _number(value: float) -> Value:
    return Value(number_value=value)


def nested(levels: int) -> bytes:
    """A serialized Struct of so many levels, made without recursion: no depth is too much for it."""
    data = b""
    for _ in range(levels - 1):
        value = _field(5, data)
        data = _field(1, _field(1, b"a") + _field(2, value))
    return data


def nested_lists(levels: int) -> bytes:
    """A serialized Struct that holds lists in lists."""
    data = b""
    for _ in range(levels - 2):
        data = _field(1, _field(6, data))
    return _field(1, _field(1, b"a") + _field(2, _field(6, data)))


def _field(number: int, data: bytes) -> bytes:
    length, size = b"", len(data)
    while True:
        length += bytes([size & 0x7F | (0x80 if size > 0x7F else 0)])
        size >>= 7
        if not size:
            return bytes([number << 3 | 2]) + length + data


def _tiny(count: int, number: float = -0.99e-100) -> bytes:
    """A serialized Struct with so many numbers that take long to write as JSON, and as many that do not."""
    numbers = [_number(number), _number(0), _number(1e-100)] * count
    return _struct(a=Value(list_value=ListValue(values=numbers))).SerializeToString()


def _sized(size: int) -> Struct:
    """A Struct of exactly so many bytes."""
    value = _struct(a=Value(string_value="x" * (size - 20)))
    value.fields["a"].string_value += "x" * (size - value.ByteSize())
    assert value.ByteSize() == size
    return value


async def round_trip(service: Service, payload: bytes) -> None:
    """Submits these bytes of a Struct; the worker sees them, returns them, and they are read back, exactly."""
    tenant, operator = await service.workspace(), await service.operator("echo")
    request = tasks_pb2.SubmitTaskRequest(type="echo").SerializeToString() + _field(3, payload)
    submit = service.raw.unary_unary("/openmcp.chain.v1.TaskService/SubmitTask")
    answer = await submit(request, metadata=tenant.metadata, timeout=PATIENCE)
    task_id = tasks_pb2.TaskSummary.FromString(answer).task_id
    worker = service.work(operator)
    await worker.hello()
    leased = await worker.task()
    expected = Struct.FromString(payload).SerializeToString(deterministic=True)
    assert leased.payload.SerializeToString(deterministic=True) == expected
    await worker.say(complete=workers_pb2.Complete(lease=leased.lease, result=leased.payload))
    ack = await worker.ack()
    assert not ack.error_code, ack
    detail = await service.get(tenant, task_id)
    assert detail.result.SerializeToString(deterministic=True) == expected
    await worker.end()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(nested(32), id="32 levels"),
        pytest.param(nested_lists(32), id="32 levels of lists"),
        pytest.param(
            _struct(**{"$where": _number(1), "a.b": _number(2), "": _number(3), "$ne": _number(4)}).SerializeToString(),
            id="keys that mean something elsewhere",
        ),
        pytest.param(_struct(**{"\0": Value(string_value="a\0b")}).SerializeToString(), id="zero bytes"),
        pytest.param(_struct(**{"__proto__": _number(1), "\u2028": _number(2)}).SerializeToString(), id="odd keys"),
        pytest.param(_struct(a=_number(float(2**53 + 1))).SerializeToString(), id="2^53+1, which a double is not"),
        pytest.param(_struct(a=_number(-0.0), b=_number(5e-324), c=_number(1.7e308)).SerializeToString(), id="doubles"),
        pytest.param(lambda: _tiny(structs.TINY_NUMBERS), id="10,000 tiny numbers"),
        pytest.param(
            _struct(a=Value(list_value=ListValue()), b=Value(struct_value=Struct())).SerializeToString(), id="empties"
        ),
        pytest.param(_struct(a=Value(string_value="😀\uffff\U0010ffff")).SerializeToString(), id="text"),
        pytest.param(
            lambda: _struct(**{str(n): Value(bool_value=True) for n in range(20_000)}).SerializeToString(),
            id="20,000 keys",
        ),
        pytest.param(lambda: _sized(structs.BYTES).SerializeToString(), id="a mebibyte"),
        pytest.param(b"\x0a\x07\x0a\x01a\x12\x02\x08\x00" + b"\x0a\x07\x0a\x01a\x12\x02\x20\x01", id="a key twice"),
    ],
)
async def test_what_is_taken_is_read_back_exactly(payload: Payload) -> None:
    """What a submit accepts reaches the worker, and comes back as a result, with nothing changed."""
    async with serving() as service:
        await round_trip(service, made(payload))


REFUSED = [
    pytest.param(_struct(a=_number(float("nan"))).SerializeToString(), "payload.a", id="not a number"),
    pytest.param(_struct(a=_number(float("inf"))).SerializeToString(), "payload.a", id="infinity"),
    pytest.param(
        _struct(a=Value(list_value=ListValue(values=[_number(1), _number(float("-inf"))]))).SerializeToString(),
        "payload.a[1]",
        id="infinity in a list",
    ),
    pytest.param(lambda: _tiny(structs.TINY_NUMBERS + 1), "payload", id="10,001 tiny numbers"),
    pytest.param(_struct(a=Value()).SerializeToString(), "payload.a", id="value of no kind"),
    pytest.param(b"\x0a\x03\x0a\x01a", "payload.a", id="key without a value"),
    pytest.param(nested(33), "payload", id="33 levels"),
    pytest.param(nested(34), "payload", id="34 levels"),
    pytest.param(nested(100), "payload", id="100 levels"),
    pytest.param(lambda: nested(10_000), "payload", id="10,000 levels"),
    pytest.param(nested_lists(33), "payload", id="33 levels of lists"),
    pytest.param(b"\x0a\x0a\x0a\x01a\x12\x05\x1a\x03\xed\xa0\x80", "payload", id="lone surrogate"),
    pytest.param(b"\x0a\x09\x0a\x03\xed\xa0\x80\x12\x02\x08\x00", "payload", id="lone surrogate in a key"),
    pytest.param(lambda: _sized(structs.BYTES + 1).SerializeToString(), "payload", id="a mebibyte and a byte"),
    pytest.param(
        lambda: _struct(**{str(n): _number(n) for n in range(60_000)}).SerializeToString(),
        "payload",
        id="60,000 keys, 1.1 MB",
    ),
]


@pytest.mark.parametrize(("payload", "field"), REFUSED)
async def test_what_cannot_be_kept_is_refused_by_its_field(payload: Payload, field: str) -> None:
    """What could not be read back by gRPC and as JSON is INVALID_ARGUMENT, and the field is named."""
    request = tasks_pb2.SubmitTaskRequest(type="echo").SerializeToString() + _field(3, made(payload))
    async with serving() as service:
        caller = await service.workspace()
        submit = service.raw.unary_unary("/openmcp.chain.v1.TaskService/SubmitTask")
        told = await refused(submit(request, metadata=caller.metadata, timeout=PATIENCE))
    assert told.status is grpc.StatusCode.INVALID_ARGUMENT
    assert told.fields == [field]


UNDECODABLE = ("34 levels", "100 levels", "10,000 levels", "lone surrogate", "lone surrogate in a key")


async def report(service: Service, payload: bytes) -> tuple[str, Any]:
    """Submits a task and sends these bytes as its result; returns the task's id and the worker's stream."""
    tenant, operator = await service.workspace(workspace_id="tenant"), await service.operator("echo")
    task_id = await service.submit(tenant)
    stream = service.raw.stream_stream("/openmcp.chain.v1.WorkerService/Work")(metadata=operator.metadata)
    hello = workers_pb2.Hello(worker_name="w", task_types=["echo"], max_concurrency=1)
    await stream.write(workers_pb2.WorkRequest(hello=hello).SerializeToString())
    assert workers_pb2.WorkResponse.FromString(await stream.read()).HasField("welcome")
    leased = workers_pb2.WorkResponse.FromString(await stream.read()).task
    await stream.write(_field(3, _field(1, leased.lease.SerializeToString()) + _field(2, payload)))
    return task_id, stream


@pytest.mark.parametrize(("payload", "field"), [case for case in REFUSED if case.id not in UNDECODABLE])
async def test_result_that_cannot_be_kept_fails_the_task(payload: Payload, field: str) -> None:
    """A result has a payload's limits: past them the task has FAILED for good, and says where the fault is."""
    async with serving() as service:
        task_id, stream = await report(service, made(payload))
        ack = workers_pb2.WorkResponse.FromString(await stream.read()).ack
        assert ack.error_code == "INVALID_ARGUMENT"
        stream.cancel()
        task = await service.app.ledger.get(Key("tenant", task_id), View.RESULT)
    assert task
    assert task.failure
    assert task.failure.code == "RESULT_INVALID"
    assert task.failure.message.startswith(field.replace("payload", "complete.result"))


@pytest.mark.parametrize(("payload", "field"), [case for case in REFUSED if case.id in UNDECODABLE])
async def test_result_that_cannot_be_read_ends_the_stream(payload: Payload, field: str) -> None:
    """A message that is none ends the worker's stream by INVALID_ARGUMENT, which names it."""
    async with serving() as service:
        _, stream = await report(service, made(payload))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
    assert refusal(caught.value).fields == ["complete"]
    assert field == "payload"


async def test_what_a_struct_does_not_define_is_not_carried_along() -> None:
    """Unknown fields inside a payload are dropped: what is stored is what can be read."""
    known = _struct(a=_number(1)).SerializeToString()
    request = tasks_pb2.SubmitTaskRequest(type="echo").SerializeToString() + _field(3, known + _field(9, b"unseen"))
    async with serving() as service:
        tenant, worker = await service.workspace(), service.work(await service.operator("echo"))
        await worker.hello()
        submit = service.raw.unary_unary("/openmcp.chain.v1.TaskService/SubmitTask")
        await submit(request, metadata=tenant.metadata, timeout=PATIENCE)
        assert (await worker.task()).payload.SerializeToString() == known
        await worker.end()


async def test_long_key_above_many_values_costs_no_more_than_its_bytes() -> None:
    """A path is written out for the one fault that is told, not for each value below a long key."""
    inner = _struct(**{str(number): _number(number) for number in range(20_000)})
    inner.fields["x"].number_value = float("nan")
    payload = _struct(**{"k" * 500_000: Value(struct_value=inner)})
    async with serving() as service:
        caller = await service.workspace()
        request = tasks_pb2.SubmitTaskRequest(type="echo", payload=payload)
        told = await refused(service.tasks.SubmitTask(request, metadata=caller.metadata, timeout=PATIENCE))
    assert told.fields[0].startswith("payload.kkk")


def test_helper_writes_what_protobuf_writes() -> None:
    """The bytes that these tests make by hand are those of the real encoder."""
    value = Struct()
    value.update({"a": {"a": {}}})
    assert nested(3) == value.SerializeToString()
