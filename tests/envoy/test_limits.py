"""Rate limits: a bucket for each workspace, of its plan's size."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2
from support.gateway import BODY_LIMIT, Gateway

from openmcp.chain.v1 import errors_pb2, tasks_pb2, tasks_pb2_grpc
from openmcp_chain.client.errors import read
from openmcp_chain.stack.envoy.routes import FRAME_BYTES

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def at_once(gateway: Gateway, token: str, calls: int = 8) -> list[httpx.Response]:
    return await asyncio.gather(*(gateway.get(token) for _ in range(calls)))


async def test_too_many_calls(gateway: Gateway) -> None:
    """Calls beyond the plan are 429 with Retry-After and what is left; the details say the same."""
    answers = await at_once(gateway, gateway.upstream.key.token("ws-many", "once"))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].headers["x-ratelimit-limit"] == "1"
    assert refused[0].headers["x-ratelimit-remaining"] == "0"
    error = refused[0].json()["error"]
    assert error["code"] == "RATE_LIMITED"
    assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1s"} in error["details"]


async def test_grpc_is_told_in_its_way(gateway: Gateway) -> None:
    """A gRPC caller gets RESOURCE_EXHAUSTED with Error, ErrorInfo and RetryInfo."""
    token = gateway.upstream.key.token("ws-grpc", "once")
    stub = tasks_pb2_grpc.TaskServiceStub(gateway.channel)
    request = tasks_pb2.GetTaskRequest(task_id="pending")
    calls = [stub.GetTask(request, metadata=(("authorization", f"Bearer {token}"),)) for _ in range(8)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    refused = next(end for end in ends if isinstance(end, grpc.aio.AioRpcError))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = dict(refused.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    ours, retry = errors_pb2.Error(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(ours)
    assert ours.code == "RATE_LIMITED"
    assert ours.message == status.message == refused.details()
    assert status.details[2].Unpack(retry)
    assert retry.retry_delay.seconds == 1


async def test_neighbours_have_their_own(gateway: Gateway) -> None:
    """A workspace's calls neither use up another's bucket, nor, however many workspaces call, refill its own."""
    tired = gateway.upstream.key.token("ws-tired", "thirty")
    answers = await at_once(gateway, tired, 40)
    assert any(answer.status_code == 429 for answer in answers)
    for number in range(30):  # more than the 20 that Envoy tells apart by default
        fresh = await gateway.get(gateway.upstream.key.token(f"ws-fresh-{number}", "thirty"))
        assert fresh.headers["x-ratelimit-remaining"] == "29"
    again = await gateway.get(tired)
    assert int(again.headers["x-ratelimit-remaining"]) < 29


async def test_no_limit(gateway: Gateway) -> None:
    """A plan without a limit has none, and no headers that say one."""
    token = gateway.upstream.key.token("ws-free", "unlimited")
    # Not all at once: a call has a second here, and what is tried is not how fast the machine is.
    answers = [answer for _ in range(5) for answer in await at_once(gateway, token, 10)]
    assert {answer.status_code for answer in answers} == {200}
    assert not any("x-ratelimit-limit" in answer.headers for answer in answers)


@pytest.mark.parametrize("plan", ["added-meanwhile", "", None])
async def test_an_unknown_plan_counts_as_the_smallest(gateway: Gateway, plan: str | None) -> None:
    """A plan that Envoy was not told of, or none, is the smallest one, in a bucket of the workspace's own."""
    for workspace in ("ws-old", "ws-older"):
        answers = await at_once(gateway, gateway.upstream.key.token(f"{workspace}-{plan}", plan=plan))
        passed = [answer for answer in answers if answer.status_code == 200]
        assert passed[0].headers["x-ratelimit-limit"] == "1"
        assert 1 <= len(passed) < len(answers)


async def test_signing_in_is_not_limited_by_the_plan(gateway: Gateway) -> None:
    """A workspace that has used up its calls can still refresh its token."""
    token = gateway.upstream.key.token("ws-refresh", "once")
    assert any(answer.status_code == 429 for answer in await at_once(gateway, token))
    headers = {"authorization": f"Bearer {token}"}
    for _ in range(5):
        assert (await gateway.anonymous.post("/v1/auth/token", json={}, headers=headers)).status_code == 200


BODY = b'{"type":"t","payload":{"a":"%s"}}' % (b"a" * (5 << 18))


async def test_bytes_are_counted(gateway: Gateway) -> None:
    """A workspace that sends more than its plan's bytes is refused before any of it is looked at, by REST and gRPC."""
    token = gateway.upstream.key.token("ws-bytes", "thirty")  # of 3 MiB, as much as the largest request, at once
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    post = partial(gateway.anonymous.post, "/v1/tasks", headers=headers)
    assert [(await post(content=BODY)).status_code for _ in range(2)] == [200, 200]
    for body in (BODY, BODY.replace(b'"t"', b"false")):
        refused = await post(content=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "120")
        assert refused.headers["x-ratelimit-limit"] == str(BODY_LIMIT + FRAME_BYTES)
        assert 0 < int(refused.headers["x-ratelimit-remaining"]) < len(body)
        error = refused.json()["error"]
        assert error["code"] == "RATE_LIMITED"
        assert "sends more bytes" in error["message"]
        assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "120s"} in error["details"]
    small = await post(content=b'{"type":"t","payload":{}}')
    assert (small.status_code, small.headers["x-ratelimit-limit"]) == (200, "30")

    stub = tasks_pb2_grpc.TaskServiceStub(gateway.channel)
    large = tasks_pb2.SubmitTaskRequest(type="t")
    large.payload["a"] = "a" * (5 << 18)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.SubmitTask(large, metadata=(("authorization", f"Bearer {token}"),))
    told = read(failed.value.code().name, failed.value.details() or "", failed.value.trailing_metadata() or ())
    assert (told.status, told.code, told.retry_after) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED", 120)
    assert "sends more bytes" in told.message
    sent = *(failed.value.initial_metadata() or ()), *(failed.value.trailing_metadata() or ())
    assert ("retry-after", "120") in sent


async def test_what_workers_send_is_counted_by_itself(gateway: Gateway) -> None:
    """A task's end does not wait for what others of its workspace send; and when it may be said again is sooner."""
    token = gateway.upstream.key.token("ws-ends", "ten")
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    end = b'{"lease":{"task_id":"t","lease_token":"l"},"result":{"a":"%s"}}' % (b"a" * (5 << 18))
    for path, body, wait in (("/v1/tasks", BODY, "20"), ("/v1/worker/tasks:complete", end, "5")):
        answers = [await gateway.anonymous.post(path, headers=headers, content=body) for _ in range(3)]
        assert [answer.status_code == 429 for answer in answers] == [False, False, True]
        assert answers[-1].headers["retry-after"] == wait


async def test_bytes_of_no_known_length_are_counted(gateway: Gateway) -> None:
    """Also those of a body that comes in chunks."""
    token = gateway.upstream.key.token("ws-chunks", "thirty")
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    async def chunks() -> AsyncIterator[bytes]:
        yield BODY[:1000]
        yield BODY[1000:]

    answers = [await gateway.anonymous.post("/v1/tasks", headers=headers, content=chunks()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["retry-after"] == "120"


async def test_the_largest_request_fits_a_full_bucket(gateway: Gateway) -> None:
    """However small the plan."""
    token = gateway.upstream.key.token("ws-largest", "once")
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    largest = b'{"type":"t"' + b" " * (BODY_LIMIT - 12) + b"}"
    assert (await gateway.anonymous.post("/v1/tasks", headers=headers, content=largest)).status_code == 200
