"""Workspaces and signing keys."""

from collections.abc import Sequence

from openmcp_chain.domain.workspace import SigningKey, Workspace
from openmcp_chain.store.mongo import records
from openmcp_chain.store.mongo.part import Part, added


class Identities(Part):
    """The part of `store.base.Store` under "identity"."""

    async def get_workspace(self, workspace_id: str) -> Workspace | None:
        found = await self._persist(lambda: self._database.workspaces.find_one({"_id": workspace_id}))
        return records.to_workspace(found) if found else None

    async def list_workspaces(self) -> Sequence[Workspace]:
        found = await self._persist(lambda: self._database.workspaces.find().to_list(None))
        return sorted(map(records.to_workspace, found), key=lambda workspace: workspace.id)

    async def put_workspace(self, workspace: Workspace) -> bool:
        return await self._put(self._database.workspaces, records.from_workspace(workspace))

    async def list_keys(self) -> Sequence[SigningKey]:
        found = await self._persist(lambda: self._database.signing_keys.find().to_list(None))
        return sorted(map(records.to_signing_key, found), key=lambda key: key.signs_from)

    async def add_key(self, key: SigningKey) -> None:
        await self._persist(lambda: added(self._database.signing_keys, records.from_signing_key(key)))
