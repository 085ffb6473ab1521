"""What one round trip takes on an idle system: a gRPC call that is only answered, or a durable insert by motor.

Plan: `target` and `path` of a method, and `request` in base64; or `uri` of a database; `calls` and `warm_up`.
"""

import base64
from typing import Any

import grpc
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import WriteConcern

from bench import task
from bench.load import bare_motor, protocol


async def main(plan: dict[str, Any]) -> None:
    count = {"calls": plan["calls"], "warm_up": plan["warm_up"]}
    await (_insert(plan["uri"], count) if "uri" in plan else _call(plan, count))


async def _call(plan: dict[str, Any], count: dict[str, int]) -> None:
    request = base64.b64decode(plan["request"])
    async with grpc.aio.insecure_channel(plan["target"]) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(plan["path"])

        async def trip() -> None:
            await method(request)

        await protocol.round_trips(trip, **count)


async def _insert(uri: str, count: dict[str, int]) -> None:
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(uri)
    tasks = client.bench.get_collection("tasks", write_concern=WriteConcern(w="majority", j=True))
    payload = task.as_message("bench").payload.SerializeToString()

    async def trip() -> None:
        await tasks.insert_one(bare_motor.new(payload))

    await protocol.round_trips(trip, **count)
    client.close()


if __name__ == "__main__":
    protocol.run(main)
