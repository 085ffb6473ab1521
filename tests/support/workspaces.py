"""Workspaces to test with, made as an operator makes them: by `openmcp workspaces create`."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from support.stack import StackInfo

from openmcp_chain import config
from openmcp_chain.config import Config
from openmcp_chain.engine import clock
from openmcp_chain.engine.tokens import Tokens
from openmcp_chain.store.base import Store
from openmcp_chain.store.mongo import store as mongo


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a workspace signs in with."""

    workspace_id: str
    workspace_secret: str = field(repr=False)


def create(stack: StackInfo, plan: str = "unlimited", workspace_id: str = "") -> Credentials:
    """A new workspace of a running stack; its id is a UUID unless one is given."""
    command = [str(Path(sys.executable).with_name("openmcp")), "workspaces", "create", "--json", "--plan", plan]
    named = ["--id", workspace_id] if workspace_id else []
    done = subprocess.run(
        [*command, *named, "--data-dir", str(stack.data_dir)], check=True, capture_output=True, text=True
    )
    return Credentials(**json.loads(done.stdout))


def create_administrator(stack: StackInfo) -> Credentials:
    """A new administrator of a running stack."""
    command = [str(Path(sys.executable).with_name("openmcp")), "admins", "create", "--json"]
    done = subprocess.run([*command, "--data-dir", str(stack.data_dir)], check=True, capture_output=True, text=True)
    return Credentials(**json.loads(done.stdout))


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
