"""What no method can make sense of: it is refused with a documented code and details, and the server stays well."""

import asyncio
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.methods import METHODS, call, caller_of
from support.service import PATIENCE, Caller, Service, as_struct, refused, serving

from openmcp.chain.v1 import auth_pb2, tasks_pb2, workers_pb2
from openmcp_chain.domain import errors
from openmcp_chain.transport import messages, status
from openmcp_chain.transport.server import ACCESS

VALID: dict[str, bytes] = {
    "AuthRequest": auth_pb2.AuthRequest(workspace_id="ws-1", workspace_secret="omcp_x").SerializeToString(),
    "SubmitTaskRequest": tasks_pb2.SubmitTaskRequest(
        type="echo", payload=as_struct({"a": [1, {"b": None}]}), metadata={"k": "v"}
    ).SerializeToString(),
    "WorkRequest": workers_pb2.WorkRequest(
        complete=workers_pb2.Complete(lease=workers_pb2.LeaseRef(task_id="x"), result=as_struct({"a": 1}))
    ).SerializeToString(),
}


async def healthy(service: Service, caller: Caller) -> None:
    """The server serves as before."""
    task_id = await service.submit(caller, payload={"a": 1})
    assert (await service.get(caller, task_id)).task_id == task_id


def test_every_method_has_its_line_of_access() -> None:
    """What is served is what the descriptors say, no more and no less."""
    assert set(METHODS) == set(ACCESS)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff" * 100, id="no fields"),
        pytest.param(b"\x0a\x7f", id="field cut off"),
        pytest.param(b"\x0a", id="no length"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="length beyond all"),
        pytest.param(b"\x0b" * 2000, id="groups in groups"),
        pytest.param(b"\x07", id="wire type that there is not"),
        pytest.param(b"\x0a\x00" * 1_000_000 + b"\xff", id="a million empty fields"),
    ],
)
async def test_garbage_is_refused_by_every_method(data: bytes) -> None:
    """Bytes that are no message: INVALID_ARGUMENT that names a field or the request."""
    async with serving() as service:
        for path in METHODS:
            told = await call(service, path, data, (await caller_of(service, path)).metadata)
            assert told, path
            assert told.status is grpc.StatusCode.INVALID_ARGUMENT, path
            assert told.fields, path
        await healthy(service, await service.workspace())


def test_random_bytes_never_bring_more_than_a_refusal() -> None:
    """Random bytes and damaged messages, on every method: an answer or a documented refusal, never a fault of ours."""
    documented = set(errors.TABLE) - {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "OVERLOADED"}
    loop = asyncio.Runner()

    async def start() -> tuple[Any, Service, dict[str, Caller]]:
        context = serving()
        service = await context.__aenter__()
        return context, service, {path: await caller_of(service, path) for path in METHODS}

    context, service, callers = loop.run(start())
    path = st.sampled_from(sorted(METHODS))
    damage = st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=4))

    @settings(max_examples=150, deadline=None)
    @given(path=path, noise=st.binary(max_size=60), damages=st.lists(damage, max_size=3))
    def throw(path: str, noise: bytes, damages: list[tuple[int, bytes]]) -> None:
        data = bytearray(VALID.get(METHODS[path].input_type.name, b"") or noise)
        for place, bytes_ in damages:
            at = place % (len(data) + 1)
            data[at : at + len(bytes_)] = bytes_
        told = loop.run(call(service, path, bytes(data), callers[path].metadata))
        assert told is None or told.code in documented, told

    throw()
    loop.run(healthy(service, loop.run(service.workspace())))
    loop.run(context.__aexit__(None, None, None))
    loop.close()


@pytest.mark.parametrize(
    ("message", "data", "field"),
    [
        ("SubmitTaskRequest", b"\x12\x02\xff\xfe", "type"),
        ("SubmitTaskRequest", b"\x1a\x02\xff\xfe", "payload"),
        ("SubmitTaskRequest", b"\x22\x02\xff\xfe", "metadata"),
        ("SubmitTaskRequest", b"\x12\x04echo\x2a\x01\xff", "request_id"),
        ("GetTaskRequest", b"\x0a\x03\xed\xa0\x80", "task_id"),
        ("AuthRequest", b"\x0a\x01a\x12\x03\xed\xa0\x80", "workspace_secret"),
    ],
)
async def test_undecodable_field_is_named(message: str, data: bytes, field: str) -> None:
    """Whatever field makes a request undecodable is the one that is named."""
    (path,) = (path for path, method in METHODS.items() if method.input_type.name == message)
    async with serving() as service:
        caller = await service.workspace()
        told = await call(service, path, data, caller.metadata)
    assert told
    assert told.fields == [field]


@pytest.mark.parametrize("path", ["/openmcp.chain.v1.TaskService/Nope", "/nobody.Home/Ring", "/x", "/a/b/c"])
async def test_unknown_method_is_unimplemented_with_details(path: str) -> None:
    """A method or service that is not there: UNIMPLEMENTED, METHOD_NOT_FOUND."""
    async with serving() as service:
        told = await refused(service.raw.unary_unary(path)(b"", timeout=PATIENCE))
    assert (told.status, told.code) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_FOUND")


@pytest.mark.parametrize("size", [messages.REQUEST_BYTES + 1, messages.RECEIVE_BYTES - 100])
async def test_large_message_is_refused_by_the_field_that_is_large(size: int) -> None:
    """Past 4 MiB: INVALID_ARGUMENT that names `payload`, REQUEST_TOO_LARGE."""
    request = tasks_pb2.SubmitTaskRequest(type="echo", payload=as_struct({"text": "x" * size}))
    async with serving() as service:
        caller = await service.workspace()
        told = await refused(service.tasks.SubmitTask(request, metadata=caller.metadata, timeout=PATIENCE))
        await healthy(service, caller)
    assert (told.status, told.code, told.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_TOO_LARGE",
        ["payload"],
    )


async def test_message_past_what_grpc_takes_is_refused_by_it() -> None:
    """Past 4 MiB and 64 KiB gRPC itself refuses, RESOURCE_EXHAUSTED, unread; the connection and the server go on."""
    request = tasks_pb2.SubmitTaskRequest(type="echo", payload=as_struct({"text": "x" * messages.RECEIVE_BYTES}))
    async with serving() as service:
        caller = await service.workspace()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.tasks.SubmitTask(request, metadata=caller.metadata, timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await healthy(service, caller)


async def test_nine_kilobytes_of_metadata_are_taken() -> None:
    """Metadata of 9 KB does no harm."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await service.submit(caller)
        request = tasks_pb2.GetTaskRequest(task_id=task_id)
        metadata = (*caller.metadata, ("x-large", "x" * 9000))
        assert (await service.tasks.GetTask(request, metadata=metadata, timeout=PATIENCE)).task_id == task_id


@pytest.mark.parametrize(("count", "size"), [(1, 17_000), (1, 40_000), (1_200, 1), (1, 80_000)])
async def test_too_much_metadata_is_refused(count: int, size: int) -> None:
    """Past 16 KiB in our own words, past 64 KiB in gRPC's, RESOURCE_EXHAUSTED; the server goes on."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await service.submit(caller)
        metadata = (*caller.metadata, *((f"x-large-{number}", "x" * size) for number in range(count)))
        for call in (
            service.tasks.GetTask(tasks_pb2.GetTaskRequest(task_id=task_id), metadata=metadata, timeout=PATIENCE),
            service.tasks.StreamTaskEvents(
                tasks_pb2.StreamTaskEventsRequest(task_id=task_id), metadata=metadata, timeout=PATIENCE
            ),
        ):
            if size < messages.RECEIVE_METADATA_BYTES:
                told = await refused(call)
                assert (told.code, told.fields) == ("REQUEST_TOO_LARGE", ["metadata"])
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await (call if not hasattr(call, "read") else call.read())
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await healthy(service, caller)


@pytest.mark.parametrize("letter", ["x", "ü", "語", "😀", "\n", "\0", '"'])
async def test_error_never_outgrows_what_a_client_takes(letter: str) -> None:
    """However long and strange what it is about: an error reaches a client with gRPC's default limits whole."""
    keys = [f"{index:03}{letter * 125}" for index in range(20)]
    request = tasks_pb2.SubmitTaskRequest(
        type=letter * 5000,
        payload=as_struct({letter * 3000: {letter * 3000: float("nan")}}),
        metadata=dict.fromkeys(keys, letter * 1025) | {"priority": letter * 1000},
        request_id=letter * 5000,
    )
    async with serving() as service, grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        raw: Any = channel
        caller = await service.workspace()
        submit = raw.unary_unary("/openmcp.chain.v1.TaskService/SubmitTask")
        told = await refused(submit(request.SerializeToString(), metadata=caller.metadata, timeout=PATIENCE))
        get = raw.unary_unary("/openmcp.chain.v1.TaskService/GetTask")
        unknown = tasks_pb2.GetTaskRequest(task_id=letter * 100_000).SerializeToString()
        missing = await refused(get(unknown, metadata=caller.metadata, timeout=PATIENCE))
    assert told.code == "INVALID_ARGUMENT"
    assert told.fields[0] == "type"
    assert missing.code == "TASK_NOT_FOUND"


def test_largest_error_fits() -> None:
    """A status with every detail at its largest stays below what a client takes."""
    error = errors.InvalidArgument(*[errors.Violation("\0" * 1000, "\U0001f600" * 1000)] * 100)
    error.retry_after, error.resource = 1.0, ("openmcp.chain.v1.Task", "\U0001f600" * 64)
    encoded = status.encode(error)
    assert encoded.message[:-1] == error.message[: len(encoded.message) - 1]
    assert encoded.message.endswith("…")
    assert len(encoded.SerializeToString()) * 4 / 3 + 3 * len(encoded.message.encode()) < 8192 - 512
