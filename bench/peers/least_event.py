"""The least that brings what one process has written of a task to who follows it at another.

A change is one durable, guarded update of a task, and a signal, as ours, inserted behind it. The other process sees the
signal by a change stream, and sends its task's id to who follows. Nothing is decoded, checked, limited, logged or kept
besides. Client, documents, indexes, guards, signals and write concerns are our store's.

`python -m bench.peers.least_event HOST:PORT MONGODB_URI` serves; two of them on one database are the two processes.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import uvloop
from pymongo import WriteConcern

from bench import task
from bench.load import bare_motor
from bench.peers import bare
from openmcp_chain.domain.task import Key
from openmcp_chain.store.base import Signal
from openmcp_chain.store.mongo import client, indexes, processes, records

SUBMIT, END, FOLLOW = "/least/Submit", "/least/End", "/least/Follow"


class Least(bare.Methods):
    """The three methods. What is sent is bytes: a payload; an id; nothing, and for each signal its task's id."""

    def __init__(self, database: Any) -> None:  # noqa: ANN401 - the driver's
        self._tasks = database.tasks
        self._signals = database.get_collection("signals", write_concern=WriteConcern(w=1))
        self._telling = set[asyncio.Task[Any]]()
        super().__init__(
            {
                SUBMIT: grpc.unary_unary_rpc_method_handler(self._submit),
                END: grpc.unary_unary_rpc_method_handler(self._end),
                FOLLOW: grpc.unary_stream_rpc_method_handler(self._follow),
            }
        )

    async def _submit(self, payload: bytes, _: bare.Context) -> bytes:
        made = bare_motor.leased(payload)
        await self._tasks.insert_one(made)
        return str(made["_id"]).encode()

    async def _end(self, id_: bytes, _: bare.Context) -> bytes:
        """Answers with the time at which the change was begun."""
        began = time.time()
        result = await self._tasks.bulk_write([bare_motor.complete(id_.decode())])
        assert result.matched_count == 1, "nobody else is here"
        telling = asyncio.create_task(self._tell(Key(*id_.decode().split("/"))))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
        return str(began).encode()

    async def _tell(self, key: Key) -> None:
        now = datetime.now(UTC)
        await self._signals.insert_one(records.from_signal(Signal("least", [key], [], {key: task.ended(now)}), now))

    async def _follow(self, _: bytes, context: bare.Context) -> AsyncIterator[bytes]:
        async with await self._signals.watch(processes.INSERTS, max_await_time_ms=processes.AWAIT_MS) as stream:
            await stream.try_next()  # from now on it misses nothing
            await context.send_initial_metadata(())
            async for change in stream:
                yield change["fullDocument"]["changed"][0]["id"].encode()


async def main(address: str, uri: str) -> None:
    connection = await client.connect(uri, "bench", "pymongo")
    await connection.database.tasks.create_indexes(list(indexes.INDEXES["tasks"]))
    await connection.database.signals.create_indexes(list(indexes.INDEXES["signals"]))
    await bare.serve(Least(connection.database), address)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2]))
