"""Calls without a token: a bucket for each address that they come from."""

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from support.gateway import Gateway, running
from support.plain import NOBODY

from openmcp.chain.v1 import auth_pb2, errors_pb2
from openmcp_chain.stack.envoy.rates import Rate

pytestmark = pytest.mark.asyncio(loop_scope="module")

BURST = 20
SIGN_IN = "/openmcp.chain.v1.AuthService/Authenticate"
HEALTH = "/grpc.health.v1.Health/Check"
NUMBERS: Iterator[int] = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One that lets an address sign in BURST times at once, and as often make other calls without a token."""
    rate = Rate(per_second=1, burst=BURST)
    # Where dozens call at once, the second that other tests give a call is soon over.
    folder = tmp_path_factory.mktemp("addresses")
    async with running(folder, sign_ins=rate, open_calls=rate, unary_seconds=10.0) as started:
        yield started


class Caller:
    """Somebody with an address of their own."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def sign_in(self, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.client.post("/v1/auth/token", json={"workspace_id": "ws-1"}, headers=headers)

    async def call(self, path: str, message: Message, content_type: str = "application/grpc") -> httpx.Response:
        """A call in gRPC's own form."""
        body = message.SerializeToString()
        headers = {"content-type": content_type, "te": "trailers"}
        return await self.client.post(path, content=b"\0" + len(body).to_bytes(4, "big") + body, headers=headers)

    async def tire(self) -> httpx.Response:
        """Signs in until it is refused, and returns the refusal."""
        answers = await asyncio.gather(*(self.sign_in() for _ in range(2 * BURST)))
        assert {answer.status_code for answer in answers} == {200, 429}
        return next(answer for answer in answers if answer.status_code == httpx.codes.TOO_MANY_REQUESTS)


def is_tired(answer: httpx.Response) -> bool:
    """Whether the answer is one of a bucket that is used already."""
    return int(answer.headers["x-ratelimit-remaining"]) < BURST - 1


@asynccontextmanager
async def caller(gateway: Gateway) -> AsyncIterator[Caller]:
    """One at an address that nobody has had before."""
    transport = httpx.AsyncHTTPTransport(verify=NOBODY, local_address=f"127.0.1.{next(NUMBERS)}")
    async with httpx.AsyncClient(transport=transport, base_url=gateway.rest.base_url, timeout=10) as client:
        yield Caller(client)


async def test_too_many_sign_ins(gateway: Gateway) -> None:
    """Beyond the limit REST says 429 with its own code, and when to try again: in a header and in the details."""
    async with caller(gateway) as somebody:
        refusal = await somebody.tire()
    assert refusal.headers["retry-after"] == "1"
    assert refusal.headers["x-ratelimit-limit"] == str(BURST)
    error = refusal.json()["error"]
    assert error["code"] == "TOO_MANY_SIGN_INS"
    assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1s"} in error["details"]


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc-web+proto"])
async def test_one_limit_for_rest_and_grpc(gateway: Gateway, content_type: str) -> None:
    """Who has used it up by REST is refused by gRPC as well, with RESOURCE_EXHAUSTED and the same details."""
    async with caller(gateway) as somebody:
        await somebody.tire()
        request = auth_pb2.AuthRequest(workspace_id="ws-1")
        # Several: by now there may be room for one again.
        answers = await asyncio.gather(*(somebody.call(SIGN_IN, request, content_type) for _ in range(2 * BURST)))
    answer = next(answer for answer in answers if answer.headers.get("grpc-status") == "8")
    details = answer.headers["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(details + "=" * (-len(details) % 4)))
    ours, retry = errors_pb2.Error(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(ours)
    assert ours.code == "TOO_MANY_SIGN_INS"
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToSeconds() == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "203.0.113.7"},
        {"x-forwarded-for": "203.0.113.7, 127.0.0.1"},
        {"forwarded": "for=203.0.113.7"},
        {"x-real-ip": "203.0.113.7"},
        {"x-envoy-external-address": "203.0.113.7"},
        {"x-envoy-internal": "true"},
        {"true-client-ip": "203.0.113.7"},
    ],
)
async def test_an_address_can_not_be_made_up(gateway: Gateway, headers: Mapping[str, str]) -> None:
    """What a caller says of its address makes no difference."""
    async with caller(gateway) as somebody:
        await somebody.tire()
        assert is_tired(await somebody.sign_in(headers))


async def test_neighbours_have_their_own(gateway: Gateway) -> None:
    """An address that has used up its sign-ins takes none from others, and gets none back, however many there are."""
    async with caller(gateway) as somebody:
        await somebody.tire()
        for _ in range(30):  # more than the 20 that Envoy tells apart by default
            async with caller(gateway) as neighbour:
                answer = await neighbour.sign_in()
                assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (200, str(BURST - 1))
        assert is_tired(await somebody.sign_in())


async def test_whoever_has_a_token_goes_on(gateway: Gateway) -> None:
    """Neither the calls of a token's bearer, nor other calls without a token, are those that are limited."""
    bearer = {"authorization": f"Bearer {gateway.upstream.key.token()}"}
    async with caller(gateway) as somebody:
        await somebody.tire()
        answers = [await somebody.client.get("/v1/tasks/pending", headers=bearer) for _ in range(2 * BURST)]
        assert {answer.status_code for answer in answers} == {200}
        assert (await somebody.client.get("/.well-known/jwks.json")).status_code == 200


async def test_a_token_makes_no_difference(gateway: Gateway) -> None:
    """To sign in is limited with a token as without."""
    async with caller(gateway) as somebody:
        await somebody.tire()
        assert is_tired(await somebody.sign_in({"authorization": f"Bearer {gateway.upstream.key.token()}"}))


async def test_other_calls_without_a_token(gateway: Gateway) -> None:
    """Health and the key set have a limit for each address too, which they share; the refusal says whose it is."""
    async with caller(gateway) as somebody:
        answers = [await somebody.client.get("/.well-known/jwks.json") for _ in range(2 * BURST)]
        refused = [answer for answer in answers if answer.status_code == httpx.codes.TOO_MANY_REQUESTS]
        assert refused
        assert refused[0].headers["retry-after"] == "1"
        error = refused[0].json()["error"]
        assert (error["code"], "address" in error["message"]) == ("RATE_LIMITED", True)
        health = await somebody.call(HEALTH, health_pb2.HealthCheckRequest())
        assert health.headers["grpc-status"] == "8"
        assert (await somebody.sign_in()).status_code == 200


async def test_behind_a_proxy(tmp_path: Path) -> None:
    """Where a proxy in front is trusted, the address that it adds counts, not the proxy's; no other does."""
    rate = Rate(per_second=1, burst=BURST)
    async with running(tmp_path, sign_ins=rate, trusted_hops=1) as gateway, caller(gateway) as proxy:

        async def left(told: str) -> int:
            answers = [await proxy.sign_in({"x-forwarded-for": told}) for _ in range(2)]
            return int(answers[0].headers["x-ratelimit-remaining"])

        fresh = BURST - 1
        assert await left("203.0.113.7") == fresh
        assert await left("198.51.100.1, 203.0.113.7") < fresh
        assert await left("203.0.113.7, 203.0.113.8") == fresh
        # Addresses of one subscriber.
        assert await left("2001:db8::1") == fresh
        assert await left("2001:db8::ffff:2") < fresh
        assert await left("2001:db8:0:1::1") == fresh
