"""Workspaces, signing keys, and the log of what was done to them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from openmcp_chain.domain import audit
from openmcp_chain.domain.workspace import SigningKey, State, Workspace
from openmcp_chain.store.mongo import records
from openmcp_chain.store.mongo.part import Part, added


class Identities(Part):
    """The parts of `store.base.Store` under "identity" and "the audit log"."""

    async def get_workspace(self, workspace_id: str) -> Workspace | None:
        found = await self._persist(lambda: self._workspaces.find_one({"_id": workspace_id}))
        return records.to_workspace(found) if found else None

    async def get_workspaces(self, workspace_ids: Collection[str]) -> Mapping[str, Workspace]:
        query = {"_id": {"$in": list(workspace_ids)}}
        found = await self._persist(lambda: self._workspaces.find(query).to_list(None))
        return {document["_id"]: records.to_workspace(document) for document in found}

    async def list_workspaces(self, after: str, limit: int) -> Sequence[Workspace]:
        if limit <= 0:  # to the database, 0 is no limit
            return []
        query = {"_id": {"$gt": after}}
        found = await self._persist(lambda: self._workspaces.find(query, sort=[("_id", 1)], limit=limit).to_list(None))
        return list(map(records.to_workspace, found))

    async def workspaces_in(self, state: State) -> Sequence[Workspace]:
        query = {"state": state.value}
        found = await self._persist(lambda: self._workspaces.find(query).to_list(None))
        return list(map(records.to_workspace, found))

    async def put_workspace(self, workspace: Workspace) -> bool:
        return await self._put(self._workspaces, records.from_workspace(workspace))

    async def delete_workspace(self, workspace: Workspace) -> bool:
        of_it = {"_id": {"$gte": records.within(workspace.id, ""), "$lt": f"{workspace.id}0"}}  # 0 follows the slash

        async def delete() -> bool:
            found = await self._workspaces.find_one({"_id": workspace.id}, {"version": 1})
            if found is None or found["version"] != workspace.version:
                return found is None
            for kept in ("timers", "dedupe_keys", "calls", "queues"):
                await self._database[kept].delete_many(of_it)
            # Also what they tell of others: who hears late is told by change events, which have their documents.
            await self._signals.delete_many({"changed.workspace": workspace.id})
            await self._workspaces.delete_one({"_id": workspace.id, "version": workspace.version})
            return await self._workspaces.find_one({"_id": workspace.id}, {"version": 1}) is None

        return await self._persist(delete)

    async def list_keys(self) -> Sequence[SigningKey]:
        found = await self._persist(lambda: self._signing_keys.find().to_list(None))
        return sorted(map(records.to_signing_key, found), key=lambda key: key.signs_from)

    async def add_key(self, key: SigningKey) -> None:
        await self._persist(lambda: added(self._signing_keys, records.from_signing_key(key)))

    async def delete_key(self, kid: str) -> None:
        await self._persist(lambda: self._signing_keys.delete_one({"_id": kid}))

    async def add_audit_event(self, event: audit.Event) -> None:
        await self._persist(lambda: added(self._audit, records.from_audit_event(event)))

    async def list_audit_events(self, workspace: str, before: str, limit: int) -> Sequence[audit.Event]:
        if limit <= 0:
            return []
        query: dict[str, Any] = {"workspace": workspace} if workspace else {}
        if before:
            query["_id"] = {"$lt": before}
        found = await self._persist(lambda: self._audit.find(query, sort=[("_id", -1)], limit=limit).to_list(None))
        return list(map(records.to_audit_event, found))
