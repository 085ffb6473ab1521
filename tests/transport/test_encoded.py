"""Answers that carry stored bytes: what clients decode is what a message of it all would be."""

import pytest
from google.protobuf.struct_pb2 import Struct

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain.transport.encoded import encode


def struct(characters: int) -> Struct:
    made = Struct()
    made.update({"text": "x" * characters})
    return made


@pytest.mark.parametrize("size", [0, 100, 127, 128, 20_000, 1_000_000])
def test_fields_behind_a_message_are_its_own(size: int) -> None:
    """Whatever their length, beside fields that the message has."""
    whole = tasks_pb2.TaskDetail(task_id="t", dedupe_key="k", payload=struct(size), result=Struct())
    encoded = encode(
        tasks_pb2.TaskDetail(task_id="t", dedupe_key="k"), payload=struct(size).SerializeToString(), result=b""
    )
    assert tasks_pb2.TaskDetail.FromString(encoded) == whole
    assert len(encoded) == whole.ByteSize()
    assert tasks_pb2.TaskDetail.FromString(encoded).HasField("result")


def test_what_is_none_is_unset() -> None:
    """A task that has no result yet has no empty one either."""
    assert encode(tasks_pb2.TaskDetail(task_id="t"), result=None) == b"\x0a\x01t"


def test_repeated_fields_and_alternatives() -> None:
    """Lists keep their order; of a oneof, what was put behind is what counts."""
    details = [tasks_pb2.TaskDetail(task_id=str(number)) for number in range(3)]
    rest = tasks_pb2.ListTasksResponse(next_page_token="more")
    listed = encode(rest, tasks=[encode(detail) for detail in details])
    assert tasks_pb2.ListTasksResponse.FromString(listed) == tasks_pb2.ListTasksResponse(
        tasks=details, next_page_token="more"
    )
    leased = encode(workers_pb2.WorkResponse(), task=encode(workers_pb2.LeasedTask(type="echo")))
    assert workers_pb2.WorkResponse.FromString(leased).task.type == "echo"
