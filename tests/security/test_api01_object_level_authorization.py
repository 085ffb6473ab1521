"""API1:2023 Broken Object Level Authorization: to name what is another's is to name what is not there.

What is special to one kind of thing; over every method and each name in it: `test_api01_every_name.py`.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from security.access import HAS, NEEDS
from security.conftest import OPERATED, Caller, People
from support.doors import OK, Door, Grpc, Rest, Told, bearer
from support.methods import METHODS

from openmcp.chain.v1 import tasks_pb2, workers_pb2

TASKS = "/openmcp.chain.v1.TaskService"
WORKERS = "/openmcp.chain.v1.WorkerService"
WORK = f"{WORKERS}/Work"
NO_TASK = "01900000-0000-7000-8000-000000000000"


def having(name: str) -> list[str]:
    """The methods whose request has this field itself."""
    return sorted(
        path
        for path, method in METHODS.items()
        if path.startswith("/openmcp.") and name in method.input_type.fields_by_name and not method.client_streaming
    )


def request(path: str, **given: Any) -> Any:
    """A request that waits for nothing."""
    made: Any = GetMessageClass(METHODS[path].input_type)(**given)
    if "timeout" in made.DESCRIPTOR.fields_by_name:
        made.timeout.SetInParent()
    return made


@dataclass(frozen=True, slots=True)
class Leased:
    """A task of the owner's that a worker of its own holds."""

    task_id: str
    lease: Mapping[str, str]


@pytest.fixture(scope="package")
def waiting(native: Grpc, people: People) -> str:
    """A task of the owner's that waits."""
    return submitted(native, people.owner, "waiting")


@pytest.fixture(scope="package")
def ended(native: Grpc, people: People) -> str:
    """A task of the owner's that was cancelled."""
    task_id = submitted(native, people.owner, "waiting")
    assert native.ask(f"{TASKS}/CancelTask", people.owner.token, task_id=task_id).code == OK
    return task_id


@pytest.fixture
def leased(native: Grpc, people: People) -> Leased:
    task_id = submitted(native, people.owner, "held")
    answer = native.ask(
        f"{WORKERS}/LeaseTasks", people.owner.token, worker_name="w", task_types=["held"], wait={"seconds": 10}
    )
    (task,) = answer.body["tasks"]
    return Leased(task_id, task["lease"])


def submitted(door: Door, caller: Caller, task_type: str, **given: Any) -> str:
    answer = door.ask(f"{TASKS}/SubmitTask", caller.token, type=task_type, **given)
    assert answer.code == OK, answer
    return str(answer.body["task_id"])


def as_it_is(native: Grpc, owner: Caller, task_id: str) -> Any:
    """All that the owner can see of a task."""
    detail = native.ask(f"{TASKS}/GetTask", owner.token, task_id=task_id, view="TASK_VIEW_FULL")
    assert detail.code == OK
    return detail.body


@pytest.mark.parametrize("path", having("task_id"))
def test_anothers_task(door: Door, native: Grpc, people: People, waiting: str, ended: str, path: str) -> None:
    """By every method that names a task: to everyone else it is as one that never was, and nothing happens to it."""
    for task_id in (waiting, ended):
        before = as_it_is(native, people.owner, task_id)
        for caller in people.others:
            for spelt in (task_id, task_id.upper()):
                told = door.call(path, request(path, task_id=spelt), headers=bearer(caller.token))
                missing = door.call(path, request(path, task_id=NO_TASK), headers=bearer(caller.token))
                assert told.naming(task_id) == missing.naming(NO_TASK)
                expected = "TASK_NOT_FOUND" if NEEDS[path] in HAS[caller.kind] else "SCOPE_MISSING"
                assert told.code == expected
        assert as_it_is(native, people.owner, task_id) == before
    mine = door.call(path, request(path, task_id=waiting), headers=bearer(people.owner.token))
    assert mine.code in (OK, "TASK_NOT_RETRYABLE")
    if path.endswith("/CancelTask"):
        assert native.ask(f"{TASKS}/RetryTask", people.owner.token, task_id=waiting).code == OK


REPORTS = [
    name
    for name, field in workers_pb2.WorkRequest.DESCRIPTOR.fields_by_name.items()
    if field.message_type is not None and "lease" in field.message_type.fields_by_name
]
"""What a worker's stream says of a lease."""


def refs(leased: Leased, caller: Caller) -> list[Mapping[str, str]]:
    """The lease itself, as one who saw it would name it, and as one who would make it his own."""
    return [dict(leased.lease), {**leased.lease, "workspace_id": caller.workspace_id}]


def invented(ref: Mapping[str, str]) -> Mapping[str, str]:
    return {**ref, "task_id": NO_TASK}


@pytest.mark.parametrize("path", having("lease"))
def test_anothers_lease(door: Door, native: Grpc, people: People, leased: Leased, path: str) -> None:
    """By every call that names a lease: known or guessed, it is nobody else's, and its holder goes on."""
    before = as_it_is(native, people.owner, leased.task_id)
    for caller in people.others:
        for ref in refs(leased, caller):
            told = door.call(path, request(path, lease=ref, **_rest(path)), headers=bearer(caller.token))
            made_up = request(path, lease=invented(ref), **_rest(path))
            missing = door.call(path, made_up, headers=bearer(caller.token))
            assert told == missing
            assert told.code == ("LEASE_LOST" if "worker" in HAS[caller.kind] else "SCOPE_MISSING")
    assert as_it_is(native, people.owner, leased.task_id) == before
    _still_held(native, people, leased)


def _rest(path: str) -> Mapping[str, Any]:
    """What else a report needs, so that it is the lease that it is refused for."""
    return {"code": "X"} if path.endswith("/FailTask") else {}


def _still_held(native: Grpc, people: People, leased: Leased) -> None:
    told = native.ask(f"{WORKERS}/CompleteTask", people.owner.token, lease=leased.lease)
    assert told.code == OK
    assert as_it_is(native, people.owner, leased.task_id)["status"] == "TASK_STATUS_SUCCEEDED"


@pytest.mark.parametrize("kind", REPORTS)
def test_anothers_lease_on_a_stream(door: Door, native: Grpc, people: People, leased: Leased, kind: str) -> None:
    """The same by each message of a worker's stream, also of one that says it held the lease before."""
    for caller in (people.stranger, people.operator):
        acks = []
        for ref in (leased.lease, invented(leased.lease)):
            named = workers_pb2.LeaseRef(**ref)
            hello = workers_pb2.Hello(worker_name="w", task_types=[OPERATED], max_concurrency=1, held=[named])
            report: Any = workers_pb2.WorkRequest()
            getattr(report, kind).lease.CopyFrom(named)
            if kind == "fail":
                report.fail.code = "X"
            told = door.call(WORK, workers_pb2.WorkRequest(hello=hello), report, headers=bearer(caller.token))
            assert told.code == OK
            (ack,) = [one["ack"] for one in told.body if "ack" in one]
            acks.append({name: value for name, value in ack.items() if name != "lease"})
        assert acks[0] == acks[1]
        assert acks[0]["error_code"] == "LEASE_LOST"
    _still_held(native, people, leased)


def test_anothers_tasks_in_a_batch(door: Door, people: People, waiting: str) -> None:
    """In a batch too, another's task is one that is not there."""
    told = door.ask(f"{TASKS}/BatchGetTasks", people.stranger.token, task_ids=[waiting, NO_TASK])
    assert told.code == OK
    assert not told.body.get("tasks")
    assert told.body["not_found"] == [waiting, NO_TASK]


@pytest.mark.parametrize("selected", ["", 'type = "waiting"', "status = CANCELLED OR status = PENDING"])
def test_lists_are_of_ones_own(door: Door, people: People, waiting: str, ended: str, selected: str) -> None:
    """No filter shows or retries another's tasks."""
    for method in ("ListTasks", "BatchRetryTasks"):
        told = door.ask(f"{TASKS}/{method}", people.stranger.token, filter=selected)
        assert told.code == OK
        assert not [task_id for task_id in (waiting, ended) if task_id in told.text]


def test_anothers_page(door: Door, people: People, waiting: str, ended: str) -> None:
    """A page's token is of no use to another: it is refused as one of another list of one's own is."""
    page = door.ask(f"{TASKS}/ListTasks", people.owner.token, page_size=1).body["next_page_token"]
    assert page
    told = [
        door.ask(f"{TASKS}/ListTasks", people.stranger.token, page_token=page),
        door.ask(f"{TASKS}/ListTasks", people.owner.token, page_token=page, filter="priority = 1"),
    ]
    assert told[0] == told[1]
    assert told[0].fields == ["page_token"]


@pytest.mark.parametrize("field", ["request_id", "dedupe_key"])
def test_anothers_key(door: Door, people: People, field: str) -> None:
    """What makes a submit safe to repeat says nothing of another workspace's: each gets a task of its own."""
    given = {field: str(uuid.uuid5(uuid.NAMESPACE_URL, door.name))}
    own = [submitted(door, caller, "keyed", **given) for caller in (people.owner, people.stranger)]
    assert own[0] != own[1]
    again = door.ask(f"{TASKS}/SubmitTask", people.stranger.token, type="other", **given)
    assert again.code in ("REQUEST_ID_REUSED", "DEDUPE_KEY_TAKEN")
    assert own[0] not in again.text


def test_anothers_queue(rest: Rest, people: People, waiting: str) -> None:
    """To pause a type is to pause one's own queue of that name."""
    stranger, owner = people.stranger.token, people.owner.token
    before = rest.ask(f"{TASKS}/ListTaskTypes", owner)
    assert rest.ask(f"{TASKS}/PauseTaskType", stranger, type="waiting").body["task_type"]["paused"]
    try:
        assert rest.ask(f"{TASKS}/ListTaskTypes", owner) == before
    finally:
        assert rest.ask(f"{TASKS}/ResumeTaskType", stranger, type="waiting").code == OK


def test_another_workspace(door: Door, people: People) -> None:
    """To submit into another workspace is refused alike whether it exists or not, in a batch as well."""
    told: list[Told] = []
    for workspace_id in (people.owner.workspace_id, people.operator.workspace_id, "nobody"):
        one = tasks_pb2.SubmitTaskRequest(type="x", workspace_id=workspace_id)
        headers = bearer(people.stranger.token)
        told.append(door.call(f"{TASKS}/SubmitTask", one, headers=headers))
        batch = door.call(
            f"{TASKS}/BatchSubmitTasks", tasks_pb2.BatchSubmitTasksRequest(requests=[one]), headers=headers
        )
        assert batch.body["results"][0]["error"]["code"] == "WORKSPACE_MISMATCH"
    assert {one.code for one in told} == {"WORKSPACE_MISMATCH"}
    assert told[0] == told[1] == told[2]


def test_an_operator_has_its_types_only(door: Door, native: Grpc, people: People, leased: Leased) -> None:
    """An operator's credential reaches no queue but those of its types, in no workspace."""
    for types in (["held"], [OPERATED, "held"]):
        told = door.ask(f"{WORKERS}/LeaseTasks", people.operator.token, worker_name="w", task_types=types)
        assert told.code == "TYPE_NOT_ALLOWED"
    _still_held(native, people, leased)


ADMINISTRATION = sorted(path for path, scope in NEEDS.items() if scope == "admin")


@pytest.mark.parametrize("path", ADMINISTRATION)
def test_workspaces_are_the_administrators(door: Door, people: People, path: str) -> None:
    """Whoever is no administrator is told the same of its own workspace, another's, and one that does not exist."""
    names = [name for name in ("workspace_id", "secret_id") if name in METHODS[path].input_type.fields_by_name]
    for caller in (people.owner, people.stranger, people.operator):
        ids = (caller.workspace_id, people.administrator.workspace_id, "nobody")
        told = [
            door.call(path, request(path, **dict.fromkeys(names, value)), headers=bearer(caller.token)) for value in ids
        ]
        assert told[0] == told[1] == told[2]
        assert told[0].code == "SCOPE_MISSING"


def test_names_are_found() -> None:
    """The tests above have methods to try; a change of a field's name must not leave them without."""
    assert len(having("task_id")) > 4
    assert len(having("lease")) > 3
    assert len(REPORTS) > 4
