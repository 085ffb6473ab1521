"""Who signs in to the stack: the demo workspace, the worker's operator, the first administrator.

Each start finds the first two ready for use, whatever an administrator has done to them since the last one: a data
folder whose workspace stays out could be used for nothing, and the command that lets it in needs a stack that is up.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from openmcp_chain.domain import errors
from openmcp_chain.domain.workspace import SECRETS, State
from openmcp_chain.engine.administration import Administration, local_actor
from openmcp_chain.engine.workspaces import FIRST
from openmcp_chain.stack import demo
from openmcp_chain.stack.state import Memory

LOOK_SECONDS = 1.0
"""How often a workspace is looked at that is being deleted."""


async def credentials(opened: Administration, remembered: Memory, plan: str, tell: Callable[[str], None]) -> Memory:
    """Makes both if they aren't there. What is remembered and still valid stays; the workspace gets `plan`.

    What is disabled is let in again. What is being deleted is waited for, for as long as the servers take, and then
    made anew. `tell` is told of either. Raises what `Workspaces` does.
    """
    actor = local_actor()
    await _let_in(opened, demo.WORKSPACE, tell)
    try:
        _, workspace_secret = await opened.workspaces.create(actor, plan, demo.WORKSPACE)
    except errors.WorkspaceExists:
        await opened.workspaces.update(actor, demo.WORKSPACE, plan)
        workspace_secret = await _keep(opened, demo.WORKSPACE, remembered.workspace_secret)
    await _let_in(opened, demo.OPERATOR, tell)
    try:
        _, operator_secret = await opened.workspaces.create_operator(actor, [demo.TASK_TYPE], demo.OPERATOR)
    except errors.WorkspaceExists:
        operator_secret = await _keep(opened, demo.OPERATOR, remembered.operator_secret)
    return replace(remembered, workspace_secret=workspace_secret, operator_secret=operator_secret)


async def first_administrator(opened: Administration) -> str:
    """Its secret, if it had to be made."""
    try:
        return (await opened.workspaces.create_administrator(local_actor(), FIRST))[1]
    except errors.WorkspaceExists:
        return ""


async def _let_in(opened: Administration, workspace_id: str, tell: Callable[[str], None]) -> None:
    """Returns when it is not shut out: it is active, or it is not there."""
    try:
        known = await opened.workspaces.get(workspace_id)
        if known.state is State.DISABLED:
            await opened.workspaces.enable(local_actor(), workspace_id)
            tell(f"{workspace_id} was disabled, and is enabled again")
        if known.state is State.DELETING:
            tell(f"{workspace_id} is being deleted; when that is done, it is made anew …")
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                await opened.workspaces.get(workspace_id)
    except errors.WorkspaceNotFound:
        return


async def _keep(opened: Administration, workspace_id: str, secret: str) -> str:
    """This secret if it is valid, else a new one, for which the oldest makes room: the stack has to start."""
    if await opened.secrets.accepts(workspace_id, secret):
        return secret
    for excess in (await opened.secrets.list(workspace_id))[: 1 - SECRETS]:
        await opened.secrets.revoke(local_actor(), workspace_id, excess.id)
    _, told = await opened.secrets.rotate(local_actor(), workspace_id)
    return told
