"""The least that brings a task to a worker and its result back: what one task on an idle system can't be quicker than.

A submit is one durable insert of the task, leased already, and goes to the worker over its stream; the worker's report
is one durable, guarded update, and goes to who waits for it. Nothing is decoded, checked, limited, logged or kept
besides. Client, documents, indexes, guards and write concern are our store's.

`python -m bench.peers.least_task HOST:PORT MONGODB_URI` serves; `… HOST:PORT` works.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

from bench.load import bare_motor
from bench.peers import bare
from openmcp_chain.store.mongo import client, indexes

SUBMIT, WAIT, WORK = "/least/Submit", "/least/Wait", "/least/Work"


class Least(bare.Methods):
    """The three methods. What is sent is bytes: a payload, an id, an id with when it was started."""

    def __init__(self, tasks: Any) -> None:  # noqa: ANN401 - the driver's
        self._tasks = tasks
        self._given: asyncio.Queue[bytes] = asyncio.Queue()
        self._ended: dict[bytes, asyncio.Future[bytes]] = {}
        super().__init__(
            {
                SUBMIT: grpc.unary_unary_rpc_method_handler(self._submit),
                WAIT: grpc.unary_unary_rpc_method_handler(self._wait),
                WORK: grpc.stream_stream_rpc_method_handler(self._work),
            }
        )

    async def _submit(self, payload: bytes, _: bare.Context) -> bytes:
        task = bare_motor.leased(payload)
        await self._tasks.insert_one(task)
        id_ = str(task["_id"]).encode()
        self._ended[id_] = asyncio.get_running_loop().create_future()
        self._given.put_nowait(id_ + b" " + payload)
        return id_

    async def _wait(self, id_: bytes, _: bare.Context) -> bytes:
        try:
            return await self._ended[id_]
        finally:
            del self._ended[id_]

    async def _work(self, reports: AsyncIterator[bytes], context: bare.Context) -> None:
        async def send() -> None:
            while True:
                await context.write(await self._given.get())

        await context.send_initial_metadata(())
        sending = asyncio.create_task(send())
        async for report in reports:
            id_, _, started = report.partition(b" ")
            result = await self._tasks.bulk_write([bare_motor.complete(id_.decode())])
            assert result.matched_count == 1, "nobody else is here"
            self._ended[id_].set_result(started)
        sending.cancel()


async def serve(address: str, uri: str) -> None:
    connection = await client.connect(uri, "bench", "pymongo")
    await connection.database.tasks.create_indexes(list(indexes.INDEXES["tasks"]))
    await bare.serve(Least(connection.database.tasks), address)


async def work(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stream: Any = channel.stream_stream(WORK)()
        await stream.wait_for_connection()
        bare.ready()
        while (task := await stream.read()) is not grpc.aio.EOF:
            await stream.write(task.partition(b" ")[0] + f" {time.monotonic()}".encode())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(*sys.argv[1:]) if len(sys.argv) > 2 else work(sys.argv[1]))
