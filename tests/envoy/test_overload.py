"""Callers that read nothing, and what Envoy does and says near its limit of memory."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import httpx
import pytest
import yaml
from support.gateway import PLANS, READY_SECONDS, Gateway, answering, parsed, running
from support.http2 import Http2
from support.plain import NOBODY
from support.service import refused

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc
from openmcp_chain.client.connection import Server
from openmcp_chain.domain import errors
from openmcp_chain.stack import envoy, ports
from openmcp_chain.stack.authority import Authority
from openmcp_chain.stack.envoy import Address, Settings
from openmcp_chain.stack.envoy.tls import HSTS, Identity
from openmcp_chain.transport import status


def config(folder: Path, port: int, identity: Identity) -> Path:
    """For an Envoy that is always over the limit at which it refuses calls, but never over that of connections."""
    listen, nowhere = Address("127.0.0.1", port), Address("127.0.0.1", 1)
    settings = Settings(listen=listen, server=nowhere, plans=PLANS, identity=identity, heap_bytes=1024 * 1024)
    path = envoy.write(settings, folder)
    rendered = parsed(path.read_text())
    actions = rendered["overload_manager"]["actions"]
    actions.remove(next(one for one in actions if one["name"] == "envoy.overload_actions.reject_incoming_connections"))
    path.write_text(yaml.safe_dump(rendered))
    return path


async def test_a_call_that_is_refused_for_want_of_memory(tmp_path: Path) -> None:
    """It is told so in the contract's form, by REST and gRPC, with all that goes with every answer; without TLS too."""
    authority = Authority.opened(tmp_path)
    certificate = authority.issue("envoy")
    (port,) = ports.choose({"envoy": 0})
    trust = ssl.create_default_context(cafile=authority.file)
    path = config(tmp_path, port, Identity(certificate.certificate, certificate.key))
    async with (
        httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=trust) as rest,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=NOBODY) as plain,
        answering(path, rest, 503),
    ):
        async with asyncio.timeout(READY_SECONDS):
            while (await rest.get("/healthz")).json()["error"]["code"] != "OVERLOADED":  # noqa: ASYNC110 - Envoy's doing
                await asyncio.sleep(0.05)
        for client in (rest, plain):
            answer = await client.post("/v1/tasks", json={})
            assert (answer.status_code, answer.text) == (503, status.shown(errors.Overloaded()))
            answer.headers.pop("connection", "")
            told = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length")}
            assert told == {
                "content-type": "application/json",
                "retry-after": "1",
                "x-content-type-options": "nosniff",
                "cache-control": "no-store",
            } | ({"strict-transport-security": HSTS} if client is rest else {})
        for ca in (authority.file, None):
            async with Server(f"127.0.0.1:{port}", ca=ca).channel() as channel:
                call = tasks_pb2_grpc.TaskServiceStub(channel).GetTask(tasks_pb2.GetTaskRequest(task_id="x"))
                told_so = await refused(call)
                assert (told_so.status, told_so.code) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
                sent = {**dict(await call.initial_metadata()), **dict(await call.trailing_metadata())}
                assert sent["retry-after"] == "1"
                assert sent.get("strict-transport-security") == (HSTS if ca else None)
                assert not any(name.startswith("x-openmcp") for name in sent)


def unread(gateway: Gateway) -> Http2:
    """A connection whose client never reads more of an answer than how it begins."""
    url = gateway.rest.base_url
    return Http2(url.host, url.port or 0, window=0)


def fields(gateway: Gateway, path: str, method: str = "GET", **others: str) -> list[tuple[str, str]]:
    """A request's header."""
    token = gateway.upstream.key.token("ws-unread")
    named = {":method": method, ":scheme": "http", ":authority": "x", ":path": path, "authorization": f"Bearer {token}"}
    return [*(named | others).items()]


@pytest.mark.asyncio(loop_scope="session")
async def test_who_reads_no_answer_stops_nobody_else(gateway: Gateway) -> None:
    """Not a stream's either, which no time-out ends: others' answers come by the same connection to the server."""
    message = tasks_pb2.StreamTaskEventsRequest(task_id="wide_100000").SerializeToString()
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    grpc_type = {"content-type": "application/grpc", "te": "trailers"}
    call = fields(gateway, "/openmcp.chain.v1.TaskService/StreamTaskEvents", "POST", **grpc_type)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            client = await stack.enter_async_context(unread(gateway))
            await client.heard([client.ask(call, frame) for _ in range(25)])

        async def other() -> int:
            async with httpx.AsyncClient(
                base_url=gateway.rest.base_url, headers=gateway.rest.headers, verify=NOBODY
            ) as client:
                return (await client.get("/v1/tasks/pending")).status_code

        assert await asyncio.gather(*(other() for _ in range(8))) == [200] * 8


@pytest.mark.slow
async def test_answers_that_nobody_reads_go_when_memory_is_short(tmp_path: Path) -> None:
    """Long before they would; so others are served."""
    async with running(tmp_path, heap_bytes=64 * 1024 * 1024) as gateway, AsyncExitStack() as stack:
        request = fields(gateway, "/v1/tasks/wide_100000")
        for _ in range(8):
            client = await stack.enter_async_context(unread(gateway))
            await client.heard([client.ask(request) for _ in range(100)])
        await gateway.until("/v1/tasks/pending", 200)
