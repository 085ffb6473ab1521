"""What one round trip takes on an idle system: a call that is only answered; a durable insert, or a guarded update.

The writes are our store's: its client, documents, indexes, guards and write concern.

Plan: `target` and `path` of a method, and `request` in base64; or `uri` of a database and `deed`, "insert" or "update";
`calls` and `warm_up`.
"""

import base64
from typing import Any

import grpc

from bench import task
from bench.load import bare_motor, protocol
from openmcp_chain.store.mongo import client, indexes


async def main(plan: dict[str, Any]) -> None:
    count = {"calls": plan["calls"], "warm_up": plan["warm_up"]}
    await (_write(plan["uri"], plan["deed"], count) if "uri" in plan else _call(plan, count))


async def _call(plan: dict[str, Any], count: dict[str, int]) -> None:
    request = base64.b64decode(plan["request"])
    async with grpc.aio.insecure_channel(plan["target"]) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(plan["path"])

        async def trip() -> None:
            await method(request)

        await protocol.round_trips(trip, **count)


async def _write(uri: str, deed: str, count: dict[str, int]) -> None:
    connection = await client.connect(uri, "bench", "pymongo")
    tasks = connection.database.tasks
    await tasks.create_indexes(list(indexes.INDEXES["tasks"]))
    payload = task.as_message("bench").payload.SerializeToString()
    there: list[str] = []
    if deed == "update":
        made = [bare_motor.new(payload) for _ in range(sum(count.values()))]
        await tasks.insert_many(made)
        there += [one["_id"] for one in made]
        await tasks.bulk_write([bare_motor.claim(id_) for id_ in there], ordered=False)

    async def insert() -> None:
        await tasks.insert_one(bare_motor.new(payload))

    async def update() -> None:
        result = await tasks.bulk_write([bare_motor.complete(there.pop())])
        assert result.matched_count == 1, "nobody else is here"

    await protocol.round_trips(insert if deed == "insert" else update, **count)
    await connection.close()


if __name__ == "__main__":
    protocol.run(main)
