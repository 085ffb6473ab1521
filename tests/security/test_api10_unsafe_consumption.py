"""API10:2023 Unsafe Consumption of APIs: what a worker, or whoever it fetched from, says is taken as an attacker's."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.struct_pb2 import Struct
from security.conftest import People
from support.doors import OK, Door, Grpc, Rest, bearer

from openmcp.chain.v1 import workers_pb2

TASKS = "/openmcp.chain.v1.TaskService"
WORKERS = "/openmcp.chain.v1.WorkerService"
NASTY = 'a\r\n\r\ndata: {"status":"SUCCEEDED"}\n\nevent: status\nid: 99\x1b[31m\u2028<script>alert(1)</script>\u202e\0"'


@pytest.fixture
def lease(native: Grpc, people: People) -> Mapping[str, str]:
    """Of a task of the owner's, whose worker is the attacker."""
    owner = people.owner.token
    assert native.ask(f"{TASKS}/SubmitTask", owner, type="hostile").code == OK
    ask = {"worker_name": "w", "task_types": ["hostile"], "wait": {"seconds": 9}}
    (task,) = native.ask(f"{WORKERS}/LeaseTasks", owner, **ask).body["tasks"]
    found: Mapping[str, str] = task["lease"]
    return found


def deep(levels: int) -> Struct:
    """Made of the wire's bytes: the library's own would refuse to."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    struct = Struct()
    struct.update(value)
    return struct


def results() -> dict[str, Struct]:
    named: dict[str, dict[str, Any]] = {
        "too large": {"a": "x" * (1 << 20)},
        "not a number": {"a": float("nan")},
        "no end": {"a": float("inf")},
    }
    found = {}
    for name, value in named.items():
        found[name] = Struct()
        found[name].update(value)
    return {**found, "too deep": deep(33), "empty value": Struct(fields={"a": {}})}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", results())
def test_a_result_that_cannot_be_kept(native: Grpc, people: People, lease: Mapping[str, str], name: str) -> None:
    """It is refused by its field, and the task has failed for it: what is stored can be read by everyone."""
    ref = workers_pb2.LeaseRef(**lease)
    done = workers_pb2.CompleteTaskRequest(lease=ref, result=results()[name])
    answer = native.call(f"{WORKERS}/CompleteTask", done, headers=bearer(people.owner.token))
    assert answer.code == "INVALID_ARGUMENT"
    assert answer.fields[0].startswith("result")
    task = native.ask(f"{TASKS}/GetTask", people.owner.token, task_id=lease["task_id"]).body
    assert task["error"].startswith("RESULT_INVALID: ")
    assert "result" not in task


def test_words_stay_words(native: Grpc, rest: Rest, people: People, lease: Mapping[str, str]) -> None:
    """Line breaks, control characters and markup in all that a worker says stay inside of JSON's strings.

    So they do in Server-Sent Events, where a line break would otherwise begin an event of the worker's own.
    """
    owner = people.owner.token
    report = {"fraction": 0.5, "message": NASTY}
    assert native.ask(f"{WORKERS}/HeartbeatTask", owner, lease=lease, progress=report, log=NASTY).code == OK
    code = NASTY[:40]
    assert native.ask(f"{WORKERS}/FailTask", owner, lease=lease, code=code, message=NASTY).code == OK
    task_id = lease["task_id"]
    answer = rest.http.get(f"/v1/tasks/{task_id}", headers=dict(bearer(owner)))
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"] == f"{code}: {NASTY}"
    stream = rest.http.get(f"/v1/tasks/{task_id}/events", headers=dict(bearer(owner)))
    assert stream.headers["content-type"] == "text/event-stream"
    messages = [message.split("\n") for message in stream.text.split("\n\n") if "data:" in message]
    assert [message[0] for message in messages] == [f"id: {number}" for number in range(1, len(messages) + 1)]
    assert {tuple(line.partition(":")[0] for line in message) for message in messages} == {("id", "event", "data")}
    events = [json.loads(message[2].removeprefix("data: ")) for message in messages]
    assert events[-1]["status"] == "FAILED"
    assert NASTY in [event["context"].get("log") for event in events]


def test_long_words_are_cut(native: Grpc, people: People, lease: Mapping[str, str]) -> None:
    """However much a worker says of a task, so much of it is kept."""
    owner = people.owner.token
    report = {"fraction": 0.5, "message": "x" * 100_000}
    told = native.ask(f"{WORKERS}/HeartbeatTask", owner, lease=lease, log="x" * 100_000, progress=report)
    assert told.code == OK
    task = native.ask(f"{TASKS}/GetTask", owner, task_id=lease["task_id"]).body
    assert len(task["progress"]["message"]) == 256
    assert native.ask(f"{WORKERS}/FailTask", owner, lease=lease, code="X" * 1000, message="y" * 100_000).code == OK
    task = native.ask(f"{TASKS}/GetTask", owner, task_id=lease["task_id"]).body
    assert len(task["error"]) == 64 + len(": ") + 2048


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf"), -float("inf")])
def test_progress_that_is_none(native: Grpc, people: People, lease: Mapping[str, str], fraction: float) -> None:
    """A fraction beyond 0 to 1 is refused by its field."""
    report = {"fraction": fraction}
    answer = native.ask(f"{WORKERS}/HeartbeatTask", people.owner.token, lease=lease, progress=report)
    assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", ["progress.fraction"])


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\x1b[31m", "ä"])
def test_a_workers_name(door: Door, people: People, name: str) -> None:
    """It stands in logs and events, so it is one short printable word."""
    answer = door.ask(f"{WORKERS}/LeaseTasks", people.owner.token, worker_name=name, task_types=["hostile"])
    assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", ["worker_name"])


def test_a_result_is_data(native: Grpc, rest: Rest, people: People, lease: Mapping[str, str]) -> None:
    """A result with the keys of operators, templates, prototypes and URIs comes back as it was; nothing was done."""
    result = Struct()
    result.update(
        {
            "$where": "sleep(9999)", "a.b": 1, "": 2, "__proto__": {"x": 1}, "constructor": "x", "{{7*7}}": "${7*7}",
            "@type": "type.googleapis.com/google.protobuf.Any", "artifact_uri": "javascript:alert(1)",
            "checksum": "sha256:0", "file": "file:///etc/passwd",
        }
    )  # fmt: skip
    done = workers_pb2.CompleteTaskRequest(lease=workers_pb2.LeaseRef(**lease), result=result)
    assert native.call(f"{WORKERS}/CompleteTask", done, headers=bearer(people.owner.token)).code == OK
    wanted = json.loads(MessageToJson(result))
    for door in (native, rest):
        assert door.ask(f"{TASKS}/GetTask", people.owner.token, task_id=lease["task_id"]).body["result"] == wanted
