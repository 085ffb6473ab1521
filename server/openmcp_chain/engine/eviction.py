"""Sees to workspaces that are shut out: their queues are suspended, and those that are to be deleted are, bit by bit.

Every process does this, from what is stored. So whatever a process has left undone, because it was killed in the
middle, is done by another one, or by itself when it is back.

A call that was let in just before its workspace was shut out may still write for a while: until LINGER_SECONDS have
passed, and nothing is found after that, the workspace itself stays, so that nobody else can get its id and find the
remains. The time counts from when this process has first seen it: clocks of processes may differ.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from openmcp_chain.domain import errors
from openmcp_chain.domain.workspace import State, Workspace
from openmcp_chain.engine.queues import Queues
from openmcp_chain.store.base import Store

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
ALIGN_SECONDS = 10.0
"""How often all suspensions are compared with all workspaces."""
ERASED = 250
"""How many tasks of a workspace are deleted in a round: half a second of the embedded server's time."""
AGAIN_SECONDS = 5.0
"""How often a workspace is looked at that had no tasks any more."""
LINGER_SECONDS = 45.0
"""How long a call may still write once its workspace is shut out: its token is believed for 3 s, it may take 30 s, and
the store 10 s for its last write."""


@dataclass(slots=True)
class _Leaving:
    """A workspace that is being deleted, as this process sees it."""

    since: float
    """When it was seen first, by the loop's clock."""
    look_at: float
    """When to look for tasks of it again."""


class Eviction:
    """Runs `run_once` every second; while it has tasks to delete, after as long a pause as the last round took."""

    def __init__(self, store: Store, queues: Queues) -> None:
        self._store = store
        self._queues = queues
        self._leaving: dict[str, _Leaving] = {}
        self._align_at = 0.0
        self._followers: list[Callable[[str], None]] = []

    def follow(self, follower: Callable[[str], None]) -> None:
        """Tells `follower` of each workspace that is no more, by its id. It must return soon, and not raise."""
        self._followers.append(follower)

    async def run_once(self) -> int:
        """One round; returns how many tasks it deleted. Raises Unavailable if the database does not answer."""
        now = asyncio.get_running_loop().time()
        deleting = {workspace.id: workspace for workspace in await self._store.workspaces_in(State.DELETING)}
        for workspace_id in self._leaving.keys() - deleting.keys():
            await self._forget(workspace_id)
        erased = 0
        for workspace in deleting.values():
            leaving = self._leaving.setdefault(workspace.id, _Leaving(now, now))
            if now >= leaving.look_at:
                erased += await self._erase(workspace, leaving, now)
        if now >= self._align_at:
            await self._align()
            self._align_at = now + ALIGN_SECONDS
        return erased

    async def run(self) -> None:
        """Goes on until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began, erased = loop.time(), 0
            try:
                erased = await self.run_once()
            except errors.Error as error:
                log.warning("eviction failed", extra={"code": error.code})
            except Exception:
                log.exception("unforeseen")
            await asyncio.sleep(min(loop.time() - began, INTERVAL_SECONDS) if erased else INTERVAL_SECONDS)

    async def _erase(self, workspace: Workspace, leaving: _Leaving, now: float) -> int:
        await self._queues.align(workspace.id)
        erased = await self._store.erase_tasks(workspace.id, ERASED)
        if erased < ERASED:
            if now - leaving.since >= LINGER_SECONDS and await self._store.delete_workspace(workspace):
                log.info("workspace deleted", extra={"workspace": workspace.id})
                await self._forget(workspace.id)
            leaving.look_at = now + AGAIN_SECONDS
        return erased

    async def _align(self) -> None:
        """Makes the suspensions what the workspaces' states say, where a process did not get there."""
        disabled = {workspace.id for workspace in await self._store.workspaces_in(State.DISABLED)}
        for workspace_id in disabled & self._queues.unsuspended():
            await self._queues.align(workspace_id)
        for workspace_id in self._queues.suspended() - disabled - self._leaving.keys():
            if await self._store.get_workspace(workspace_id) is None:
                await self._forget(workspace_id)
            else:
                await self._queues.align(workspace_id)

    async def _forget(self, workspace_id: str) -> None:
        await self._queues.forget(workspace_id)
        self._leaving.pop(workspace_id, None)
        for follower in self._followers:
            follower(workspace_id)
