"""Today's contract beside the specification's own messages, and in the hands of a client of version 1.0."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from support.rest import Rest
from support.workspaces import Credentials

from openmcp.chain.v1 import auth_pb2, tasks_pb2

HERE = Path(__file__).parent
PACKAGE = "openmcp.chain.v1"
Metadata = tuple[tuple[str, str | bytes], ...]


@pytest.fixture(scope="module")
def specified(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptor:
    """The specification's own proto blocks, compiled."""
    out = tmp_path_factory.mktemp("specification") / "set.binpb"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={HERE}"),
            *("--include_imports", f"--descriptor_set_out={out}", "specification.proto"),
        ],
        check=True,
    )
    file: FileDescriptor = _pool(out.read_bytes()).FindFileByName("specification.proto")
    return file


class Released:
    """A client that was built from the contract of version 1.0, and knows no other."""

    def __init__(self) -> None:
        self._pool = _pool((HERE / "v1.0.binpb").read_bytes())

    def message(self, name: str, **fields: Any) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))(**fields)

    def call(
        self, channel: grpc.Channel, service: str, method: str, request: Message, metadata: Metadata = ()
    ) -> Iterator[Any]:
        """The answers to a call."""
        known: MethodDescriptor = self._pool.FindMethodByName(f"{PACKAGE}.{service}.{method}")
        opened: grpc.UnaryStreamMultiCallable[Any, Any] = channel.unary_stream(
            f"/{PACKAGE}.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(known.output_type).FromString,
        )
        # A unary answer is a stream of one on the wire.
        yield from opened(request, metadata=metadata, timeout=20)


def _pool(descriptors: bytes) -> Any:
    pool = descriptor_pool.DescriptorPool()
    for file in FileDescriptorSet.FromString(descriptors).file:
        pool.Add(file)
    return pool


def _kind(field: FieldDescriptor) -> tuple[Any, ...]:
    return (
        field.number,
        field.name,
        field.type,
        field.is_repeated,
        field.message_type and field.message_type.full_name,
        field.enum_type and field.enum_type.full_name,
    )


def test_specified_messages_stand(specified: FileDescriptor) -> None:
    """Every message, field, number and type of the specification is in the contract; it only ever adds."""
    ours = {**auth_pb2.DESCRIPTOR.message_types_by_name, **tasks_pb2.DESCRIPTOR.message_types_by_name}
    assert len(specified.message_types_by_name) == 8
    for name, message in specified.message_types_by_name.items():
        assert {_kind(field) for field in message.fields} <= {_kind(field) for field in ours[name].fields}, name


def test_specified_enum_stands(specified: FileDescriptor) -> None:
    """Every status has the specification's name and number."""
    values = {value.name: value.number for value in specified.enum_types_by_name["TaskStatus"].values}
    assert len(values) == 5
    assert values.items() <= dict(tasks_pb2.TaskStatus.items()).items()


def test_specified_services_stand(specified: FileDescriptor) -> None:
    """Every method has the specification's name, messages and direction."""
    ours = {**auth_pb2.DESCRIPTOR.services_by_name, **tasks_pb2.DESCRIPTOR.services_by_name}
    for service in specified.services_by_name.values():
        for method in service.methods:
            now = ours[service.name].methods_by_name[method.name]
            assert (
                now.input_type.full_name,
                now.output_type.full_name,
                now.client_streaming,
                now.server_streaming,
            ) == (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
    assert [service.full_name for service in specified.services_by_name.values()] == [
        f"{PACKAGE}.AuthService",
        f"{PACKAGE}.TaskService",
    ]


def test_released_client_still_works(channel: grpc.Channel, credentials: Credentials, rest: Rest) -> None:
    """A client of version 1.0 signs in, submits, follows and reads, at today's server."""
    client = Released()
    sign_in = client.message(
        "AuthRequest", workspace_id=credentials.workspace_id, workspace_secret=credentials.workspace_secret
    )
    (token,) = client.call(channel, "AuthService", "Authenticate", sign_in)
    metadata = (("authorization", f"Bearer {token.token}"),)
    submit = client.message("SubmitTaskRequest", workspace_id="ws-1234", type="echo", metadata={"priority": "low"})
    submit.payload.update({"deep": [{"a": None}, 1.5, "x"]})
    (summary,) = client.call(channel, "TaskService", "SubmitTask", submit, metadata)
    follow = client.message("StreamTaskEventsRequest", task_id=summary.task_id)
    assert [event.status for event in client.call(channel, "TaskService", "StreamTaskEvents", follow, metadata)] == [
        1,
        2,
        3,
    ]
    read = client.message("GetTaskRequest", task_id=summary.task_id)
    (detail,) = client.call(channel, "TaskService", "GetTask", read, metadata)
    assert (detail.status, MessageToDict(detail.result)) == (3, {"deep": [{"a": None}, 1.5, "x"]})


def test_released_client_meets_what_is_newer() -> None:
    """A status and a field that came after version 1.0 are read, kept and passed on by its client, unknown."""
    client = Released()
    newer = tasks_pb2.TaskDetail(task_id="1", error="x").SerializeToString() + b"\x10\x63" + b"\xf2\x7f\x03new"
    read = client.message("TaskDetail")
    read.ParseFromString(newer)
    assert (read.task_id, read.status, read.error) == ("1", 99, "x")
    assert MessageToDict(read)["status"] == 99
    assert tasks_pb2.TaskDetail.FromString(read.SerializeToString()).SerializeToString() == read.SerializeToString()
    assert len(read.SerializeToString()) == len(newer)
