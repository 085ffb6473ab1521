"""API2:2023 Broken Authentication: who is not let in, by REST through Envoy and by gRPC at the server itself."""

import time

import pytest
from contract.rawhttp import exchange
from security.conftest import People, sign_in
from support.doors import OK, Door, Grpc, Rest, bearer, told
from support.forgery import FORGERIES, Forger
from support.stack import StackInfo

from openmcp.chain.v1 import tasks_pb2, workers_pb2

GET_TASK = "/openmcp.chain.v1.TaskService/GetTask"
NOBODYS = "01900000-0000-7000-8000-000000000000"
SKEW, LIFE = 30, 15 * 60
"""Seconds."""


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_token(door: Door, forger: Forger, forgery: str) -> None:
    """Each is TOKEN_INVALID, in the same words: nothing says what was wrong with it. Envoy reads no header of 10 KB.

    Another algorithm, key, issuer or audience; a key that comes along with the token; a claim that is missing, changed
    or not yet true.
    """
    answer = door.ask(GET_TASK, FORGERIES[forgery](forger), task_id=NOBODYS)
    if forgery == "ten kilobytes" and door.name == "envoy":
        assert answer.code == "REQUEST_TOO_LARGE"
    else:
        assert answer.code == "TOKEN_INVALID"
        assert answer == door.ask(GET_TASK, "nothing", task_id=NOBODYS)
    assert door.ask(GET_TASK, forger.token, task_id=NOBODYS).code == "TASK_NOT_FOUND"


def test_the_time_of_a_token(door: Door, forger: Forger) -> None:
    """Past its end it is TOKEN_EXPIRED, which says to get another; before its beginning, TOKEN_INVALID."""
    now = int(time.time())
    assert forger.claims["exp"] - forger.claims["iat"] == LIFE
    cases = {
        (now - SKEW - 60, now - LIFE): "TOKEN_EXPIRED",
        (now + LIFE + SKEW + 60, now + SKEW + 60): "TOKEN_INVALID",
        (now + LIFE, now): "TASK_NOT_FOUND",
    }
    for (expires, issued), code in cases.items():
        token = forger.changed(exp=int(expires), iat=int(issued))
        assert door.ask(GET_TASK, token, task_id=NOBODYS).code == code


@pytest.mark.parametrize("value", ["", "Bearer", "Basic dTpw", "{}", "Token {}", "Bearer{}", "Negotiate {}"])
def test_other_schemes(door: Door, forger: Forger, value: str) -> None:
    """A token counts as a bearer token only."""
    headers = [("authorization", value.format(forger.token))]
    answer = door.call(GET_TASK, tasks_pb2.GetTaskRequest(task_id=NOBODYS), headers=headers)
    assert answer.code in ("TOKEN_MISSING", "TOKEN_INVALID")


def test_two_tokens(door: Door, forger: Forger, people: People) -> None:
    """Of two tokens neither counts, even if each is good: two readers could choose differently."""
    good, other = f"Bearer {forger.token}", f"Bearer {people.stranger.token}"
    for pair in ((good, other), (good, "Bearer x"), ("Bearer x", good), (good, good)):
        headers = [("authorization", value) for value in pair]
        answer = door.call(GET_TASK, tasks_pb2.GetTaskRequest(task_id=NOBODYS), headers=headers)
        assert answer.code in ("TOKEN_INVALID", "TOKEN_MISSING", "MALFORMED_REQUEST"), pair


@pytest.mark.parametrize("name", ["access_token", "token", "authorization", "key", "jwt"])
def test_a_token_elsewhere(rest: Rest, stack: StackInfo, forger: Forger, name: str) -> None:
    """In the query, where logs and histories would have it, in a cookie or in another header it is no token."""
    target = f"/v1/tasks/{NOBODYS}"
    assert told(rest.http, "GET", f"{target}?{name}={forger.token}").code == "TOKEN_MISSING"
    for header in (("cookie", f"{name}={forger.token}"), (f"x-{name.replace('_', '-')}", f"Bearer {forger.token}")):
        assert told(rest.http, "GET", target, headers=[header]).code == "TOKEN_MISSING"
    answer = exchange(stack.rest_url, "GET", target, [("proxy-authorization", f"Bearer {forger.token}")])
    assert answer.status == 401


def test_a_token_of_another_kind(door: Door, people: People) -> None:
    """What else a workspace holds is no token: its secret, its id, a page's token."""
    for text in (people.owner.secret, people.owner.workspace_id, "x" * 40):
        assert door.ask(GET_TASK, text, task_id=NOBODYS).code == "TOKEN_INVALID"


def test_a_worker_cannot_change_who_it_is(native: Grpc, people: People) -> None:
    """A stream may refresh its token by its own identity's only."""
    hello = workers_pb2.Hello(worker_name="w", task_types=["nobodys"], max_concurrency=1)
    answer = native.call(
        "/openmcp.chain.v1.WorkerService/Work",
        workers_pb2.WorkRequest(hello=hello),
        workers_pb2.WorkRequest(refresh=workers_pb2.Refresh(token=people.owner.token)),
        headers=bearer(people.stranger.token),
    )
    assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", ["refresh.token"])


def test_signing_in_anew_leaves_old_tokens(native: Grpc, people: People) -> None:
    """Each sign-in makes a token of its own; one that was given is not changed by the next."""
    owner = people.owner
    again = sign_in(native, owner.workspace_id, owner.secret)
    assert again != owner.token
    listed = "/openmcp.chain.v1.TaskService/ListTaskTypes"
    assert {native.ask(listed, token).code for token in (again, owner.token)} == {OK}
