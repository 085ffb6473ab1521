"""Workspaces to test with, made by what `openmcp workspaces create` makes them by, which itself takes a second."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from support.stack import StackInfo

from openmcp_chain import config
from openmcp_chain.config import Config
from openmcp_chain.domain.workspace import Workspace
from openmcp_chain.engine import clock
from openmcp_chain.engine.administration import Administration, local_actor
from openmcp_chain.engine.tokens import Tokens
from openmcp_chain.stack import administration
from openmcp_chain.store.base import Store
from openmcp_chain.store.mongo import store as mongo


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a workspace signs in with."""

    workspace_id: str
    workspace_secret: str = field(repr=False)


def create(stack: StackInfo, plan: str = "unlimited", workspace_id: str = "") -> Credentials:
    """A new workspace of a running stack; its id is a UUID unless one is given."""
    return _made(stack, lambda made: made.workspaces.create(local_actor(), plan, workspace_id))


def create_administrator(stack: StackInfo) -> Credentials:
    """A new administrator of a running stack."""
    return _made(stack, lambda made: made.workspaces.create_administrator(local_actor()))


def _made(stack: StackInfo, make: Callable[[Administration], Awaitable[tuple[Workspace, str]]]) -> Credentials:
    async def opened() -> Credentials:
        async with administration.opened(settings(stack)) as found:
            made, secret = await make(found)
            return Credentials(made.id, secret)

    return asyncio.run(opened())


def expired_token(stack: StackInfo, credentials: Credentials) -> str:
    """A token that the server itself would have issued to the workspace an hour ago."""

    async def issue() -> str:
        moments = [datetime.now(UTC)]
        async with _tokens(stack, lambda: moments[0]) as (store, tokens):
            moments[0] -= timedelta(hours=1)
            workspace = await store.get_workspace(credentials.workspace_id)
            assert workspace
            return (await tokens.issue(workspace, workspace.secrets[0].id)).token

    return asyncio.run(issue())


def signer(stack: StackInfo) -> tuple[str, ec.EllipticCurvePrivateKey]:
    """The key that the stack signs tokens with, and its id."""

    async def find() -> tuple[str, ec.EllipticCurvePrivateKey]:
        async with _tokens(stack, clock.system) as (_, tokens):
            return await tokens.keys.signer()

    return asyncio.run(find())


def settings(stack: StackInfo) -> Config:
    """The stack's, for whoever goes past its doors."""
    return config.from_environment(
        {"OPENMCP_MONGODB_URI": stack.mongodb_uri, "OPENMCP_MASTER_KEY_FILE": str(stack.data_dir / "master.key")}
    )


@asynccontextmanager
async def _tokens(stack: StackInfo, now: clock.Clock) -> AsyncIterator[tuple[Store, Tokens]]:
    told = settings(stack)
    store = await mongo.connect(told.mongodb_uri, told.mongodb_database, told.mongodb_driver)
    try:
        tokens = Tokens(store, told.master, now)
        await tokens.keys.load()
        yield store, tokens
    finally:
        await store.close()
