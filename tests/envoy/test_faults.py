"""What clients see while the server is away, and what a client that stays away sees."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from support.gateway import Gateway

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc, workers_pb2, workers_pb2_grpc

LAME_DUCK_SECONDS = 3.0
"""How long, by default, a server goes on serving once it says NOT_SERVING."""

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_server_that_is_away(gateway: Gateway) -> None:
    """REST and gRPC are told to come back, not why; /healthz says it; all is well again once the server is."""
    stub = tasks_pb2_grpc.TaskServiceStub(gateway.channel)
    request = tasks_pb2.GetTaskRequest(task_id="pending")
    await gateway.upstream.stop()
    try:
        answer = await gateway.rest.get("/v1/tasks/pending")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "UPSTREAM_UNAVAILABLE"
        assert not {"connect", "upstream connect", "reset", "refused"} & set(answer.text.lower().split())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetTask(request, metadata=gateway.bearer)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await gateway.until("/healthz", 503)
        assert (await gateway.rest.get("/healthz")).json()["error"]["code"] == "UPSTREAM_UNAVAILABLE"
        refused = await gateway.anonymous.get("/v1/tasks/pending")
        assert refused.status_code == 401  # the keys are kept
    finally:
        await gateway.upstream.start()
    await gateway.until("/v1/tasks/pending", 200)
    for probe in ("/healthz", "/healthz?from=elsewhere"):
        assert (await gateway.rest.get(probe)).status_code == 200
    assert (await stub.GetTask(request, metadata=gateway.bearer)).task_id == "pending"


async def test_a_server_that_is_draining(gateway: Gateway) -> None:
    """Envoy stops sending within the time that a server goes on serving after its health says NOT_SERVING."""
    await gateway.upstream.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        async with asyncio.timeout(LAME_DUCK_SECONDS):
            await gateway.until("/healthz", 503)
        answer = await gateway.rest.get("/v1/tasks/pending")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UPSTREAM_UNAVAILABLE")
    finally:
        await gateway.upstream.health.set("", health_pb2.HealthCheckResponse.SERVING)
    await gateway.until("/v1/tasks/pending", 200)


async def test_a_short_restart_goes_unnoticed(gateway: Gateway) -> None:
    """A call that finds no server to connect to is sent again, and answered by the restarted one."""
    await gateway.until("/v1/tasks/pending", 200)
    await gateway.upstream.stop()
    call = asyncio.create_task(gateway.rest.get("/v1/tasks/pending"))
    await asyncio.sleep(0)
    await gateway.upstream.start()
    answer = await call
    await gateway.until("/v1/tasks/pending", 200)
    assert answer.status_code == 200


async def half_asked(gateway: Gateway, method: str, path: str, content_type: str) -> bytes:
    """The answer to a request whose body is announced and never comes."""
    url = gateway.rest.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    lines = [f"{method} {path} HTTP/1.1", "host: x", f"authorization: Bearer {gateway.upstream.key.token()}"]
    lines += [f"content-type: {content_type}", "te: trailers", "content-length: 100", "connection: close", "", ""]
    writer.write("\r\n".join(lines).encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


async def test_a_request_that_never_ends_is_given_up(gateway: Gateway) -> None:
    """A stream's too, by REST and by gRPC, as a unary call's is; one that is answered goes on as long as it likes."""
    said: asyncio.Queue[workers_pb2.WorkRequest] = asyncio.Queue()

    async def saying() -> AsyncIterator[workers_pb2.WorkRequest]:
        while True:
            yield await said.get()

    beat = workers_pb2.WorkRequest(heartbeat=workers_pb2.Heartbeat())
    work: Any = workers_pb2_grpc.WorkerServiceStub(gateway.channel).Work(saying(), metadata=gateway.bearer)
    said.put_nowait(beat)
    await work.read()
    service = "/openmcp.chain.v1"
    rest, *framed = await asyncio.gather(
        half_asked(gateway, "GET", "/v1/tasks/x/events", "application/json"),
        half_asked(gateway, "POST", f"{service}.TaskService/StreamTaskEvents", "application/grpc"),
        half_asked(gateway, "POST", f"{service}.WorkerService/Work", "application/grpc"),
        half_asked(gateway, "POST", f"{service}.TaskService/GetTask", "application/grpc"),
    )
    assert rest.startswith(b"HTTP/1.1 408 ")
    assert b'{"error":{"code":"DEADLINE_EXCEEDED"' in rest
    for answer in framed:
        assert b"\r\ngrpc-status: 4\r\n" in answer
        assert b"\r\ngrpc-status-details-bin: " in answer
    said.put_nowait(beat)
    assert (await work.read()).HasField("ack")
    work.cancel()
