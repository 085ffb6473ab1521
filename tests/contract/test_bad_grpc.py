"""Bad messages by gRPC, at the server itself and through Envoy: never UNKNOWN or INTERNAL, never a hang."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest
from contract.errorshape import grpc_error, grpc_fields_named
from contract.rawhttp import exchange
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.stack import StackInfo

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc, workers_pb2
from openmcp_chain.stack.envoy import view
from openmcp_chain.transport import messages

pytestmark = pytest.mark.usefixtures("known")

METHODS = [method.name for method in view.methods()]
SECONDS = 20.0
QUICK = settings(
    max_examples=4,  # of each method, and there are dozens
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Metadata = tuple[tuple[str, str | bytes], ...]
BearerFor = Callable[[str], Metadata]


@pytest.fixture
def bearer_for(token_for: Callable[[str], str]) -> BearerFor:
    """The metadata of somebody who may call the method."""
    return lambda method: (("authorization", f"Bearer {token_for(method)}"),)


def call(channel: grpc.Channel, method: str, messages: Sequence[bytes], metadata: Metadata) -> str:
    """Sends bytes to a method; returns the error's code, which must be one of the table, or `OK`."""
    plain: Callable[[bytes], bytes] = bytes
    opened = channel.stream_stream(f"/{method}", request_serializer=plain, response_deserializer=plain)(
        iter(messages), metadata=metadata, timeout=SECONDS
    )
    try:
        for _ in opened:
            pass
    except grpc.RpcError as error:
        found = grpc_error(error)
        assert found.code not in ("INTERNAL", "DEADLINE_EXCEEDED"), (method, messages, found)
        return found.code
    return "OK"


def request_of(method: str) -> Any:
    found = descriptor_pool.Default().FindMethodByName(method.replace("/", "."))
    return GetMessageClass(found.input_type)


@pytest.mark.parametrize("method", METHODS)
@QUICK
@given(body=st.binary(min_size=1, max_size=200))
def test_any_bytes(channel: grpc.Channel, bearer_for: BearerFor, method: str, body: bytes) -> None:
    """Whatever bytes a message is made of, the answer has the one shape."""
    call(channel, method, [body], bearer_for(method))


@QUICK
@given(body=st.binary(max_size=200), method=st.sampled_from(METHODS))
def test_any_bytes_of_a_stranger(channel: grpc.Channel, method: str, body: bytes) -> None:
    """So has the one to whoever has no token: it is refused before anything is decoded, or what is open is not."""
    call(channel, method, [body], ())


def wire(field: int, kind: int, value: bytes) -> bytes:
    return bytes([field << 3 | kind]) + value


def text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


NUMBERS = st.integers(1, 15)
FIELDS = st.one_of(
    st.builds(wire, NUMBERS, st.just(0), st.sampled_from([b"\0", b"\x7f", b"\xff" * 9 + b"\x01", b"\xff" * 11])),
    st.builds(wire, NUMBERS, st.just(2), st.binary(max_size=60).map(text)),
    st.builds(wire, NUMBERS, st.just(2), st.sampled_from([b"\x7f", b"\xff" * 9 + b"\x01", text(b"\xff\xfe")])),
    st.builds(wire, NUMBERS, st.sampled_from([1, 3, 4, 5, 6, 7]), st.binary(max_size=9)),
)


@pytest.mark.parametrize("method", METHODS)
@QUICK
@given(data=st.data())
def test_any_fields(channel: grpc.Channel, bearer_for: BearerFor, method: str, data: st.DataObject) -> None:
    """Fields of the right number and the wrong type, or with wrong contents, are refused in the one shape."""
    call(channel, method, [b"".join(data.draw(st.lists(FIELDS, min_size=1, max_size=5)))], bearer_for(method))


@pytest.mark.parametrize("method", METHODS)
def test_several_messages(channel: grpc.Channel, bearer_for: BearerFor, method: str) -> None:
    """A call that brings more than its one message is answered by the first, or refused."""
    call(channel, method, [b"", b"", b""], bearer_for(method))


@pytest.mark.parametrize("method", METHODS)
def test_call_without_a_message(channel: grpc.Channel, bearer_for: BearerFor, method: str) -> None:
    """A call that is over before its message is answered at once."""
    assert call(channel, method, [], bearer_for(method)) == ("OK" if method.endswith("/Work") else "INVALID_ARGUMENT")


@pytest.mark.parametrize("method", METHODS)
def test_truncated_frames(stack: StackInfo, token_for: Callable[[str], str], method: str) -> None:
    """So is a call whose message breaks off in its frame, or says a length that nothing could have."""
    headers = [
        ("authorization", f"Bearer {token_for(method)}"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    for body in (b"", b"\0", b"\0\0\0\0\x05ab", b"\0\xff\xff\xff\xff", b"\xff" * 5):
        answer = exchange(stack.rest_url, "POST", f"/{method}", headers, body)
        assert answer.status == 200
        # An answer with a message has its status in the trailers.
        assert answer.headers.get("grpc-status", "0" if answer.body else "none") in ("0", "3"), (body, answer)


def test_unknown_method_is_refused(channel: grpc.Channel, bearer: Metadata) -> None:
    """A method, service or package that does not exist is UNIMPLEMENTED, with details."""
    for method in ("openmcp.chain.v1.TaskService/Nothing", "openmcp.chain.v2.TaskService/GetTask", "a/b", "a"):
        assert call(channel, method, [b""], bearer) == "METHOD_NOT_FOUND"


def test_bad_field_is_named(channel: grpc.Channel, bearer: Metadata) -> None:
    """What can't be decoded is told by the name of its field."""
    plain: Callable[[bytes], bytes] = bytes
    submit = channel.unary_unary(
        "/openmcp.chain.v1.TaskService/SubmitTask", request_serializer=plain, response_deserializer=plain
    )
    good = tasks_pb2.SubmitTaskRequest(type="echo").SerializeToString()
    for bad, field in ((wire(3, 2, text(b"\xff\xff")), "payload"), (wire(1, 2, text(b"\xff")), "workspace_id")):
        with pytest.raises(grpc.RpcError) as raised:
            submit(good + bad, metadata=bearer, timeout=SECONDS)
        assert grpc_error(raised.value).code == "INVALID_ARGUMENT"
        assert grpc_fields_named(raised.value) == [field]


@pytest.mark.parametrize("size", [messages.REQUEST_BYTES + 1, messages.RECEIVE_BYTES - 100])
def test_huge_message(channel: grpc.Channel, bearer: Metadata, size: int) -> None:
    """A message over the limit is refused, and told which field it may be."""
    plain: Callable[[bytes], bytes] = bytes
    submit = channel.unary_unary(
        "/openmcp.chain.v1.TaskService/SubmitTask", request_serializer=plain, response_deserializer=plain
    )
    with pytest.raises(grpc.RpcError) as raised:
        submit(bytes(size), metadata=bearer, timeout=SECONDS)
    assert grpc_error(raised.value).code == "REQUEST_TOO_LARGE"
    assert grpc_fields_named(raised.value) == ["payload"]


def test_gzip_bomb(channel: grpc.Channel, bearer: Metadata, request: pytest.FixtureRequest) -> None:
    """So is one that only its compression made small; Envoy lets nothing pass that is compressed."""
    plain: Callable[[bytes], bytes] = bytes
    submit = channel.unary_unary(
        "/openmcp.chain.v1.TaskService/SubmitTask", request_serializer=plain, response_deserializer=plain
    )
    with pytest.raises(grpc.RpcError) as raised:
        submit(bytes(messages.RECEIVE_BYTES), metadata=bearer, timeout=SECONDS, compression=grpc.Compression.Gzip)
    expected = {"direct": ("REQUEST_TOO_LARGE", ["payload"]), "envoy": ("INVALID_ARGUMENT", ["grpc-encoding"])}
    told = (grpc_error(raised.value).code, grpc_fields_named(raised.value))
    assert told == expected[request.node.callspec.params["channel"]]


@pytest.mark.parametrize(("count", "size"), [(1, 17_000), (1, 40_000), (1_200, 5)])
def test_large_metadata_ends_only_its_call(channel: grpc.Channel, bearer: Metadata, count: int, size: int) -> None:
    """Metadata over the limit is refused in the one shape; the connection serves the next call."""
    read = tasks_pb2_grpc.TaskServiceStub(channel).GetTask
    codes = []
    for metadata in ((*bearer, *((f"a{number}", "b" * size) for number in range(count))), bearer):
        with pytest.raises(grpc.RpcError) as raised:
            read(tasks_pb2.GetTaskRequest(task_id="task-1f7f"), metadata=metadata, timeout=SECONDS)
        codes.append(grpc_error(raised.value).code)
    assert codes == ["REQUEST_TOO_LARGE", "TASK_NOT_FOUND"]


def test_worker_that_talks_nonsense(channel: grpc.Channel, bearer: Metadata) -> None:
    """A worker's stream that begins without hello, says it twice, or reports what it was never given."""
    hello = workers_pb2.WorkRequest(
        hello=workers_pb2.Hello(worker_name="w", task_types=["nobody_takes_this_either"], max_concurrency=1)
    ).SerializeToString()
    lease = workers_pb2.LeaseRef(workspace_id="ws-1234", task_id="x\0", lease_token="none")
    report = workers_pb2.WorkRequest(complete=workers_pb2.Complete(lease=lease)).SerializeToString()
    beat = workers_pb2.WorkRequest(heartbeat=workers_pb2.Heartbeat(lease=lease)).SerializeToString()
    failed = workers_pb2.WorkRequest(fail=workers_pb2.Fail(lease=lease, code="x")).SerializeToString()
    work = "openmcp.chain.v1.WorkerService/Work"
    assert call(channel, work, [report], bearer) == "INVALID_ARGUMENT"
    assert call(channel, work, [hello, hello], bearer) == "INVALID_ARGUMENT"
    assert call(channel, work, [hello, b""], bearer) == "INVALID_ARGUMENT"
    assert call(channel, work, [hello, report, beat, failed], bearer) == "OK"
    assert call(channel, work, [], bearer) == "OK"
