"""What belongs to tasks, and is kept beside them: queues, generations of dedupe keys, what lease calls granted."""

from collections.abc import Sequence
from datetime import datetime

from openmcp_chain.domain.queue import QueueState
from openmcp_chain.store.base import Granted
from openmcp_chain.store.mongo import records
from openmcp_chain.store.mongo.part import Part, added
from openmcp_chain.store.mongo.records import within


class Queues(Part):
    """The part of `store.base.Store` under "what belongs to tasks"."""

    async def put_queue(self, state: QueueState) -> bool:
        return await self._put(self._database.queues, records.from_queue(state))

    async def list_queues(self, since: datetime | None) -> Sequence[QueueState]:
        query = {} if since is None else {"changed_at": {"$gte": since}}
        return list(map(records.to_queue, await self._persist(lambda: self._database.queues.find(query).to_list(None))))

    async def get_generation(self, workspace: str, dedupe_key: str) -> int:
        id_ = within(workspace, dedupe_key)
        found = await self._persist(lambda: self._database.generations.find_one({"_id": id_}))
        return found["generation"] if found else 0

    async def raise_generation(self, workspace: str, dedupe_key: str, generation: int) -> None:
        generations, id_ = self._database.generations, within(workspace, dedupe_key)

        async def put() -> None:
            if generation == 1:
                await added(generations, {"_id": id_, "generation": 1})
            else:
                await generations.update_one(
                    {"_id": id_, "generation": generation - 1}, {"$set": {"generation": generation}}
                )

        await self._persist(put)

    async def record_leases(
        self, workspace: str, request_id: str, granted: Sequence[Granted], expire_at: datetime
    ) -> Sequence[Granted]:
        id_ = within(workspace, request_id)

        async def record() -> Sequence[Granted]:
            while not await added(self._database.leases, records.from_granted(id_, granted, expire_at)):
                if there := await self._database.leases.find_one({"_id": id_}):
                    return records.to_granted(there)
            return tuple(granted)

        return await self._persist(record)

    async def recorded_leases(self, workspace: str, request_id: str) -> Sequence[Granted] | None:
        id_ = within(workspace, request_id)
        found = await self._persist(lambda: self._database.leases.find_one({"_id": id_}))
        return records.to_granted(found) if found else None
