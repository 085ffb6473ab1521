"""API4:2023 Unrestricted Resource Consumption, of streams: what is said on one, and what is left unread of it."""

from collections.abc import Callable

import grpc
import pytest
from contract.errorshape import grpc_error
from grpc_reflection.v1alpha import reflection_pb2
from security.conftest import People, sign_in
from support.doors import OK, Door, Grpc, Headers, Rest, bearer
from support.http2 import Http2, by_grpc
from support.service import NOBODYS, as_struct
from support.stack import StackInfo
from support.waiting import WORK

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc, workers_pb2
from openmcp_chain import config
from openmcp_chain.domain import workspace
from openmcp_chain.transport.intake import SAID_BYTES
from openmcp_chain.transport.reflection import OWN_STREAMS, QUESTION_BYTES, QUESTIONS

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
TASKS = "/openmcp.chain.v1.TaskService"
WORKERS = "/openmcp.chain.v1.WorkerService"
WORKSPACES = "/openmcp.chain.v1.WorkspaceService"
PLAN = config.load_plans({})["free"]
LARGE = as_struct({"a": "x" * 500_000})
QUESTION = reflection_pb2.ServerReflectionRequest(list_services="")


def spoken(door: Door) -> Grpc:
    """The door for gRPC, which streams that go both ways need."""
    if isinstance(door, Rest):
        return door.grpc
    assert isinstance(door, Grpc)
    return door


def connection(door: Door, stack: StackInfo, window: int | None = None) -> Http2:
    """One of its own through the door."""
    host, _, port = (stack.grpc_target if door.name == "native" else stack.envoy_grpc_target).partition(":")
    return Http2(host, int(port), window=window)


def in_time(holds: Callable[[], bool]) -> bool:
    """Whether it holds by the time that it was asked for often enough."""
    return any(holds() for _ in range(2000))


def small_tenant(native: Grpc, people: People) -> tuple[str, str]:
    """The id and the secret of a new workspace of the smallest plan."""
    made = native.ask(f"{WORKSPACES}/CreateWorkspace", people.administrator.token, plan="free").body
    return made["workspace"]["workspace_id"], made["workspace_secret"]


def test_what_reflection_is_asked(door: Door, people: People) -> None:
    """A question is no longer than a name: it is part of its answer, which may never be read."""
    long = reflection_pb2.ServerReflectionRequest(file_containing_symbol="x" * QUESTION_BYTES)
    told = spoken(door).call(REFLECTION, long, headers=bearer(people.stranger.token))
    assert told.code == "REQUEST_TOO_LARGE"


def test_how_much_reflection_is_asked(native: Grpc, people: People) -> None:
    """To Envoy all questions of a stream are one call: there are so many."""
    questions = [QUESTION] * (QUESTIONS + 1)
    assert native.call(REFLECTION, *questions, headers=bearer(people.stranger.token)).code == "RATE_LIMITED"


async def test_how_many_ask_by_reflection(door: Door, stack: StackInfo, people: People) -> None:
    """A workspace has so many streams; one more is refused, another workspace's is not; when they end there is room."""
    own, others = bearer(people.stranger.token), bearer(people.owner.token)

    def code(headers: Headers) -> str:
        return spoken(door).call(REFLECTION, QUESTION, headers=headers).code

    async with connection(door, stack) as many:
        await many.heard([many.begin(*by_grpc(REFLECTION, own, QUESTION)) for _ in range(OWN_STREAMS)])
        assert (code(own), code(others)) == ("OVERLOADED", OK)
    assert in_time(lambda: code(own) == OK)


def test_what_a_worker_says(door: Door, native: Grpc, people: People) -> None:
    """What ends no lease is small; of what ends one that is none, or has ended already, as much is heard as is due."""
    token = sign_in(native, *small_tenant(native, people))
    native.ask(f"{TASKS}/SubmitTask", token, type="said")
    asked = {"worker_name": "w", "task_types": ["said"]}
    (leased,) = native.ask(f"{WORKERS}/LeaseTasks", token, **asked).body["tasks"]
    ended = workers_pb2.LeaseRef(**leased["lease"])
    assert native.ask(f"{WORKERS}/CompleteTask", token, lease=leased["lease"], result=LARGE).code == OK
    progress = tasks_pb2.TaskProgress(message="x" * SAID_BYTES)
    reports = [
        workers_pb2.WorkRequest(heartbeat=workers_pb2.Heartbeat(lease=ended, progress=progress)),
        workers_pb2.WorkRequest(log=workers_pb2.Log(lease=ended, message="x" * SAID_BYTES)),
        workers_pb2.WorkRequest(complete=workers_pb2.Complete(lease=NOBODYS, result=LARGE)),
        *[workers_pb2.WorkRequest(complete=workers_pb2.Complete(lease=ended, result=LARGE))] * 3,
    ]
    hello = workers_pb2.Hello(worker_name="w", task_types=["said"], max_concurrency=1)
    told = spoken(door).call(WORK, workers_pb2.WorkRequest(hello=hello), *reports, headers=bearer(token))
    codes = [answer["ack"]["error_code"] for answer in told.body[1:]]
    assert sorted(codes[:3]) == ["LEASE_LOST"] * 2 + ["REQUEST_TOO_LARGE"]
    assert codes[3:] == ["", "RATE_LIMITED", "RATE_LIMITED"]


async def test_streams_that_nobody_reads(native: Grpc, rest: Rest, stack: StackInfo, people: People) -> None:
    """They keep their places until they are closed: who is shut out, and comes back, has no more of them."""
    name, secret = small_tenant(native, people)
    token = sign_in(native, name, secret)
    unread = PLAN.streams - 1
    for _ in range(unread):
        native.ask(f"{TASKS}/SubmitTask", token, type="unread", payload=LARGE)
    other = native.ask(f"{TASKS}/SubmitTask", token, type="read").body["task_id"]
    hello = workers_pb2.Hello(worker_name="deaf", task_types=["unread"], max_concurrency=1)
    begin = by_grpc(WORK, bearer(token), workers_pb2.WorkRequest(hello=hello))
    events = tasks_pb2_grpc.TaskServiceStub(native.channel).StreamTaskEvents
    wanted = tasks_pb2.StreamTaskEventsRequest(task_id=other)

    def refusal(token: str) -> str:
        return native.ask(f"{TASKS}/StreamTaskEvents", token, task_id=other).code

    async with connection(native, stack, window=1000) as near, connection(rest, stack, window=1000) as far:
        for deaf, count in ((near, unread // 2), (far, unread - unread // 2)):
            await deaf.heard([deaf.begin(*begin) for _ in range(count)])
        running = {"filter": 'type = "unread" AND status = RUNNING'}
        assert in_time(lambda: len(native.ask(f"{TASKS}/ListTasks", token, **running).body["tasks"]) == unread)
        read = events(wanted, metadata=tuple(bearer(token)), timeout=30)
        next(read)
        assert refusal(token) == "TOO_MANY_STREAMS"
        admin = people.administrator.token
        new = native.ask(f"{WORKSPACES}/RotateSecret", admin, workspace_id=name).body["workspace_secret"]
        native.ask(f"{WORKSPACES}/RevokeSecret", admin, workspace_id=name, secret_id=workspace.secret_id(secret))
        with pytest.raises(grpc.RpcError) as shut_out:
            next(read)
        assert grpc_error(shut_out.value).code == "TOKEN_INVALID"
        token = sign_in(native, name, new)
        again = events(wanted, metadata=tuple(bearer(token)), timeout=30)
        next(again)
        assert refusal(token) == "TOO_MANY_STREAMS"
    assert in_time(lambda: refusal(token) == OK)
    again.cancel()
