"""Server-Sent Events through the real Envoy: order, resumption, and how an EventSource is told to stop."""

from pathlib import Path

import pytest
from contract.errorshape import rest_error
from google.protobuf.json_format import MessageToDict
from support.rest import EventStream, Rest

from openmcp.chain.v1 import tasks_pb2

LIFE = ["PENDING", "RUNNING", "SUCCEEDED"]


def shape(stream: EventStream) -> list[tuple[str, str, str]]:
    return [(message.id, message.event, message.data["status"]) for message in stream.messages]


def test_whole_life_is_told(rest: Rest) -> None:
    """A stream has one message for each transition, numbered from 1, and ends after the terminal one."""
    task_id = rest.submit("echo", {})
    stream = rest.events(task_id)
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-cache"
    assert stream.retry == "1000"
    assert shape(stream) == [(str(n), "status", status) for n, status in enumerate(LIFE, 1)]
    times = [message.data["occurred_at"] for message in stream.messages]
    assert times == sorted(times)


def test_message_is_the_json_of_the_event(rest: Rest) -> None:
    """A message's data is a TaskEvent as the contract's JSON has it, with the status spelled as REST does."""
    task_id = rest.submit("fail", {"code": "BAD", "message": "ünï\n\r\u2028data: x"})
    for message in rest.events(task_id).messages:
        data = dict(message.data)
        event = tasks_pb2.TaskEvent(status=tasks_pb2.TaskStatus.Value(f"TASK_STATUS_{data.pop('status')}"))
        event.task_id, event.sequence = data["task_id"], data["sequence"]
        event.occurred_at.FromJsonString(data["occurred_at"])
        event.context.update(data["context"])
        event.context.SetInParent()
        assert MessageToDict(event) | {"status": None} == data | {"status": None}


def test_events_arrive_as_they_happen(rest: Rest, tmp_path: Path) -> None:
    """A message is there while the task still runs, not when the response is complete."""
    task_id = rest.submit("hold", {"until": str(tmp_path / "released")})
    assert shape(rest.events(task_id, until="RUNNING"))[-1] == ("2", "status", "RUNNING")
    (tmp_path / "released").touch()
    assert shape(rest.events(task_id))[-1] == ("3", "status", "SUCCEEDED")


@pytest.mark.parametrize("after", [1, 2])
def test_last_event_id_resumes(rest: Rest, after: int) -> None:
    """`Last-Event-ID` gets the events after that one, and wins over `after_sequence`."""
    task_id = rest.submit("echo", {})
    rest.events(task_id)
    assert shape(rest.events(task_id, str(after))) == shape(rest.events(task_id))[after:]
    by_query = rest.http.get(f"/v1/tasks/{task_id}/events", params={"after_sequence": after})
    both = rest.http.get(
        f"/v1/tasks/{task_id}/events", params={"after_sequence": 3 - after}, headers={"last-event-id": str(after)}
    )
    assert both.text == by_query.text


def test_who_has_the_last_event_is_told_to_stop(rest: Rest) -> None:
    """204 after the terminal event: an EventSource does not come back from that (WHATWG HTML, 9.2.3)."""
    task_id = rest.submit("echo", {})
    last = rest.events(task_id).messages[-1]
    answer = rest.http.get(f"/v1/tasks/{task_id}/events", headers={"last-event-id": last.id})
    assert (answer.status_code, answer.content) == (204, b"")
    assert "x-openmcp-end-of-stream" not in answer.headers


@pytest.mark.parametrize(
    ("last_event_id", "code"),
    [
        ("4", "SEQUENCE_OUT_OF_RANGE"),
        ("x", "INVALID_ARGUMENT"),
        ("-1", "INVALID_ARGUMENT"),
        ("9" * 30, "INVALID_ARGUMENT"),
    ],
)
def test_event_that_never_was_is_refused(rest: Rest, last_event_id: str, code: str) -> None:
    """Resuming after an event that the task has not is an error, never a silent gap."""
    task_id = rest.submit("echo", {})
    rest.events(task_id)
    answer = rest.http.get(f"/v1/tasks/{task_id}/events", headers={"last-event-id": last_event_id})
    assert rest_error(answer.status_code, answer.headers["content-type"], answer.content)["code"] == code
