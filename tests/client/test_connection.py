"""Where a client connects, as whom, and whether in the clear."""

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import self_signed
from support.clients import KINDS, Kind, connected
from support.rogue import Rogue, answer, detail, running_rogue

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.client import ApiError, AsyncClient, Client, NewTask, Options, RetryPolicy, SettingsError, connection
from openmcp_chain.client.connection import Server
from openmcp_chain.stack.authority import Authority
from openmcp_chain.transport.tls import Certificates

RUNNING = tasks_pb2.TASK_STATUS_RUNNING
GOOD = {"OPENMCP_SERVER": "chain:50051", "OPENMCP_WORKSPACE_ID": "ws-1", "OPENMCP_WORKSPACE_SECRET": "S3CRET"}


def test_from_environment(tmp_path: Path) -> None:
    """The environment says where and who; the file with the secret counts before the variable."""
    server, credentials = connection.from_environment(GOOD)
    assert (server, credentials.workspace_id) == (Server("chain:50051"), "ws-1")
    assert credentials.workspace_secret == "S3CRET"
    assert "S3CRET" not in repr(credentials)
    secret = tmp_path / "secret"
    secret.write_text("from the file\n")
    more = {"OPENMCP_WORKSPACE_SECRET_FILE": str(secret), "OPENMCP_SECURE": "False", "OPENMCP_CA_FILE": "/ca.pem"}
    more |= {"OPENMCP_CERT_FILE": "/c.pem", "OPENMCP_KEY_FILE": "/c.key"}
    server, credentials = connection.from_environment(GOOD | more)
    assert (server.secure, server.ca, credentials.workspace_secret) == (False, "/ca.pem", "from the file")
    assert (server.certificate, server.key) == ("/c.pem", "/c.key")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENMCP_SERVER", ""),
        ("OPENMCP_WORKSPACE_ID", ""),
        ("OPENMCP_WORKSPACE_SECRET", ""),
        ("OPENMCP_WORKSPACE_SECRET_FILE", "/no/such/file"),
        ("OPENMCP_WORKSPACE_SECRET_FILE", "/dev/null"),
        ("OPENMCP_SECURE", "perhaps"),
    ],
)
def test_bad_setting_is_named(name: str, value: str) -> None:
    """A variable that is missing or wrong is named, and no secret is repeated."""
    with pytest.raises(SettingsError, match=name) as refused:
        Client.from_environment(GOOD | {name: value})
    assert "S3CRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("target", "secure", "tls"),
    [
        ("localhost:50051", None, False),
        ("127.0.0.1:50051", None, False),
        ("127.8.8.8:1", None, False),
        ("[::1]:50051", None, False),
        ("unix:/run/chain.sock", None, False),
        ("chain:50051", None, True),
        ("localhost.example.com:443", None, True),
        ("127.0.0.1.example.com:443", None, True),
        ("dns:///chain:50051", None, True),
        ("chain:50051", False, False),
        ("localhost:50051", True, True),
    ],
)
def test_only_this_machine_is_reached_in_the_clear(target: str, secure: bool | None, tls: bool) -> None:
    """TLS is used for every other machine, unless it is switched off by name."""
    assert (Server(target, secure).credentials() is not None) == tls


def test_authorities_that_can_not_be_used(tmp_path: Path) -> None:
    """A file of authorities that is not there, or that plaintext would ignore, is refused when the client is made."""
    with pytest.raises(SettingsError, match="ca: cannot read"):
        Client("chain:1", workspace_id="ws-1", workspace_secret="S3CRET", ca=tmp_path / "none.pem")
    with pytest.raises(SettingsError, match="ca: is of no use without TLS"):
        Client("chain:1", workspace_id="ws-1", workspace_secret="S3CRET", ca=tmp_path / "none.pem", secure=False)


@pytest.mark.parametrize("kind", KINDS)
async def test_tls(kind: Kind, tmp_path: Path) -> None:
    """With the right authority the server is believed; with gRPC's own list, no secret is sent to it."""
    chain, key = self_signed()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(chain)
    async with running_rogue(grpc.ssl_server_credentials([(key, chain)])) as rogue:
        rogue.script["GetTask"].append(answer(detail(RUNNING)))
        async with connected(kind, rogue.target, ca=ca) as client:
            assert (await client.call("get", "task-1")).status == "RUNNING"
        async with connected(kind, rogue.target, secure=True, timeout=0.5) as client:
            with pytest.raises(ApiError, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
                await client.call("get", "task-1")
        assert rogue.sign_ins == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_mutual_tls(kind: Kind, tmp_path: Path) -> None:
    """A server that asks for a certificate is shown it; without one, no secret is sent to it."""
    authority = Authority.opened(tmp_path)
    server, client = authority.issue("server"), authority.issue("client")
    async with running_rogue(Certificates(server.certificate, server.key, authority.file).credentials()) as rogue:
        rogue.script["GetTask"].append(answer(detail(RUNNING)))
        shown: dict[str, Any] = {"certificate": client.certificate, "key": client.key}
        async with connected(kind, rogue.target, ca=authority.file, **shown) as connection:
            assert (await connection.call("get", "task-1")).status == "RUNNING"
        async with connected(kind, rogue.target, ca=authority.file, timeout=0.5) as connection:
            with pytest.raises(ApiError, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
                await connection.call("get", "task-1")
        assert rogue.sign_ins == 1


@pytest.mark.parametrize("given", [{"certificate": "/c.pem"}, {"key": "/c.key"}])
def test_half_of_an_identity(given: dict[str, Any]) -> None:
    """A certificate without its key, or a key alone, is refused when the client is made; so is one without TLS."""
    who: dict[str, Any] = {"workspace_id": "ws-1", "workspace_secret": "S3CRET"}
    with pytest.raises(SettingsError, match="certificate, key: both are needed"):
        Client("chain:1", **who, **given)
    with pytest.raises(SettingsError, match="is of no use without TLS"):
        Client("chain:1", secure=False, **who, **given)


async def sent(rogue: Rogue, **options: Any) -> tasks_pb2.SubmitTaskRequest:
    """What a submit with these options sends."""
    rogue.script["SubmitTask"].append(answer(tasks_pb2.TaskSummary(task_id="task-1")))
    async with connected("async", rogue.target) as client:
        await client.call("submit", "echo", **options)
    request: tasks_pb2.SubmitTaskRequest = rogue.received["SubmitTask"].pop().request
    return request


async def test_every_option_is_sent() -> None:
    """Each field of SubmitTaskRequest can be set; times are seconds or timedeltas."""
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    policy = RetryPolicy(
        initial_interval=0.25,
        backoff_coefficient=3,
        maximum_interval=timedelta(minutes=5),
        maximum_attempts=7,
        non_retryable_error_codes={"INPUT_NOT_FOUND"},
    )
    options: Options = {
        "metadata": {"k": "v"},
        "labels": {"team": "search"},
        "priority": 1,
        "schedule_time": at,
        "dedupe_key": "nightly",
        "on_conflict": "USE_EXISTING",
        "retry_policy": policy,
        "schedule_to_start_timeout": 1,
        "start_to_close_timeout": 2.5,
        "schedule_to_close_timeout": timedelta(hours=1),
        "heartbeat_timeout": 4,
        "retention": timedelta(days=1),
        "request_id": "0b4c1a0e-6a64-4b4e-9a35-f5f1c5c9d1c0",
    }
    async with running_rogue() as rogue:
        request = await sent(rogue, **options)
    written = {field.name for field, _ in request.ListFields()}
    assert written == set(tasks_pb2.SubmitTaskRequest.DESCRIPTOR.fields_by_name) - {"workspace_id"}
    assert options.keys() == Options.__annotations__.keys()
    assert request.schedule_time.ToDatetime(UTC) == at
    assert (request.conflict_policy, request.priority) == (tasks_pb2.CONFLICT_POLICY_USE_EXISTING, 1)
    assert (request.start_to_close_timeout.ToMilliseconds(), request.retention.ToSeconds()) == (2500, 86400)
    sent_policy = request.retry_policy
    assert {field.name for field, _ in sent_policy.ListFields()} == set(tasks_pb2.RetryPolicy.DESCRIPTOR.fields_by_name)
    assert (sent_policy.initial_interval.ToMilliseconds(), sent_policy.maximum_interval.ToSeconds()) == (250, 300)


async def test_what_is_not_said_is_not_sent() -> None:
    """Without options only the type, an empty payload and a request_id are sent: defaults are the server's."""
    async with running_rogue() as rogue:
        request = await sent(rogue)
        policy = (await sent(rogue, retry_policy=RetryPolicy(maximum_attempts=1))).retry_policy
    assert {field.name for field, _ in request.ListFields()} == {"type", "payload", "request_id"}
    assert {field.name for field, _ in policy.ListFields()} == {"maximum_attempts"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"schedule_time": datetime(2026, 1, 2)}, "schedule_time: needs a time zone"),  # noqa: DTZ001 - the fault meant
        ({"retention": float("nan")}, "a length of time is wanted"),
        ({"retention": float("inf")}, "a length of time is wanted"),
    ],
)
async def test_an_option_that_can_not_be_sent(options: dict[str, Any], told: str) -> None:
    """An option that has no meaning is refused before anything is sent."""
    async with connected("async", "127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=told):
            await client.call("submit", "echo", **options)


def test_an_option_that_there_is_not() -> None:
    """A misspelt option is refused by its name."""
    misspelt: Any = {"prioriy": 1}
    with pytest.raises(TypeError, match="prioriy"):
        NewTask("echo", **misspelt)


def test_both_clients_are_alike() -> None:
    """The two have the same methods with the same parameters and the same words on them."""
    ours, theirs = public(Client), public(AsyncClient)
    assert ours.keys() == theirs.keys()
    for name, method in ours.items():
        assert inspect.signature(method).parameters == inspect.signature(theirs[name]).parameters, name
        assert inspect.getdoc(method) == inspect.getdoc(theirs[name]), name


def public(client: type) -> dict[str, Any]:
    members = inspect.getmembers(client, inspect.isroutine)
    return {name: member for name, member in members if not name.startswith("_")}


def test_an_async_client_may_be_made_outside_a_loop() -> None:
    """An AsyncClient made where no event loop runs belongs to the loop that first uses it."""
    client = AsyncClient("127.0.0.1:1", workspace_id="ws-1", workspace_secret="S3CRET", timeout=0.1)

    async def use() -> None:
        async with client:
            with pytest.raises(ApiError, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
                await client.get("task-1")

    asyncio.run(use())
