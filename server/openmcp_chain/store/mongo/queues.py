"""What belongs to tasks, and is kept beside them: queues, who has which dedupe_key, what calls were answered."""

from collections.abc import Sequence
from datetime import datetime

from openmcp_chain.domain.queue import QueueState
from openmcp_chain.domain.task import Task
from openmcp_chain.store.base import Answer
from openmcp_chain.store.mongo import documents, records
from openmcp_chain.store.mongo.part import Part, added
from openmcp_chain.store.mongo.records import within


class Queues(Part):
    """The part of `store.base.Store` under "what belongs to tasks"."""

    async def put_queue(self, state: QueueState) -> bool:
        return await self._put(self._database.queues, records.from_queue(state))

    async def list_queues(self, since: datetime | None) -> Sequence[QueueState]:
        query = {} if since is None else {"changed_at": {"$gte": since}}
        return list(map(records.to_queue, await self._persist(lambda: self._database.queues.find(query).to_list(None))))

    async def key_holder(self, workspace: str, dedupe_key: str) -> str:
        id_ = within(workspace, dedupe_key)
        found = await self._persist(lambda: self._database.dedupe_keys.find_one({"_id": id_}, {"holder": 1}))
        return found["holder"] if found else ""

    async def held_submit(self, workspace: str, dedupe_key: str) -> Task | None:
        id_ = within(workspace, dedupe_key)
        found = await self._persist(lambda: self._database.dedupe_keys.find_one({"_id": id_}))
        return documents.to_task(found["task"]) if found else None

    async def put_holder(self, task: Task, instead_of: str) -> bool:
        keys, id_ = self._database.dedupe_keys, within(task.workspace, task.dedupe_key)
        held = {"_id": id_, "holder": task.id, "task": documents.from_task(task)}

        async def put() -> bool:
            if not instead_of:
                if await added(keys, held):
                    return True
            elif (await keys.replace_one({"_id": id_, "holder": instead_of}, held)).matched_count:
                return True
            there = await keys.find_one({"_id": id_}, {"holder": 1})
            return there is not None and there["holder"] == task.id

        return await self._persist(put)

    async def free_key(self, workspace: str, dedupe_key: str, task_id: str) -> bool:
        query = {"_id": within(workspace, dedupe_key), "holder": task_id}
        return (await self._persist(lambda: self._database.dedupe_keys.delete_one(query))).deleted_count > 0

    async def record_call(self, workspace: str, call: str, answer: Answer, expire_at: datetime) -> Answer:
        id_ = within(workspace, call)

        async def record() -> Answer:
            while not await added(self._database.calls, records.from_answer(id_, answer, expire_at)):
                if there := await self._database.calls.find_one({"_id": id_}):
                    return records.to_answer(there)
            return answer

        return await self._persist(record)

    async def keep_call(self, workspace: str, call: str, expire_at: datetime) -> None:
        query, later = {"_id": within(workspace, call)}, {"$max": {"expire_at": expire_at}}
        await self._persist(lambda: self._database.calls.update_one(query, later))

    async def recorded_call(self, workspace: str, call: str) -> Answer | None:
        id_ = within(workspace, call)
        found = await self._persist(lambda: self._database.calls.find_one({"_id": id_}))
        return records.to_answer(found) if found else None
