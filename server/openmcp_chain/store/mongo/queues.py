"""What belongs to tasks, and is kept beside them: queues, who has which dedupe_key, what calls were answered."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo import InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError

from openmcp_chain.domain.queue import QueueState
from openmcp_chain.domain.task import Call, DedupeKey, Task
from openmcp_chain.store.base import Answer, Taking
from openmcp_chain.store.mongo import documents, records
from openmcp_chain.store.mongo.errors import taken
from openmcp_chain.store.mongo.part import Part, added
from openmcp_chain.store.mongo.records import within


class Queues(Part):
    """The part of `store.base.Store` under "what belongs to tasks"."""

    async def put_queue(self, state: QueueState) -> bool:
        return await self._put(self._queues, records.from_queue(state))

    async def list_queues(self, since: datetime | None) -> Sequence[QueueState]:
        query = {} if since is None else {"changed_at": {"$gte": since}}
        return list(map(records.to_queue, await self._persist(lambda: self._queues.find(query).to_list(None))))

    async def key_holders(self, keys: Collection[DedupeKey]) -> Mapping[DedupeKey, str]:
        found = await self._persist(lambda: self._holders([within(*key) for key in keys])) if keys else {}
        return {key: holder for key in keys if (holder := found.get(within(*key)))}

    async def _holders(self, ids: Sequence[str]) -> dict[str, str]:
        found = self._dedupe_keys.find({"_id": {"$in": ids}}, {"holder": 1})
        return {document["_id"]: document["holder"] for document in await found.to_list(None)}

    async def held_submit(self, key: DedupeKey) -> Task | None:
        id_ = within(*key)
        found = await self._persist(lambda: self._dedupe_keys.find_one({"_id": id_}))
        return documents.to_task(found["task"]) if found else None

    async def put_holders(self, takings: Sequence[Taking]) -> Sequence[bool]:
        """One round trip if all get their keys, else another to see who did."""
        if not takings:
            return []
        ids = [within(*task.held_key) for task, _ in takings]
        writes = [_taking(id_, *taking) for id_, taking in zip(ids, takings, strict=True)]

        async def put() -> list[bool]:
            try:
                made = await self._dedupe_keys.bulk_write(writes, ordered=False)
            except BulkWriteError as error:
                taken(error)
            else:
                if made.inserted_count + made.matched_count == len(writes):
                    return [True] * len(writes)
            there = await self._holders(ids)
            return [there.get(id_) == task.id for id_, (task, _) in zip(ids, takings, strict=True)]

        return await self._persist(put)

    async def free_key(self, key: DedupeKey, task_id: str) -> bool:
        query = {"_id": within(*key), "holder": task_id}
        return (await self._persist(lambda: self._dedupe_keys.delete_one(query))).deleted_count > 0

    async def record_call(self, workspace: str, call: str, answer: Answer, expire_at: datetime) -> Answer:
        id_ = within(workspace, call)

        async def record() -> Answer:
            while not await added(self._calls, records.from_answer(id_, answer, expire_at)):
                if there := await self._calls.find_one({"_id": id_}):
                    return records.to_answer(there)
            return answer

        return await self._persist(record)

    async def keep_call(self, workspace: str, call: str, expire_at: datetime) -> None:
        query, later = {"_id": within(workspace, call)}, {"$max": {"expire_at": expire_at}}
        await self._persist(lambda: self._calls.update_one(query, later))

    async def recorded_calls(self, calls: Collection[Call]) -> Mapping[Call, Answer]:
        query = {"_id": {"$in": [within(*call) for call in calls]}}
        found = await self._persist(lambda: self._calls.find(query).to_list(None)) if calls else []
        answers = {document["_id"]: records.to_answer(document) for document in found}
        return {call: answers[id_] for call in calls if (id_ := within(*call)) in answers}


def _taking(id_: str, task: Task, instead_of: str) -> InsertOne[dict[str, Any]] | ReplaceOne[dict[str, Any]]:
    held: dict[str, Any] = {"_id": id_, "holder": task.id, "task": documents.from_task(task)}
    return ReplaceOne({"_id": id_, "holder": instead_of}, held) if instead_of else InsertOne(held)
