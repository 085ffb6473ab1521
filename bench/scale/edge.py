"""What Envoy keeps: the buckets that each workspace has there."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace

import httpx

from bench import gateway, lab, openmcp
from openmcp_chain import config
from openmcp_chain.engine import clock
from openmcp_chain.engine.tokens import Tokens
from openmcp_chain.stack import ports
from openmcp_chain.store.mongo import store as mongo

WORKSPACES = 2_000
AT_A_TIME = 16
PLAN = "standard"
"""One with a limit: what has none has no bucket."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One Envoy."""

    workspace_kib: float
    """Memory for a workspace that has called: its buckets, and its token, which each thread remembers."""


async def measure() -> Edge:
    return Edge(await _workspace())


async def _workspace() -> float:
    async with lab.opened() as place:
        served = await openmcp.serve(place)
        port = await gateway.start(place, served)
        tokens = await _tokens(served)
        await _call(port, tokens[:1] * WORKSPACES)
        before = place.memory("envoy")
        await _call(port, tokens)
        return (place.memory("envoy") - before) / len(tokens) / 1024


async def _tokens(served: openmcp.Served) -> list[str]:
    """Of workspaces that there aren't: Envoy goes by the signature, and the server refuses them behind it."""
    settings = config.from_environment(served.environment)
    store = await mongo.connect(settings.mongodb_uri, settings.mongodb_database, settings.mongodb_driver)
    try:
        known = await store.get_workspace(served.workspace)
        assert known, "it was made"
        tokens = Tokens(store, settings.master, clock.system)
        await tokens.keys.load()
        some = (replace(known, id=f"workspace-{number}", plan=PLAN) for number in range(WORKSPACES))
        return [(await tokens.issue(one, "bench")).token for one in some]
    finally:
        await store.close()


async def _call(port: int, tokens: Iterable[str]) -> None:
    left = iter(tokens)
    async with httpx.AsyncClient(base_url=f"http://{ports.HOST}:{port}") as client:

        async def caller() -> None:
            for token in left:
                await client.get("/v1/tasks/none", headers={"authorization": f"Bearer {token}"})

        await asyncio.gather(*(caller() for _ in range(AT_A_TIME)))
