"""Who may call what: forged tokens, missing scopes, ended tokens, and other people's tasks, over every method."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import grpc
import jwt
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from security.access import CALLS, HAS, NEEDS, OPEN
from support.forgery import Forger
from support.methods import METHODS, call
from support.service import (
    NOBODYS,
    PATIENCE,
    Caller,
    ManualClock,
    Refusal,
    Service,
    StoppedClock,
    refused,
    serving,
    until,
)

from openmcp.chain.v1 import auth_pb2, rest_pb2, tasks_pb2, workers_pb2
from openmcp_chain.domain.workspace import Kind
from openmcp_chain.engine import bearers

OTHERS_TASK = "01900000-0000-7000-8000-000000000000"


async def test_clocks_may_differ_by_thirty_seconds() -> None:
    """A second within the skew a token counts, a second beyond it doesn't: by `nbf`, by `iat`, and by `exp`."""
    clock = StoppedClock()
    async with serving(now=clock) as service:
        caller = await service.workspace()
        forger = Forger(caller.token, *await service.app.tokens.keys.signer())
        now = int(clock().timestamp())

        async def told(**claims: int) -> str:
            metadata = (("authorization", f"Bearer {forger.changed(**claims)}"),)
            request = tasks_pb2.GetTaskRequest(task_id=OTHERS_TASK)
            return (await refused(service.tasks.GetTask(request, metadata=metadata, timeout=PATIENCE))).code

        for claim in ("nbf", "iat"):
            assert await told(**{claim: now + 30}) == "TASK_NOT_FOUND"
            assert await told(**{claim: now + 31}) == "TOKEN_INVALID"
        assert await told(exp=now - 29) == "TASK_NOT_FOUND"
        assert await told(exp=now - 30) == "TOKEN_EXPIRED"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "TOKEN_MISSING"),
        ("", "TOKEN_MISSING"),
        ("Bearer", "TOKEN_MISSING"),
        ("Bearer ", "TOKEN_MISSING"),
        ("Basic dXNlcjpwYXNz", "TOKEN_INVALID"),
        ("bearer {}", "TASK_NOT_FOUND"),
        ("BEARER {}", "TASK_NOT_FOUND"),
        ("Bearer  {}", "TASK_NOT_FOUND"),
        ("{}", "TOKEN_MISSING"),
    ],
)
async def test_scheme_of_the_authorization(value: str | None, code: str) -> None:
    """The scheme is `Bearer` in any case (RFC 9110, 11.1); without a token it is missing, another scheme is invalid."""
    async with serving() as service:
        caller = await service.workspace()
        metadata = () if value is None else (("authorization", value.format(caller.token)),)
        request = tasks_pb2.GetTaskRequest(task_id=OTHERS_TASK)
        told = await refused(service.tasks.GetTask(request, metadata=metadata, timeout=PATIENCE))
    assert told.code == code


def fields(path: str) -> Collection[str]:
    """The fields of a method's request."""
    return METHODS[path].input_type.fields_by_name


def naming(path: str, task_id: str) -> bytes:
    """A request that names the task, and does not wait for anything."""
    request: Any = GetMessageClass(METHODS[path].input_type)(task_id=task_id)
    if "timeout" in fields(path):
        request.timeout.SetInParent()
    return bytes(request.SerializeToString())


async def test_expired_token_says_refresh() -> None:
    """An expired token is TOKEN_EXPIRED, and the message says to refresh it."""
    clock = ManualClock()
    async with serving(now=clock) as service:
        caller = await service.workspace()
        clock.advance(15 * 60 + 31)
        request = tasks_pb2.GetTaskRequest(task_id=OTHERS_TASK)
        told = await refused(service.tasks.GetTask(request, metadata=caller.metadata, timeout=PATIENCE))
    assert (told.status, told.code) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
    assert "efresh" in told.message


@pytest.mark.parametrize("path", CALLS)
async def test_scopes_of_every_method(path: str) -> None:
    """Without a token: TOKEN_MISSING, before a byte of the request is parsed. Without the scope: SCOPE_MISSING."""
    async with serving() as service:
        told = await call(service, path, b"\xff\xff")
        assert told
        assert told.code == "TOKEN_MISSING"
        kinds = {
            Kind.TENANT: await service.workspace(),
            Kind.OPERATOR: await service.operator("echo"),
            Kind.ADMINISTRATOR: await service.administrator(),
        }
        for kind, caller in kinds.items():
            told = await call(service, path, b"", caller.metadata)
            assert (told is not None and told.code == "SCOPE_MISSING") == (NEEDS[path] not in HAS[kind])
        for scope in HAS[Kind.TENANT]:
            told = await call(service, path, b"", (await narrowed(service, kinds[Kind.TENANT], scope)).metadata)
            assert (told is not None and told.code == "SCOPE_MISSING") == (NEEDS[path] != scope)


async def narrowed(service: Service, caller: Caller, *scopes: str) -> Caller:
    """The same with a token that has these scopes only."""
    request = auth_pb2.AuthRequest(workspace_id=caller.workspace_id, workspace_secret=caller.secret, scopes=scopes)
    token = (await service.auth.Authenticate(request, timeout=PATIENCE)).token
    return replace(caller, token=token)


@pytest.mark.parametrize("path", OPEN)
async def test_open_methods_need_no_token(path: str) -> None:
    """Sign-in, the key set, health and reflection are open to all."""
    async with serving() as service:
        told = await call(service, path, b"")
    assert told is None or told.status is not grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("path", sorted(path for path in METHODS if "task_id" in fields(path)))
async def test_anothers_task_does_not_exist(path: str) -> None:
    """Over every method that names a task: another workspace's is refused word for word as one that never was."""
    async with serving() as service:
        owner, stranger = await service.workspace(), await service.workspace()
        task_id = await service.submit(owner)
        for case in (task_id, task_id.upper()):
            real = await call(service, path, naming(path, case), stranger.metadata)
            missing = await call(service, path, naming(path, OTHERS_TASK), stranger.metadata)
            assert real
            assert missing
            assert real.code == "TASK_NOT_FOUND"
            assert real.text.lower().replace(task_id, "id") == missing.text.lower().replace(OTHERS_TASK, "id")
        told = await call(service, path, naming(path, task_id.upper()), owner.metadata)
        assert told is None or told.code == "TASK_NOT_RETRYABLE"  # the one that needs more than that it be there


@pytest.mark.parametrize("path", sorted(path for path in METHODS if "lease" in fields(path)))
async def test_anothers_lease_is_lost(path: str) -> None:
    """Over every call that names a lease: a worker of another workspace is refused, and the holder is not."""
    async with serving() as service:
        owner, stranger = await service.workspace(), await service.workspace()
        await service.submit(owner)
        ask = workers_pb2.LeaseTasksRequest(worker_name="w", task_types=["echo"], wait=Duration(seconds=5))
        leased = await service.workers.LeaseTasks(ask, metadata=owner.metadata, timeout=PATIENCE)
        request = GetMessageClass(METHODS[path].input_type)(lease=leased.tasks[0].lease)
        told = await call(service, path, request.SerializeToString(), stranger.metadata)
        assert told
        assert told.code == "LEASE_LOST"
        told = await call(service, path, request.SerializeToString(), owner.metadata)
        assert told is None or told.code == "CANCEL_NOT_REQUESTED"  # the one that needs more than the lease


async def test_lists_and_batches_have_ones_own_tasks_only() -> None:
    """What names no task, or many, tells a workspace nothing of another's."""
    async with serving() as service:
        owner, stranger = await service.workspace(), await service.workspace()
        task_id = await service.submit(owner)
        tasks, metadata = service.tasks, stranger.metadata
        assert not (await tasks.ListTasks(tasks_pb2.ListTasksRequest(), metadata=metadata)).tasks
        assert (await tasks.CountTasks(tasks_pb2.CountTasksRequest(), metadata=metadata)).total == 0
        assert not (await tasks.ListTaskTypes(tasks_pb2.ListTaskTypesRequest(), metadata=metadata)).task_types
        got = await tasks.BatchGetTasks(tasks_pb2.BatchGetTasksRequest(task_ids=[task_id]), metadata=metadata)
        assert (list(got.tasks), list(got.not_found)) == ([], [task_id])
        await tasks.CancelTask(tasks_pb2.CancelTaskRequest(task_id=task_id), metadata=owner.metadata)
        retried = await tasks.BatchRetryTasks(tasks_pb2.BatchRetryTasksRequest(), metadata=metadata)
        assert not retried.task_ids
        page = await tasks.ListTasks(tasks_pb2.ListTasksRequest(page_size=1), metadata=owner.metadata)
        assert [task.task_id for task in page.tasks] == [task_id]


async def test_anothers_workspace_is_a_mismatch() -> None:
    """A submit that names another workspace than its token's is refused; its own, or none, is taken."""
    async with serving() as service:
        caller, other = await service.workspace(), await service.workspace()
        request = tasks_pb2.SubmitTaskRequest(type="echo", workspace_id=other.workspace_id)
        told = await refused(service.tasks.SubmitTask(request, metadata=caller.metadata, timeout=PATIENCE))
        assert (told.status, told.code) == (grpc.StatusCode.PERMISSION_DENIED, "WORKSPACE_MISMATCH")
        await service.submit(caller, workspace_id=caller.workspace_id)


async def test_unknown_workspace_and_wrong_secret_are_one_answer() -> None:
    """Sign-in tells an unknown workspace, a wrong secret and a malformed one apart by nothing."""
    async with serving() as service:
        caller = await service.workspace()
        texts = set()
        for workspace_id, secret in (
            (caller.workspace_id, caller.secret[:-1] + ("A" if caller.secret[-1] != "A" else "B")),
            (caller.workspace_id, "x"),
            ("nobody", caller.secret),
            ("$ne", caller.secret),
        ):
            request = auth_pb2.AuthRequest(workspace_id=workspace_id, workspace_secret=secret)
            told = await refused(service.auth.Authenticate(request, timeout=PATIENCE))
            assert (told.status, told.code) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
            texts.add(told.text)
        assert len(texts) == 1
        told = await refused(service.auth.Authenticate(auth_pb2.AuthRequest(), timeout=PATIENCE))
        assert told.fields == ["workspace_id", "workspace_secret"]


async def test_token_is_narrowed_at_issue() -> None:
    """Of what a workspace may do, its token allows what was asked for, in any order and as often; all, if nothing."""
    async with serving() as service:
        caller = await service.workspace()

        async def issued(*scopes: str) -> auth_pb2.AuthToken:
            request = auth_pb2.AuthRequest(
                workspace_id=caller.workspace_id, workspace_secret=caller.secret, scopes=scopes
            )
            return await service.auth.Authenticate(request, timeout=PATIENCE)

        def allows(token: auth_pb2.AuthToken) -> object:
            return jwt.decode(token.token, options={"verify_signature": False})["scope"]

        assert allows(await issued()) == "tasks:read tasks:write worker"
        assert allows(await issued("worker", "tasks:read", "worker")) == "tasks:read worker"
        narrow = await issued("tasks:read")
        assert allows(narrow) == "tasks:read"
        metadata = (("authorization", f"Bearer {narrow.token}"),)
        get, submit = tasks_pb2.GetTaskRequest(task_id=OTHERS_TASK), tasks_pb2.SubmitTaskRequest(type="echo")
        told = await refused(service.tasks.GetTask(get, metadata=metadata, timeout=PATIENCE))
        assert told.code == "TASK_NOT_FOUND"
        told = await refused(service.tasks.SubmitTask(submit, metadata=metadata, timeout=PATIENCE))
        assert told.code == "SCOPE_MISSING"
        told = await refused(service.workers.Work(iter(()), metadata=metadata, timeout=PATIENCE))
        assert told.code == "SCOPE_MISSING"


async def test_scope_that_cannot_be_had_is_named_to_whoever_may_know() -> None:
    """One that is unknown, or not of this kind of workspace, is named by its place; to strangers nothing is said."""
    async with serving() as service:
        tenant, operator = await service.workspace(), await service.operator("echo")

        async def told(caller: Caller, scopes: Sequence[str], secret: str = "") -> Refusal:
            request = auth_pb2.AuthRequest(
                workspace_id=caller.workspace_id, workspace_secret=secret or caller.secret, scopes=scopes
            )
            return await refused(service.auth.Authenticate(request, timeout=PATIENCE))

        for caller, scopes, fields in (
            (tenant, ["tasks:read", "admin", "everything", ""], ["scopes[1]", "scopes[2]", "scopes[3]"]),
            (tenant, ["TASKS:READ"], ["scopes[0]"]),
            (operator, ["worker", "tasks:read"], ["scopes[1]"]),
            (tenant, ["\x1b[31m" * 100] * 1000, [f"scopes[{index}]" for index in range(8)]),
        ):
            refusal = await told(caller, scopes)
            assert (refusal.code, refusal.fields) == ("INVALID_ARGUMENT", fields)
            refusal = await told(caller, scopes, secret="wrong")
            assert (refusal.code, refusal.fields) == ("CREDENTIALS_INVALID", [])


async def test_event_streams_end_with_their_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open event stream, typed or SSE, ends by TOKEN_EXPIRED when its token does: a subscriber comes back anew."""
    monkeypatch.setattr(bearers, "LOOK_SECONDS", 0.02)
    clock = ManualClock()
    async with serving(now=clock) as service:
        caller = await service.workspace()
        task_id = await service.submit(caller, "other")
        typed = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        events = service.tasks.StreamTaskEvents(typed, metadata=caller.metadata)
        sse = service.rest.ServeTaskEvents(rest_pb2.ServeTaskEventsRequest(task_id=task_id), metadata=caller.metadata)
        await events.read()
        await sse.read()
        clock.advance(16 * 60)
        assert [(await refused(stream)).code for stream in (events, sse)] == ["TOKEN_EXPIRED"] * 2
        await until(lambda: service.app.events.open == 0)


async def test_workers_stream_ends_with_its_token_however_busy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream whose token expires ends by TOKEN_EXPIRED even if messages never cease; a refresh keeps it."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(bearers, "LOOK_SECONDS", 0.02)
    clock = ManualClock()
    async with serving(now=clock) as service:
        operator = await service.operator("echo")
        kept, left = service.work(operator), service.work(operator)
        await kept.hello()
        await left.hello()
        clock.advance(14 * 60)
        known = await service.app._store.get_workspace(operator.workspace_id)
        assert known
        fresh = await service.sign_in(known, operator.secret)
        await kept.say(refresh=workers_pb2.Refresh(token=fresh.token))
        await kept.heartbeat(NOBODYS)
        clock.advance(2 * 60)

        async def chatter() -> None:
            while True:
                await left.say(heartbeat=workers_pb2.Heartbeat(lease=NOBODYS))
                await asyncio.sleep(0.001)

        chatting = asyncio.create_task(chatter())
        # Looked up in the log: a client that is writing just then may see its own failed write instead of the status.
        await until(lambda: "TOKEN_EXPIRED" in [getattr(record, "code", "") for record in caplog.records])
        await until(lambda: len(service.app.workers._streams) == 1)
        await asyncio.gather(chatting, return_exceptions=True)
        await kept.heartbeat(NOBODYS)
        await kept.end()
