"""Several Envoys that share their limits: a workspace gets its plan's rate from all of them together."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from support import gateway
from support.plain import NOBODY
from support.upstream import Upstream

from openmcp_chain.domain.plans import Plan
from openmcp_chain.stack import ports
from openmcp_chain.stack.envoy import Address, Settings
from openmcp_chain.stack.envoy.rates import Rate

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE, BURST, LARGE = 20, 40, 400
PLANS = {
    "unlimited": Plan("unlimited", requests_per_second=0, burst=0, streams=1),
    "steady": Plan("steady", requests_per_second=RATE, burst=BURST, streams=1),
    "large": Plan("large", requests_per_second=1, burst=LARGE, streams=1),
}
SECONDS = 5.0
"""How long calls are counted."""
CALLERS = 4
"""For each Envoy."""
NEIGHBOURS = 500
"""Many times as many as Envoy would keep apart by itself, which is 20."""
SIGN_INS = Rate(per_second=1, burst=10)


class Fleet:
    """Two Envoys before one server."""

    def __init__(self, upstream: Upstream, envoys: Sequence[httpx.AsyncClient]) -> None:
        self.key = upstream.key
        self.envoys = envoys

    async def get(self, envoy: int, workspace: str, plan: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key.token(workspace, plan)}"}
        return await self.envoys[envoy].get("/v1/tasks/pending", headers=headers)

    async def flood(self, workspace: str, seconds: float) -> tuple[list[int], float]:
        """Calls as fast as may be; returns how many each Envoy let pass, and after how many seconds the last came."""
        headers = {"authorization": f"Bearer {self.key.token(workspace, 'steady')}"}
        passed = [0 for _ in self.envoys]
        began = time.monotonic()

        async def call(number: int) -> None:
            while time.monotonic() - began < seconds:
                answer = await self.envoys[number].get("/v1/tasks/pending", headers=headers)
                passed[number] += answer.status_code == httpx.codes.OK

        await asyncio.gather(*(call(number) for number in range(len(self.envoys)) for _ in range(CALLERS)))
        return passed, time.monotonic() - began


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    upstream = Upstream()
    await upstream.start()
    peers = [Address("127.0.0.1", port) for port in ports.choose({"one": 0, "another": 0})]
    bearer = {"authorization": f"Bearer {upstream.key.token()}"}
    async with contextlib.AsyncExitStack() as ends:
        ends.push_async_callback(upstream.stop)
        clients = []
        for peer in peers:
            settings = Settings(
                listen=peer,
                server=Address("127.0.0.1", upstream.port),
                plans=PLANS,
                peers=peers,
                sign_ins=SIGN_INS,
            )
            url = f"http://127.0.0.1:{peer.port}"
            client = await ends.enter_async_context(
                httpx.AsyncClient(base_url=url, headers=bearer, timeout=30, verify=NOBODY)
            )
            folder: Path = tmp_path_factory.mktemp("envoy")
            await ends.enter_async_context(gateway.process(settings, folder, client))
            clients.append(client)
        yield Fleet(upstream, clients)


@pytest.mark.slow
async def test_the_plans_rate_is_for_all_of_them(fleet: Fleet) -> None:
    """Over both Envoys, a workspace passes as many calls as its plan says, within a tenth, each giving its half."""
    passed, seconds = await fleet.flood("ws-noisy", SECONDS)
    allowed = BURST + RATE * seconds
    assert 0.9 * allowed - 2 <= sum(passed) <= 1.1 * allowed + 2, (passed, seconds)
    assert all(0.4 * allowed <= one <= 0.6 * allowed for one in passed), (passed, seconds)


@pytest.mark.slow
async def test_a_noisy_neighbour_is_not_noticed(fleet: Fleet) -> None:
    """While one workspace calls without end, a hundred others find their buckets full, at either Envoy."""
    flood = asyncio.create_task(fleet.flood("ws-noisy", SECONDS))
    for number in range(100):
        answer = await fleet.get(number % 2, f"ws-quiet-{number}", "steady")
        assert answer.status_code == 200
        assert int(answer.headers["x-ratelimit-remaining"]) >= BURST - 2  # a call costs each of two Envoys two
    passed, seconds = await flood
    assert sum(passed) <= 1.1 * (BURST + RATE * seconds) + 2


@pytest.mark.slow
async def test_hundreds_of_workspaces_keep_their_buckets(fleet: Fleet) -> None:
    """A workspace that has used up its bucket does not get it back because hundreds of others call meanwhile."""

    async def left(workspace: str) -> int:
        """What a call leaves in the bucket: one that Envoy itself refuses, but not before it has counted it."""
        headers = {"authorization": f"Bearer {fleet.key.token(workspace, 'large')}"}
        answer = await fleet.envoys[0].get("/v1/tasks/pending?unknown=1", headers=headers)
        assert answer.status_code in (400, 429)
        return int(answer.headers["x-ratelimit-remaining"])

    while await left("ws-first"):
        pass
    slots = asyncio.Semaphore(20)

    async def neighbour(number: int) -> int:
        async with slots:
            return await left(f"ws-{number}")

    full = await asyncio.gather(*(neighbour(number) for number in range(NEIGHBOURS)))
    assert min(full) >= LARGE - 2
    assert await left("ws-first") < LARGE // 2


async def test_an_addresses_limit_is_for_all_of_them(fleet: Fleet) -> None:
    """So is what one address may do without a token."""
    passed = 0
    for envoy in fleet.envoys:
        answers = await asyncio.gather(*(envoy.post("/v1/auth/token", json={}) for _ in range(SIGN_INS.burst)))
        passed += sum(answer.status_code == httpx.codes.OK for answer in answers)
    assert SIGN_INS.burst - 2 <= passed < 2 * SIGN_INS.burst - 2
