"""Workspaces to test with, made as an operator makes them: by `openmcp workspaces create`."""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from support.stack import StackInfo

from openmcp_chain import config
from openmcp_chain.engine.tokens import Tokens
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
        settings = config.from_environment(
            {
                "OPENMCP_MONGODB_URI": stack.mongodb_uri,
                "OPENMCP_MASTER_KEY_FILE": str(stack.data_dir / "master.key"),
            }
        )
        store = await mongo.connect(settings.mongodb_uri, settings.mongodb_database, settings.mongodb_driver)
        moments = [datetime.now(UTC)]
        try:
            tokens = Tokens(store, settings.master, lambda: moments[0])
            await tokens.keys.load()
            moments[0] -= timedelta(hours=1)
            workspace = await store.get_workspace(credentials.workspace_id)
            assert workspace
            return (await tokens.issue(workspace, workspace.secrets[0].id)).token
        finally:
            await store.close()

    return asyncio.run(issue())
