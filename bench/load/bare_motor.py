"""What our store does, by motor alone, in the best way: batches of inserts, or of guarded claims and completions.

No server, no gRPC, no checks; the documents, indexes, guards and write concern are ours.

Plan: `uri`; `tasks`; `batch`, how many go in one; `deed`, "insert" or "drain".
"""

import asyncio
import secrets
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import UpdateOne, WriteConcern

from bench import task
from bench.load import protocol
from openmcp_chain.store.mongo import indexes

WAITING, RUNNING, ENDED = f"{task.TYPE}/bench/3", "running", "ended"
AT_A_TIME = 2
"""Batches under way: more are no quicker, nor is PyMongo's client instead of motor."""


def new(payload: bytes, now: datetime | None = None) -> dict[str, Any]:
    now = now or datetime.now(UTC)
    return {
        "_id": f"bench/{uuid.uuid4()}",
        "workspace": "bench",
        "type": task.TYPE,
        "payload": payload,
        "metadata": [{"k": "priority", "v": "high"}, {"k": "team", "v": "orders"}],
        "priority": 3,
        "submitted_at": now,
        "events": [{"seq": 1, "status": "PENDING", "at": now}],
        "version": 1,
        "status": "PENDING",
        "queue": WAITING,
        "due_at": now,
        "updated_at": now,
    }


def leased(payload: bytes) -> dict[str, Any]:
    """One that is given to a worker when it comes, as ours is if a worker waits."""
    made = new(payload)
    lease = {"token": secrets.token_urlsafe(16), "worker": "bare", "expires_at": made["due_at"] + timedelta(minutes=1)}
    event = {"seq": 2, "status": "RUNNING", "at": made["due_at"], "context": {"attempt": 1, "worker": "bare"}}
    state = {"version": 2, "status": "RUNNING", "queue": RUNNING, "attempt": 1, "lease": lease}
    return {**made, **state, "due_at": lease["expires_at"], "events": [*made["events"], event]}


def claim(id_: str) -> UpdateOne:
    now = datetime.now(UTC)
    lease = {"token": secrets.token_urlsafe(16), "worker": "bare", "expires_at": now + timedelta(minutes=1)}
    state = {"version": 2, "status": "RUNNING", "queue": RUNNING, "attempt": 1, "lease": lease}
    event = {"seq": 2, "status": "RUNNING", "at": now, "context": {"attempt": 1, "worker": "bare"}}
    times = {"due_at": lease["expires_at"], "updated_at": now}
    return UpdateOne({"_id": id_, "version": 1}, {"$set": state | times, "$push": {"events": {"$each": [event]}}})


def complete(id_: str) -> UpdateOne:
    now = datetime.now(UTC)
    state = {"version": 3, "status": "SUCCEEDED", "queue": ENDED, "result": b""}
    event = {"seq": 3, "status": "SUCCEEDED", "at": now, "context": {"attempt": 1}}
    times = {"due_at": now + timedelta(days=30), "updated_at": now}
    change = {"$set": state | times, "$unset": {"lease": ""}, "$push": {"events": {"$each": [event]}}}
    return UpdateOne({"_id": id_, "version": 2}, change)


async def main(plan: dict[str, Any]) -> None:
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(plan["uri"], retryWrites=False)
    tasks = client.bench.get_collection("tasks", write_concern=WriteConcern(w="majority", j=True))
    await tasks.create_indexes(list(indexes.INDEXES["tasks"]))
    count, size = plan["tasks"], plan["batch"]
    payload = task.as_message("bench").payload.SerializeToString()
    marks: list[datetime] = []

    async def insert() -> None:
        """Leaves marks: from when to when each batch is due."""
        begins = iter(range(0, count, size))
        first = datetime.now(UTC).replace(microsecond=0)

        async def some() -> None:
            for begin in begins:
                # A millisecond for each batch, which is what the database tells apart.
                due = first + timedelta(milliseconds=begin // size)
                marks.append(due)
                made = [new(payload, due) for _ in range(min(size, count - begin))]
                await tasks.insert_many(made, ordered=False)

        await asyncio.gather(*(some() for _ in range(AT_A_TIME)))

    async def drain() -> None:
        spans = iter(list(zip(marks, [*marks[1:], datetime.now(UTC)], strict=True)))

        async def some() -> None:
            for since, until in spans:
                query = {"queue": WAITING, "due_at": {"$gte": since, "$lt": until}}
                found = [one["_id"] for one in await tasks.find(query, {"_id": 1}).to_list(None)]
                for step in (claim, complete):
                    result = await tasks.bulk_write([step(id_) for id_ in found], ordered=False)
                    assert result.matched_count == len(found), "nobody else is here"

        await asyncio.gather(*(some() for _ in range(AT_A_TIME)))

    if plan["deed"] == "drain":
        await insert()
    await protocol.wait_for_go()
    began = time.perf_counter()
    await (drain() if plan["deed"] == "drain" else insert())
    seconds = time.perf_counter() - began
    at_the_end = await tasks.count_documents({"queue": ENDED if plan["deed"] == "drain" else WAITING})
    assert at_the_end == count, f"{at_the_end} of {count}"
    protocol.tell(count, seconds)
    client.close()


if __name__ == "__main__":
    protocol.run(main)
