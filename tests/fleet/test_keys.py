"""Keys, secrets and workspaces while requests run, by every way: through a real Envoy, and past it to two servers."""

import asyncio
import itertools
import json
import os
import pwd
import random
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import httpx
import jwt
import pytest
import yaml
from support.fleet import SETTINGS, Fleet, running_fleet
from support.gateway import OFTEN, PLANS, READY_SECONDS, parsed
from support.plain import NOBODY
from support.workspaces import Credentials

from openmcp.chain.v1 import auth_pb2, auth_pb2_grpc, tasks_pb2, tasks_pb2_grpc
from openmcp_chain import config
from openmcp_chain.domain.audit import Actor
from openmcp_chain.domain.workspace import State, Workspace
from openmcp_chain.engine import clock, keys
from openmcp_chain.engine.keys import Keys
from openmcp_chain.stack import envoy, ports
from openmcp_chain.stack.envoy import Address, Settings
from openmcp_chain.store.mongo import store as mongo
from openmcp_chain.store.mongo.store import MongoStore

pytestmark = pytest.mark.slow

ACTOR = Actor("local:test")
JWKS_SECONDS = 1
LEAD = timedelta(seconds=10)
"""Of a key. The clocks of one machine do not differ, and Envoy asks more often than is its default."""
ROTATIONS = 3
APART_SECONDS = 2.0
CALLERS = 2
"""Of each kind."""
ENDS_SECONDS = 5.0
"""By when tokens have ended that were taken back."""

Way = Callable[[str], Awaitable[str]]
"""Makes a call with a token; returns the code of its refusal."""
FOUND_NOTHING = "TASK_NOT_FOUND"
"""The refusal of every call here: no such task is there. Whoever says so has looked."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("keys"), servers=2) as running:
        yield running


class Site:
    """The fleet behind an Envoy: the ways to it, and its database."""

    def __init__(self, credentials: Credentials, store: MongoStore, keys_of_it: Keys) -> None:
        self.credentials = credentials
        self.store = store
        self.keys = keys_of_it
        self.ways: dict[str, Way] = {}
        self.sign_ins: list[Callable[[], Awaitable[str]]] = []

    async def workspace(self) -> Workspace:
        known = await self.store.get_workspace(self.credentials.workspace_id)
        assert known
        return known

    async def until_ended(self, token: str) -> None:
        """Returns when the token is taken by no way any more: in time."""
        async with asyncio.timeout(ENDS_SECONDS):
            for way in self.ways.values():
                while (code := await way(token)) == FOUND_NOTHING:  # noqa: ASYNC110 - only asking tells
                    await asyncio.sleep(0.05)
                assert code == "TOKEN_INVALID"


def rest_way(client: httpx.AsyncClient) -> Way:
    async def call(token: str) -> str:
        answer = await client.get(f"/v1/tasks/{uuid.uuid4()}", headers={"authorization": f"Bearer {token}"})
        code: str = answer.json()["error"]["code"]
        return code

    return call


def grpc_way(channel: grpc.aio.Channel) -> Way:
    stub: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)

    async def call(token: str) -> str:
        request = tasks_pb2.GetTaskRequest(task_id=str(uuid.uuid4()))
        try:
            await stub.GetTask(request, metadata=(("authorization", f"Bearer {token}"),), timeout=30)
        except grpc.aio.AioRpcError as error:
            codes = ("TASK_NOT_FOUND", "TOKEN_INVALID", "TOKEN_EXPIRED")
            details = str(dict(error.trailing_metadata()).get("grpc-status-details-bin"))
            return next((code for code in codes if code in details), str(error.code()))
        return "OK"

    return call


def grpc_sign_in(channel: grpc.aio.Channel, credentials: Credentials) -> Callable[[], Awaitable[str]]:
    stub: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)
    request = auth_pb2.AuthRequest(workspace_id=credentials.workspace_id, workspace_secret=credentials.workspace_secret)

    async def sign_in() -> str:
        return (await stub.Authenticate(request, timeout=30)).token

    return sign_in


def rest_sign_in(client: httpx.AsyncClient, credentials: Credentials) -> Callable[[], Awaitable[str]]:
    body = {"workspace_id": credentials.workspace_id, "workspace_secret": credentials.workspace_secret}

    async def sign_in() -> str:
        answer = await client.post("/v1/auth/token", json=body)
        token: str = answer.json()["access_token"]
        return token

    return sign_in


def write_config(fleet: Fleet, folder: Path, port: int) -> Path:
    """The shipped configuration, with both servers behind it."""
    first, *others = fleet.servers
    settings = Settings(
        listen=Address("127.0.0.1", port),
        server=Address("127.0.0.1", first.port),
        plans=PLANS,
        jwks_seconds=JWKS_SECONDS,
        sign_ins=OFTEN,
        open_calls=OFTEN,
    )
    path = envoy.write(settings, folder)
    whole = parsed(path.read_text())
    (server,) = [one for one in whole["static_resources"]["clusters"] if one["name"] == "server"]
    endpoints = server["load_assignment"]["endpoints"][0]["lb_endpoints"]
    for other in others:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": other.port}}
        endpoints.append({"endpoint": {"address": address}})
    path.write_text(yaml.safe_dump(whole))
    return path


@asynccontextmanager
async def site(fleet: Fleet, credentials: Credentials, folder: Path) -> AsyncIterator[Site]:
    settings = config.from_environment({**SETTINGS, "OPENMCP_MONGODB_URI": fleet.mongodb_uri})
    (port,) = ports.choose({"envoy": 0})
    config_path, log = write_config(fleet, folder, port), folder / "envoy.log"
    async with AsyncExitStack() as ends:
        store = await mongo.connect(settings.mongodb_uri, settings.mongodb_database, settings.mongodb_driver)
        ends.push_async_callback(store.close)
        there = Site(credentials, store, Keys(store, settings.master, clock.system))
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(*envoy.command(config_path), stdout=out, stderr=out)

        async def end() -> None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 10)

        ends.push_async_callback(end)
        client = await ends.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=NOBODY)
        )
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        channels = [
            await ends.enter_async_context(grpc.aio.insecure_channel(target, options))
            for target in (f"127.0.0.1:{port}", *(server.target for server in fleet.servers))
        ]
        there.ways = {"REST": rest_way(client), "gRPC": grpc_way(channels[0])}
        there.ways |= {f"server {n}": grpc_way(channel) for n, channel in enumerate(channels[1:])}
        there.sign_ins = [grpc_sign_in(channel, credentials) for channel in channels[1:]]
        token = await there.sign_ins[0]()
        async with asyncio.timeout(READY_SECONDS):
            while not await _taken(there.ways["REST"], token):  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.05)
        there.sign_ins += [grpc_sign_in(channels[0], credentials), rest_sign_in(client, credentials)]
        yield there


async def _taken(way: Way, token: str) -> bool:
    try:
        return await way(token) == FOUND_NOTHING
    except httpx.TransportError:
        return False


class Load:
    """Callers that sign in again and again, and call by one way with tokens old and new."""

    def __init__(self, there: Site) -> None:
        self._site = there
        self._tokens: list[str] = []
        self.calls = 0
        self.wrong: list[tuple[str, str]] = []
        """The answers that should not have come, and by which way."""
        self._chance = random.Random(0)  # noqa: S311 - which token is next

    async def run(self, name: str, sign_ins: Iterator[Callable[[], Awaitable[str]]]) -> None:
        while True:
            self._tokens.append(await next(sign_ins)())
            for token in (self._tokens[-1], self._chance.choice(self._tokens), self._tokens[0]):
                code = await self._site.ways[name](token)
                self.calls += 1
                if code != FOUND_NOTHING:
                    self.wrong.append((name, code))
            await asyncio.sleep(0.1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        names = [name for name in self._site.ways for _ in range(CALLERS)]
        turns = itertools.cycle(self._site.sign_ins)
        callers = [asyncio.create_task(self.run(name, turns)) for name in names]
        try:
            yield self
            assert not any(caller.done() for caller in callers), [caller for caller in callers if caller.done()]
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)


def test_rotations_under_load_refuse_no_request(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several keys come while REST, gRPC and native callers are at work: no token of any key is ever refused.

    In the end every way signs in with the newest. When that is revoked, its tokens end everywhere, those of the key
    before it count still, and sign-ins go on with that at once.
    """
    monkeypatch.setattr(keys, "LEAD", LEAD)
    credentials = fleet.workspace()

    async def play() -> None:
        async with site(fleet, credentials, tmp_path) as there:
            async with Load(there).running() as load:
                made = []
                for _ in range(ROTATIONS):
                    made.append(await there.keys.rotate(ACTOR))
                    await asyncio.sleep(APART_SECONDS)
                left = made[-1].signs_from - clock.system()
                await asyncio.sleep(left.total_seconds() + 2 * keys.KEYS_EVERY_SECONDS)
                newest = [await sign_in() for sign_in in there.sign_ins]
                assert {kid(token) for token in newest} == {made[-1].kid}
                before = load.calls
                while load.calls < before + 20 * len(there.ways):  # noqa: ASYNC110 - some more of the newest key
                    await asyncio.sleep(0.1)
            assert load.wrong == []
            assert load.calls > 100 * len(there.ways)
            await there.keys.revoke(made[-1].kid, ACTOR)
            await there.until_ended(newest[0])
            again = [await sign_in() for sign_in in there.sign_ins]
            assert {kid(token) for token in again} == {made[-2].kid}
            for token, way in itertools.product(again, there.ways.values()):
                assert await way(token) == FOUND_NOTHING

    asyncio.run(play())


def test_what_is_taken_back_ends_everywhere_in_seconds(fleet: Fleet, tmp_path: Path) -> None:
    """The tokens of a workspace that is disabled, and of a secret that is revoked. What is given counts at once."""
    credentials = fleet.workspace()

    async def play() -> None:
        async with site(fleet, credentials, tmp_path) as there:
            known = await there.workspace()
            disabled = replace(known, state=State.DISABLED, version=known.version + 1)
            enabled = replace(known, version=known.version + 2)
            revoked = replace(known, secrets=(), version=known.version + 3)
            for given, taken in ((known, disabled), (enabled, revoked)):
                await there.store.put_workspace(given)
                token = await there.sign_ins[0]()
                assert {await way(token) for way in there.ways.values()} == {FOUND_NOTHING}
                await there.store.put_workspace(taken)
                await there.until_ended(token)

    asyncio.run(play())


def test_the_command_rotates_lists_and_revokes(fleet: Fleet) -> None:
    """`openmcp keys` on the deployment's database: what it did is in the audit log, by whose hand too."""

    def openmcp(*arguments: str, status: int = 0) -> str:
        command = [str(Path(sys.executable).with_name("openmcp")), *arguments, "--mongodb-uri", fleet.mongodb_uri]
        environment = {**os.environ, **SETTINGS, "LOGNAME": "somebody-else"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout or done.stderr

    made = json.loads(openmcp("keys", "rotate", "--json"))
    known = json.loads(openmcp("keys", "list", "--json"))
    assert known[-1] == {"kid": made["kid"], "phase": "next", "signs_from": made["signs_from"], "retires_at": None}
    assert openmcp("keys", "revoke", made["kid"]) == f"{made['kid']} is revoked\n"
    left = openmcp("keys", "list")
    assert [line.split()[0] for line in left.splitlines()] == [key["kid"] for key in known[:-1]]
    assert "names no signing key" in openmcp("keys", "revoke", made["kid"], status=1)
    told = [line for line in openmcp("audit", "list").splitlines() if made["kid"] in line]
    assert ["key.rotate" in line for line in told] == [False, True]
    assert ["key.revoke" in line for line in told] == [True, False]
    assert all(f"local:{pwd.getpwuid(os.getuid()).pw_name}" in line for line in told)


def kid(token: str) -> str:
    named: str = jwt.get_unverified_header(token)["kid"]
    return named
