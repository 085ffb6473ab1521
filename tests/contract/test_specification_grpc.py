"""The specification's gRPC services, called at the server itself and through Envoy's port, and by gRPC-Web there."""

import base64
import struct
import time
import uuid

import grpc
import httpx
import pytest
from contract.errorshape import failed_call, grpc_error
from support.plain import NOBODY
from support.rest import Rest
from support.stack import StackInfo
from support.workspaces import Credentials, create, expired_token

from openmcp.chain.v1 import auth_pb2, auth_pb2_grpc, tasks_pb2, tasks_pb2_grpc

Metadata = tuple[tuple[str, str | bytes], ...]
SECONDS = 20.0


@pytest.fixture
def tasks(channel: grpc.Channel) -> tasks_pb2_grpc.TaskServiceStub:
    return tasks_pb2_grpc.TaskServiceStub(channel)


def test_credentials_become_a_token(channel: grpc.Channel, credentials: Credentials, rest: Rest) -> None:
    """`Authenticate` answers with a token that `authorization` takes, and its end, 15 minutes ahead."""
    token = auth_pb2_grpc.AuthServiceStub(channel).Authenticate(
        auth_pb2.AuthRequest(workspace_id=credentials.workspace_id, workspace_secret=credentials.workspace_secret),
        timeout=SECONDS,
    )
    assert 14 * 60 < token.expires_at.seconds - time.time() <= 15 * 60
    task = tasks_pb2_grpc.TaskServiceStub(channel).GetTask(
        tasks_pb2.GetTaskRequest(task_id=rest.submit("nobody_takes_this", {})),
        metadata=(("authorization", f"Bearer {token.token}"),),
        timeout=SECONDS,
    )
    assert task.status == tasks_pb2.TASK_STATUS_PENDING


def test_life_of_a_task(tasks: tasks_pb2_grpc.TaskServiceStub, bearer: Metadata) -> None:
    """Submit, events and result carry what the specification's messages say."""
    request = tasks_pb2.SubmitTaskRequest(workspace_id="ws-1234", type="echo", metadata={"priority": "high"})
    request.payload.update({"input_uri": "s3://bucket/path/input.json"})
    summary = tasks.SubmitTask(request, metadata=bearer, timeout=SECONDS)
    assert uuid.UUID(summary.task_id)
    assert summary.status == tasks_pb2.TASK_STATUS_PENDING
    events = list(
        tasks.StreamTaskEvents(
            tasks_pb2.StreamTaskEventsRequest(task_id=summary.task_id), metadata=bearer, timeout=SECONDS
        )
    )
    assert [(event.task_id, event.status, event.sequence) for event in events] == [
        (summary.task_id, tasks_pb2.TASK_STATUS_PENDING, 1),
        (summary.task_id, tasks_pb2.TASK_STATUS_RUNNING, 2),
        (summary.task_id, tasks_pb2.TASK_STATUS_SUCCEEDED, 3),
    ]
    assert events[0].occurred_at == summary.submitted_at
    detail = tasks.GetTask(tasks_pb2.GetTaskRequest(task_id=summary.task_id), metadata=bearer, timeout=SECONDS)
    assert detail == tasks_pb2.TaskDetail(
        task_id=summary.task_id,
        status=tasks_pb2.TASK_STATUS_SUCCEEDED,
        submitted_at=summary.submitted_at,
        updated_at=events[-1].occurred_at,
        result=request.payload,
        type="echo",
        metadata={"priority": "high"},
        priority=1,
        attempt=1,
        expire_time=detail.expire_time,
    )


def test_stream_resumes(tasks: tasks_pb2_grpc.TaskServiceStub, bearer: Metadata, rest: Rest) -> None:
    """A stream goes on after the sequence that the caller has; after the last one it is empty."""
    task_id = rest.submit("echo", {})
    rest.events(task_id)
    for after in (1, 2, 3):
        request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id, after_sequence=after)
        rest_of_them = tasks.StreamTaskEvents(request, metadata=bearer, timeout=SECONDS)
        assert [event.sequence for event in rest_of_them] == list(range(after + 1, 4))


def test_unknown_task_is_the_specifications_error(tasks: tasks_pb2_grpc.TaskServiceStub, bearer: Metadata) -> None:
    """`status.details` carries the same machine-readable error as REST: for a unary call and for a stream."""
    with pytest.raises(grpc.RpcError) as unary:
        tasks.GetTask(tasks_pb2.GetTaskRequest(task_id="task-1f7f"), metadata=bearer, timeout=SECONDS)
    with pytest.raises(grpc.RpcError) as stream:
        list(
            tasks.StreamTaskEvents(
                tasks_pb2.StreamTaskEventsRequest(task_id="task-1f7f"), metadata=bearer, timeout=SECONDS
            )
        )
    for raised in (unary, stream):
        error = grpc_error(raised.value)
        assert (error.code, error.message) == ("TASK_NOT_FOUND", "Task task-1f7f does not exist")


def test_token_is_asked_for(
    stack: StackInfo, credentials: Credentials, tasks: tasks_pb2_grpc.TaskServiceStub, bearer: Metadata
) -> None:
    """No token, a tampered one, an expired one: UNAUTHENTICATED, each with its code."""
    value = str(bearer[0][1])
    tampered = value[:-10] + ("A" if value[-10] != "A" else "B") + value[-9:]
    cases: list[tuple[str, Metadata]] = [
        ("TOKEN_MISSING", ()),
        ("TOKEN_INVALID", (("authorization", tampered),)),
        ("TOKEN_EXPIRED", (("authorization", f"Bearer {expired_token(stack, credentials)}"),)),
    ]
    for code, metadata in cases:
        with pytest.raises(grpc.RpcError) as raised:
            tasks.GetTask(tasks_pb2.GetTaskRequest(task_id="task-1f7f"), metadata=metadata, timeout=SECONDS)
        assert grpc_error(raised.value).code == code


def test_quota_reaches_grpc(stack: StackInfo) -> None:
    """Past its plan's rate, a workspace's gRPC calls through Envoy end RESOURCE_EXHAUSTED, with `retry-after`."""
    credentials = create(stack, "free")
    refusals: list[grpc.RpcError] = []
    with (
        Rest(stack.rest_url, credentials) as hasty,
        grpc.insecure_channel(stack.envoy_grpc_target, [("grpc.enable_http_proxy", 0)]) as channel,
    ):
        for _ in range(60):
            with pytest.raises(grpc.RpcError) as raised:
                tasks_pb2_grpc.TaskServiceStub(channel).GetTask(
                    tasks_pb2.GetTaskRequest(task_id="task-1f7f"),
                    metadata=(("authorization", f"Bearer {hasty.token}"),),
                    timeout=SECONDS,
                )
            refusals.append(raised.value)
    codes = [grpc_error(refusal).code for refusal in refusals]
    assert set(codes) == {"TASK_NOT_FOUND", "RATE_LIMITED"}
    limited = failed_call(refusals[codes.index("RATE_LIMITED")])
    told = {entry[0]: entry[1] for entry in (*limited.initial_metadata(), *limited.trailing_metadata())}
    assert int(told["retry-after"]) >= 1


@pytest.mark.parametrize("text", [False, True])
def test_browser_calls_by_grpc_web(stack: StackInfo, rest: Rest, *, text: bool) -> None:
    """gRPC-Web, binary and base64, on the port of REST: a message and its trailers come in the body."""
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    headers = {"content-type": kind, "accept": kind, "x-grpc-web": "1", "authorization": f"Bearer {rest.token}"}
    task_id = rest.submit("nobody_takes_this", {})

    def call(method: str, message: bytes) -> tuple[list[bytes], dict[str, str]]:
        framed = struct.pack(">BI", 0, len(message)) + message
        answer = httpx.post(
            f"{stack.rest_url}/openmcp.chain.v1.TaskService/{method}",
            headers=headers,
            content=base64.b64encode(framed) if text else framed,
            timeout=SECONDS,
            verify=NOBODY,
        )
        assert answer.status_code == 200
        return _frames(_unpadded(answer.content) if text else answer.content, answer.headers)

    messages, trailers = call("GetTask", tasks_pb2.GetTaskRequest(task_id=task_id).SerializeToString())
    assert trailers["grpc-status"] == "0"
    assert tasks_pb2.TaskDetail.FromString(messages[0]).task_id == task_id
    ended = rest.submit("echo", {})
    messages, trailers = call("StreamTaskEvents", tasks_pb2.StreamTaskEventsRequest(task_id=ended).SerializeToString())
    assert [tasks_pb2.TaskEvent.FromString(message).sequence for message in messages] == [1, 2, 3]
    messages, trailers = call("GetTask", tasks_pb2.GetTaskRequest(task_id="task-1f7f").SerializeToString())
    assert (messages, trailers["grpc-status"]) == ([], "5")


def _unpadded(encoded: bytes) -> bytes:
    """The bytes of grpc-web-text, in which each frame may be padded by itself."""
    return b"".join(base64.b64decode(encoded[at : at + 4]) for at in range(0, len(encoded), 4))


def _frames(data: bytes, headers: httpx.Headers) -> tuple[list[bytes], dict[str, str]]:
    """The messages and the trailers; these are among the headers if nothing else was said."""
    messages: list[bytes] = []
    trailers = {name: value for name, value in headers.items() if name.startswith("grpc-")}
    while data:
        flag, length = struct.unpack(">BI", data[:5])
        frame, data = data[5 : 5 + length], data[5 + length :]
        if flag & 0x80:
            lines = [line.partition(":") for line in frame.decode().splitlines()]
            trailers |= {name.lower(): value.strip() for name, _, value in lines}
        else:
            messages.append(frame)
    return messages, trailers
