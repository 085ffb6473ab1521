"""A real Envoy, on the configuration that is shipped, before a real gRPC server."""

import asyncio
import json
import ssl
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import httpx
import yaml
from support.upstream import Upstream

from openmcp_chain.client.connection import Server
from openmcp_chain.domain import plans
from openmcp_chain.domain.plans import Plan
from openmcp_chain.stack import envoy, ports
from openmcp_chain.stack.envoy import Address, Settings
from openmcp_chain.stack.envoy.rates import Rate

READY_SECONDS = 20.0
OFTEN = Rate(per_second=10_000, burst=10_000)
"""Does not limit: all of a test's calls come from one address."""
BODY_LIMIT = 3 * 1024 * 1024
"""Bytes; more than Envoy reads at a time."""
PLANS: Mapping[str, Plan] = plans.parse(
    tomllib.loads(resources.files("openmcp_chain").joinpath("plans.toml").read_text())
) | {
    "once": Plan("once", requests_per_second=1, burst=1, streams=1),
    "ten": Plan("ten", requests_per_second=10, burst=30, streams=1),
    "thirty": Plan("thirty", requests_per_second=1, burst=30, streams=1),
}


def parsed(config: str) -> Any:
    """A rendered configuration as data, by libyaml: YAML's own parser in Python takes most of a second for one."""
    return yaml.load(config, yaml.CSafeLoader)


@dataclass
class Gateway:
    """Envoy, what is behind it, and clients to it."""

    upstream: Upstream
    rest: httpx.AsyncClient
    """Sends a token of an unlimited workspace."""
    anonymous: httpx.AsyncClient
    channel: grpc.aio.Channel
    log: Path

    @property
    def bearer(self) -> tuple[tuple[str, str], ...]:
        """Metadata with a token, for gRPC."""
        return (("authorization", f"Bearer {self.upstream.key.token()}"),)

    async def get(self, token: str, path: str = "/v1/tasks/pending") -> httpx.Response:
        return await self.anonymous.get(path, headers={"authorization": f"Bearer {token}"})

    async def until(self, path: str, status: int) -> None:
        """Waits until the path answers with the status. Meanwhile a connection may be cut."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                with suppress(httpx.TransportError):
                    if (await self.rest.get(path)).status_code == status:
                        return
                await asyncio.sleep(0.02)

    async def logged(self, wanted: str) -> dict[str, Any]:
        """The line of the access log that has this text."""
        async with asyncio.timeout(15):
            while True:
                for line in self.log.read_text().splitlines():
                    if wanted in line:
                        return dict(json.loads(line))
                await asyncio.sleep(0.1)  # Envoy gives no sign of having written


@asynccontextmanager
async def running(
    folder: Path, *, upstream: Upstream | None = None, ca: Path | None = None, **changed: Any
) -> AsyncIterator[Gateway]:
    """An Envoy with the shipped configuration, but with short times and small limits.

    `ca` is whom its clients trust, if it has an identity to show.
    """
    upstream = upstream or Upstream()
    await upstream.start()
    listen = Address("127.0.0.1", ports.choose({"envoy": 0})[0])
    told: dict[str, Any] = {
        "server": Address("127.0.0.1", upstream.port),
        "plans": PLANS,
        "jwks_seconds": 1,
        "unary_seconds": 1.0,
        "body_limit": BODY_LIMIT,
        "sign_ins": OFTEN,
        "open_calls": OFTEN,
    }
    settings = Settings(listen=listen, **told | changed)
    url = f"{'https' if ca else 'http'}://127.0.0.1:{listen.port}"
    trust = ssl.create_default_context(cafile=ca) if ca else False
    bearer = {"authorization": f"Bearer {upstream.key.token()}"}
    try:
        async with (
            httpx.AsyncClient(base_url=url, headers=bearer, timeout=10, verify=trust) as rest,
            httpx.AsyncClient(base_url=url, timeout=10, verify=trust) as anonymous,
            Server(f"127.0.0.1:{listen.port}", ca=ca).channel() as channel,
            process(settings, folder, rest) as log,
        ):
            yield Gateway(upstream, rest, anonymous, channel, log)
    finally:
        await upstream.stop()


@asynccontextmanager
async def process(settings: Settings, folder: Path, rest: httpx.AsyncClient) -> AsyncIterator[Path]:
    """An Envoy, from when it serves `rest`; gives its log."""
    async with answering(envoy.write(settings, folder), rest, httpx.codes.OK) as log:
        yield log


@asynccontextmanager
async def answering(config: Path, rest: httpx.AsyncClient, status: int) -> AsyncIterator[Path]:
    """An Envoy with this configuration, from when it answers `rest` so; gives its log."""
    log = config.with_name("envoy.log")
    with log.open("wb") as out:
        started = await asyncio.create_subprocess_exec(*envoy.command(config), stdout=out, stderr=out)
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await _answers(rest, status):
                    assert started.returncode is None, f"Envoy ended; see {log}"
                    await asyncio.sleep(0.05)
            yield log
        finally:
            started.terminate()
            await asyncio.wait_for(started.wait(), 10)


async def _answers(rest: httpx.AsyncClient, status: int) -> bool:
    try:
        return (await rest.get("/v1/tasks/pending")).status_code == status
    except httpx.TransportError:
        return False
