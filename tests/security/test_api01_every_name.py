"""API1:2023 Broken Object Level Authorization, over every method and all that a request can name.

Each field by which a method names or selects what somebody has is asked by those who have no right to it, by itself and
with the others: once with what is the owner's, once with what nobody has. So a new method is asked as soon as it is in
the contract. A new field fails `test_every_field_is_known` until it is said whether it names a thing, and one that does
fails `test_names` until it is said what the owner has of it.
"""

import json
import queue
import re
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from security.access import NEEDS, OPEN
from security.conftest import OPERATED, People, sign_in
from support.doors import OK, SECONDS, Door, Grpc, Rest, Told, bearer
from support.methods import METHODS

from openmcp.chain.v1 import workers_pb2, workers_pb2_grpc

TASKS = "/openmcp.chain.v1.TaskService"
WORKERS = "/openmcp.chain.v1.WorkerService"
CREATE = "/openmcp.chain.v1.WorkspaceService/CreateWorkspace"
OURS = sorted(path for path in METHODS if path.startswith("/openmcp."))

NAMING = {
    "task_id": "a task",
    "task_ids": "tasks",
    "lease": "a task and who works on it",
    "held": "the same",
    "workspace_id": "a workspace",
    "secret_id": "a secret",
    "page_token": "a place in a list of somebody's",
    "request_id": "what was submitted or leased before",
    "dedupe_key": "what was submitted before",
    "type": "a queue of the workspace's own",
    "task_types": "queues",
    "filter": "tasks",
}
"""Fields that name or select a thing which somebody has; what is in them is not looked at by itself."""
# fmt: off
PLAIN = frozenset((
    "view", "timeout", "page_size", "limit", "after_sequence", "reason", "wait", "max_tasks", "max_concurrency",
    "worker_name", "worker_version", "workspace_secret", "scopes", "requests", "payload", "metadata",
    "conflict_policy", "priority", "schedule_time", "retry_policy", "schedule_to_start_timeout",
    "start_to_close_timeout", "schedule_to_close_timeout", "heartbeat_timeout", "retention", "labels",
    "initial_interval", "backoff_coefficient", "maximum_interval", "maximum_attempts",
    "non_retryable_error_codes", "hello", "heartbeat", "complete", "fail", "refresh", "drain", "stopped", "log",
    "progress", "result", "code", "message", "retryable", "retry_delay", "fraction", "plan", "quotas",
    "pending_tasks", "streams", "worker_types", "overlap", "token",
))
# fmt: on
"""Fields that name nothing, hold such as do, or prove who asks."""
LATER = datetime.now(UTC) + timedelta(days=1)
GIVEN: Mapping[str, Any] = {
    "type": OPERATED,
    "task_types": [OPERATED],
    "worker_name": "w",
    "max_concurrency": 1,
    "code": "X",
    "schedule_time": f"{LATER:%Y-%m-%dT%H:%M:%SZ}",
}
"""What is filled in wherever it fits, so that a request is refused for nothing but what it names. No worker is given
what is submitted so."""


def fields(message: Descriptor, before: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """All of a request by its path, those of the messages in it too, but not in one that names a thing."""
    for field in message.fields:
        yield before + field.name, field
        inner = field.message_type
        if inner is None or field.name in NAMING or inner.GetOptions().map_entry:
            continue
        if inner.full_name.startswith("openmcp."):
            yield from fields(inner, f"{before}{field.name}.")


@pytest.mark.parametrize("path", OURS)
def test_every_field_is_known(path: str) -> None:
    """Each field of each request is told apart: it names a thing that somebody has, or it doesn't."""
    found = {field.name for _, field in fields(METHODS[path].input_type)}
    assert found <= set(NAMING) | PLAIN, "say in NAMING or PLAIN what the new field is"


def names(path: str) -> Sequence[str]:
    """The fields by which a request names things; one that has none is asked as it is."""
    found = [where for where, field in fields(METHODS[path].input_type) if field.name in NAMING]
    return found or [""]


@dataclass(frozen=True, slots=True)
class Things:
    """What the owner has."""

    named: Mapping[str, Sequence[Any]]
    """By the fields that name it."""
    nobodys: Mapping[str, Any]
    """What names nothing of the asker's, by the same fields."""
    lease: Mapping[str, str]
    """Of a task that runs."""
    canaries: Sequence[str]
    """What is in no answer to anybody else, unless he named it."""


NOBODYS: Mapping[str, Any] = {
    "task_id": str(uuid.uuid4()),
    "task_ids": [str(uuid.uuid4()) for _ in range(4)],
    "workspace_id": "nobody",
    "secret_id": "00000000",
    "request_id": str(uuid.uuid4()),
    "dedupe_key": "nobodys",
    "type": "nobodys",
    "task_types": ["nobodys"],
    "filter": "labels.of = nobodys",
}
"""What nobody has, as far as it is the same for all tests."""


@pytest.fixture(scope="module")
def things(native: Grpc, people: People) -> Things:
    """Tasks that wait, run and have ended, of a type that is paused; and one of another, that a worker would get."""
    owner, key, used = people.owner.token, str(uuid.uuid4()), str(uuid.uuid4())
    task_type, open_type = f"owned-{uuid.uuid4()}", f"owned-{uuid.uuid4()}"

    def submitted(of: str = task_type, **given: Any) -> str:
        answer = native.ask(f"{TASKS}/SubmitTask", owner, type=of, metadata={"of": key}, labels={"of": key}, **given)
        assert answer.code == OK
        return str(answer.body["task_id"])

    running = submitted(request_id=used, dedupe_key=used)
    asked = {"worker_name": key, "task_types": [task_type], "request_id": used, "wait": {"seconds": 10}}
    (task,) = native.ask(f"{WORKERS}/LeaseTasks", owner, **asked).body["tasks"]
    waiting, ended = submitted(), submitted()
    assert native.ask(f"{TASKS}/CancelTask", owner, task_id=ended, reason=key).code == OK
    assert native.ask(f"{TASKS}/PauseTaskType", owner, type=task_type, reason=key).code == OK
    selected = f'labels.of = "{key}"'
    page = native.ask(f"{TASKS}/ListTasks", owner, filter=selected, page_size=1).body["next_page_token"]
    ids = [running, waiting, ended, submitted(open_type)]
    named: dict[str, Sequence[Any]] = {
        "task_id": ids,
        "task_ids": [ids],
        "lease": [task["lease"]],
        "held": [[task["lease"]]],
        "workspace_id": [people.owner.workspace_id],
        "secret_id": [people.owner.secret.split("_")[1]],
        "page_token": [page],
        "request_id": [used],
        "dedupe_key": [used],
        "type": [task_type],
        "task_types": [[task_type], [open_type]],
        "filter": [selected, ""],
    }
    stranger = people.stranger.token
    later = {"seconds": int(LATER.timestamp())}
    for _ in range(2):
        answer = native.ask(f"{TASKS}/SubmitTask", stranger, type="x", labels={"of": "paged"}, schedule_time=later)
        assert answer.code == OK
    lease = {**task["lease"], "task_id": NOBODYS["task_id"]}
    another = native.ask(f"{TASKS}/ListTasks", stranger, filter="labels.of = paged", page_size=1)
    nobodys = {**NOBODYS, "lease": lease, "held": [lease], "page_token": another.body["next_page_token"]}
    return Things(named, nobodys, task["lease"], [*ids, task["lease"]["lease_token"], key])


def request(message: Descriptor | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """A request that is right, and names these things, by where."""
    assert message
    made = {field.name: GIVEN[field.name] for field in message.fields if field.name in GIVEN}
    inside = defaultdict[str, dict[str, Any]](dict)
    for where, value in named.items():
        name, _, rest = where.partition(".")
        if rest:
            inside[name][rest] = value
        elif name:
            made[name] = value
    for name, values in inside.items():
        field = message.fields_by_name[name]
        inner = request(field.message_type, values)
        made[name] = [inner] if field.is_repeated else inner
    return made


def ask(door: Door, path: str, named: Mapping[str, Any], token: str) -> Told:
    """What somebody is told; by a worker's stream, all that comes before it ends."""
    kind, streams = METHODS[path].input_type, METHODS[path].client_streaming
    asked = [request(kind, named)]
    if streams and not next(iter(named)).startswith("hello."):
        asked.insert(0, {"hello": request(kind.fields_by_name["hello"].message_type, {})})
    return door.call(path, *(ParseDict(one, GetMessageClass(kind)()) for one in asked), headers=bearer(token))


def unnamed(told: Told, value: Any) -> str:
    """An answer without what the call named."""
    text = told.text
    for word in re.findall(r"[^\"\[\]{}:, ]{6,}", json.dumps(value)):
        text = text.replace(word, "<named>")
    return text


def alike(text: str) -> str:
    """An answer without what is new each time."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "<id>", text)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)


def as_it_is(native: Grpc, people: People, things: Things) -> Any:
    """All that the owner can see of what it has."""
    owner = people.owner.token
    listed = native.ask(f"{TASKS}/ListTasks", owner, filter=things.named["filter"][0], view="TASK_VIEW_FULL")
    assert len(listed.body["tasks"]) == len(things.named["task_id"])
    types = native.ask(f"{TASKS}/ListTaskTypes", owner).body["task_types"]
    return listed.body["tasks"], [one for one in types if one["type"] == things.named["type"][0]]


@pytest.fixture(scope="module")
def nothing_happens(native: Grpc, people: People, things: Things) -> Iterator[None]:
    """What the owner has is in the end as it was before; to look after each test would cost more than they do."""
    before = as_it_is(native, people, things)
    yield
    assert as_it_is(native, people, things) == before


@pytest.mark.parametrize(
    ("path", "where"), [(path, where) for path in OURS if path not in OPEN for where in names(path)]
)
@pytest.mark.usefixtures("nothing_happens")
def test_names(native: Grpc, door: Door, people: People, things: Things, path: str, where: str) -> None:
    """What is another's is answered as what nobody has is, nothing of it is told, and its lease holds."""
    name = where.rpartition(".")[2]
    for caller in (people.stranger, people.operator):
        if name:
            none = things.nobodys[name]
            missing = ask(door, path, {where: none}, caller.token)
            assert missing.code != "INVALID_ARGUMENT" or missing.fields == [name], "say in GIVEN what the call needs"
        for value in things.named[name] if name else [""]:
            told = ask(door, path, {where: value}, caller.token)
            shown = unnamed(told, value)
            assert not [one for one in things.canaries if one in shown]
            if name and value:
                assert alike(shown) == alike(unnamed(missing, none))
    assert native.ask(f"{WORKERS}/HeartbeatTask", people.owner.token, lease=things.lease).code == OK


def together(path: str) -> Sequence[Sequence[str]]:
    """The fields by which one request can name things together: all of them, and all but one."""
    all_names: Sequence[str] = [name for name in names(path) if name]
    if METHODS[path].client_streaming:  # a message has one of its kinds
        all_names = [name for name in all_names if name.startswith("hello.")]
    some = [[one for one in all_names if one != other] for other in all_names]
    return [chosen for chosen in (all_names, *some) if len(chosen) > 1]


@pytest.mark.parametrize(
    ("path", "wheres"), [(path, wheres) for path in OURS if path not in OPEN for wheres in together(path)]
)
@pytest.mark.usefixtures("nothing_happens")
def test_names_together(native: Grpc, door: Door, people: People, things: Things, path: str, wheres: list[str]) -> None:
    """Who names another's thing and whose it is gets no more than who names one of them."""
    theirs = {where: things.named[where.rpartition(".")[2]][0] for where in wheres}
    nobodys = {where: things.nobodys[where.rpartition(".")[2]] for where in wheres}
    for caller in (people.stranger, people.operator):
        missing, told = (ask(door, path, named, caller.token) for named in (nobodys, theirs))
        shown = unnamed(told, list(theirs.values()))
        assert not [one for one in things.canaries if one in shown]
        assert alike(shown) == alike(unnamed(missing, list(nobodys.values())))
    assert native.ask(f"{WORKERS}/HeartbeatTask", people.owner.token, lease=things.lease).code == OK


@pytest.fixture(scope="module")
def newcomer(native: Grpc, people: People) -> str:
    """The token of a tenant that has nothing yet."""
    made = native.ask(CREATE, people.administrator.token, plan="unlimited").body
    return sign_in(native, made["workspace"]["workspace_id"], made["workspace_secret"])


LISTS = [path for path in OURS if NEEDS[path] == "tasks:read" and {"", "filter", "page_token"}.issuperset(names(path))]


@pytest.mark.parametrize("path", LISTS)
def test_who_has_nothing_is_shown_nothing(door: Door, things: Things, newcomer: str, path: str) -> None:
    """What is listed or counted without a filter is all of one's own, not of everybody's."""
    told = door.ask(path, newcomer)
    assert things.named
    assert told.code == OK
    assert not any(told.body.values())


def test_a_stream_hears_of_nothing_that_is_anothers(native: Grpc, door: Door, people: People) -> None:
    """Neither a task that waits for a worker comes by it, nor the cancellation of one that it says that it holds."""
    owner, stranger = people.owner.token, people.stranger.token
    theirs, own = f"owned-{uuid.uuid4()}", f"own-{uuid.uuid4()}"

    def submitted(token: str, task_type: str) -> str:
        return str(native.ask(f"{TASKS}/SubmitTask", token, type=task_type).body["task_id"])

    running = submitted(owner, theirs)
    asked = {"worker_name": "w", "task_types": [theirs], "wait": {"seconds": 10}}
    (task,) = native.ask(f"{WORKERS}/LeaseTasks", owner, **asked).body["tasks"]
    assert task["lease"]["task_id"] == running
    waiting = submitted(owner, theirs)
    lease = ParseDict(task["lease"], workers_pb2.LeaseRef())
    hello = workers_pb2.Hello(worker_name="w", task_types=[theirs, own], max_concurrency=10, held=[lease])
    said: queue.Queue[workers_pb2.WorkRequest | None] = queue.Queue()
    said.put(workers_pb2.WorkRequest(hello=hello))
    channel = door.grpc.channel if isinstance(door, Rest) else native.channel
    work: Any = workers_pb2_grpc.WorkerServiceStub(channel).Work
    heard = work(iter(said.get, None), metadata=bearer(stranger), timeout=SECONDS)
    try:
        assert next(heard).HasField("welcome")
        said.put(workers_pb2.WorkRequest(heartbeat=workers_pb2.Heartbeat(lease=lease)))
        assert next(heard).ack.error_code == "LEASE_LOST"
        assert native.ask(f"{TASKS}/CancelTask", owner, task_id=running).code == OK
        mine = submitted(stranger, own)
        told = MessageToDict(next(heard), preserving_proto_field_name=True)
        assert told["task"]["lease"]["task_id"] == mine
        ended = workers_pb2.Complete(lease=ParseDict(told["task"]["lease"], workers_pb2.LeaseRef()))
        said.put(workers_pb2.WorkRequest(complete=ended))
        assert next(heard).ack.lease.task_id == mine
    finally:
        said.put(None)
        heard.cancel()
    assert native.ask(f"{WORKERS}/StopTask", owner, lease=task["lease"]).code == OK
    assert native.ask(f"{TASKS}/CancelTask", owner, task_id=waiting).body["status"] == "TASK_STATUS_CANCELLED"
