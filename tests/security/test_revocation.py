"""Calls that are under way when their caller is shut out, by REST and gRPC through Envoy and by gRPC at the server."""

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from contract.errorshape import grpc_error, rest_error
from contract.rawhttp import Connection
from contract.rawhttp import request as http_request
from security.conftest import People, sign_in
from support.doors import OK, Door, Grpc, Rest, bearer, rendered, route
from support.stack import StackInfo
from support.waiting import SIGNED, WAITING, WORK, request
from support.workspaces import Credentials, create, create_administrator

from openmcp_chain.domain import workspace
from openmcp_chain.domain.workspace import Scope
from openmcp_chain.transport.server import ACCESS

SUBMIT = "/openmcp.chain.v1.TaskService/SubmitTask"
LIST = "/openmcp.chain.v1.TaskService/ListTaskTypes"
REVOKE = "/openmcp.chain.v1.WorkspaceService/RevokeSecret"


class Opened:
    """Calls that have begun, and how each ended."""

    def __init__(self) -> None:
        self.go = threading.Event()
        """Lets those say the rest that have held it back."""
        self._calls: dict[str, Any] = {}

    def grpc(self, name: str, door: Grpc, path: str, token: str, message: Any, *, held_back: bool = False) -> None:
        """Begins a call with this message; if that is held back, the call says nothing for now."""

        def requests() -> Iterator[bytes]:
            if held_back:
                self.go.wait()
            yield message.SerializeToString()
            if path == WORK:
                self.go.wait()

        raw: Any = door.channel
        self._calls[name] = raw.stream_stream(path)(requests(), metadata=tuple(bearer(token)), timeout=60)

    def rest(self, name: str, connection: Connection, path: str, token: str, task_id: str) -> None:
        """Begins a call by REST."""
        verb, target, body = rendered(path, request(path, task_id))
        headers = [*bearer(token), ("content-type", "application/json")]
        data = json.dumps(body).encode() if body is not None else None
        connection.send(http_request(connection.host, verb, target, headers, data))
        self._calls[name] = connection

    def codes(self) -> dict[str, str]:
        """By name, what each ended with."""
        return {
            name: _rest_end(call) if isinstance(call, Connection) else _grpc_end(call)
            for name, call in self._calls.items()
        }


def _grpc_end(call: Any) -> str:
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return grpc_error(error).code
    return OK


def _rest_end(connection: Connection) -> str:
    with connection:
        answer = connection.answer()
    assert answer
    if answer.status >= 400:
        return str(rest_error(answer.status, answer.headers["content-type"], answer.body)["code"])
    *_, last = answer.body.decode().strip().split("\n\n")
    event, _, data = last.partition("\ndata: ")
    return str(json.loads(data)["error"]["code"]) if event == "event: error" else OK


@pytest.fixture
def shut_out(stack: StackInfo) -> Sequence[Credentials]:
    """A tenant and an administrator, who will be shut out."""
    return [create(stack), create_administrator(stack)]


def test_what_is_under_way_ends_with_the_secret(
    stack: StackInfo, native: Grpc, rest: Rest, people: People, shut_out: Sequence[Credentials]
) -> None:
    """Over every method: whoever waits for something, or holds back the message, is refused when the secret is revoked.

    Nothing here would end by itself so soon, or with that code: waits last 25 s and end with an answer, or never. Envoy
    itself holds back a call whose message has not come, so that the server hears of it only then, or never.
    """
    tenant, administrator = (sign_in(native, one.workspace_id, one.workspace_secret) for one in shut_out)
    task_id = native.ask(SUBMIT, tenant, type="nobody.takes.it").body["task_id"]
    opened, late = Opened(), Opened()
    for path in SIGNED:
        token, message = administrator if ACCESS[path].scope is Scope.ADMIN else tenant, request(path, task_id)
        opened.grpc(f"native, held back: {path}", native, path, token, message, held_back=True)
        late.grpc(f"envoy, held back: {path}", rest.grpc, path, token, message, held_back=True)
        if path in WAITING:
            for door in (native, rest.grpc):
                opened.grpc(f"{door.name}: {path}", door, path, token, message)
            if route(path):
                opened.rest(f"rest: {path}", Connection(stack.rest_url), path, token, task_id)
    ways: Sequence[Door] = (native, rest)
    assert [door.ask(LIST, tenant).code for door in ways] == [OK, OK]
    for one in shut_out:
        secret_id = workspace.secret_id(one.workspace_secret)
        revoked = native.ask(REVOKE, people.administrator.token, workspace_id=one.workspace_id, secret_id=secret_id)
        assert revoked.code == OK
    codes = opened.codes()
    opened.go.set()
    assert len(codes) == len(SIGNED) + 2 * len(WAITING) + len([path for path in WAITING if route(path)])
    assert {name: code for name, code in codes.items() if code != "TOKEN_INVALID"} == {}
    late.go.set()
    assert set(late.codes().values()) <= {"TOKEN_INVALID", "DEADLINE_EXCEEDED"}
