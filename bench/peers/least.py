"""The least of our own server that accepts a task: beside it one sees what all else costs.

It is made of our own parts, so it is no bound of what could be written anew. It reads the call as ours must (see
`transport.messages`), looks its token up in a dict, checks the request as ours does, makes the task, writes all that
wait in durable batches, and answers. There are no tokens to verify, no plans, no workers to offer it to, nobody who
follows it, no logs, no traces and no other processes; or, where it is one of two, each tells the other of its tasks by
our signals, and does nothing with what it is told.

`python -m bench.peers.least HOST:PORT MONGODB_URI [tells]`
"""

import asyncio
import secrets
import sys
from collections.abc import Sequence
from typing import Any

import grpc
import uvloop
from pymongo import WriteConcern

from bench.peers import bare
from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.domain import transitions
from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import Task
from openmcp_chain.engine import clock
from openmcp_chain.engine.groupcommit import GroupCommit
from openmcp_chain.engine.ledger import INSERTERS, INSERTS
from openmcp_chain.engine.signals import BUSY_SECONDS
from openmcp_chain.engine.submission import new_task_id
from openmcp_chain.store.base import Signal
from openmcp_chain.store.mongo import client, documents, indexes, processes, records
from openmcp_chain.transport import codec, messages, submits
from openmcp_chain.transport.messages import Context
from openmcp_chain.transport.rpc import Handler
from openmcp_chain.transport.server import OPTIONS


class Neighbour:
    """Tells another process of tasks that wait, and hears of its: by signals as ours, with which it does nothing."""

    def __init__(self, signals: Any) -> None:  # noqa: ANN401 - the driver's
        self._signals = signals.with_options(codec_options=processes.PLAIN, write_concern=WriteConcern(w=1))
        self._name = secrets.token_hex(8)
        self._untold: list[Task] = []
        self._more = asyncio.Event()

    def tell(self, tasks: Sequence[Task]) -> None:
        self._untold += tasks
        self._more.set()

    async def speak(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            told, self._untold = self._untold, []
            waiting = [Waiting(t.key, t.type, t.priority, t.submitted_at, t.due_at) for t in told]
            signal = Signal(self._name, [task.key for task in told], waiting)
            await self._signals.insert_one(records.from_signal(signal, clock.system()))
            await asyncio.sleep(BUSY_SECONDS)

    async def hear(self) -> None:
        async with await self._signals.watch(processes.INSERTS, max_await_time_ms=processes.AWAIT_MS) as stream:
            async for _ in stream:
                pass


class Least(grpc.GenericRpcHandler):
    """The one method."""

    def __init__(self, tasks: Any, neighbour: Neighbour | None) -> None:  # noqa: ANN401 - the driver's
        self._tasks = tasks
        self._neighbour = neighbour
        self._insert = GroupCommit[Task, Task](self._insert_all, most=INSERTS, writers=INSERTERS, pauses=True)
        self._known: dict[str, str] = {}
        self._method: Handler = grpc.stream_unary_rpc_method_handler(self._submit)

    def service(self, _: grpc.HandlerCallDetails) -> Handler:
        return self._method

    async def _submit(self, _: object, context: Context) -> bytes:
        metadata, _ = messages.metadata_of(context)
        workspace = self._known.setdefault(metadata["authorization"], "bench")
        request = tasks_pb2.SubmitTaskRequest.FromString(await messages.only_message(context))
        submit = submits.read(request, workspace, clock.system)
        task = transitions.submit(
            workspace=workspace,
            task_id=new_task_id(),
            task_type=submit.type,
            payload=submit.payload,
            metadata=submit.metadata,
            labels=submit.labels,
            priority=submit.priority,
            terms=submit.terms,
            dedupe_key="",
            fingerprint=b"",
            traceparent="",
            schedule_time=None,
            now=clock.system(),
        )
        return codec.summary(await self._insert(task)).SerializeToString()

    async def _insert_all(self, tasks: Sequence[Task]) -> Sequence[Task]:
        await self._tasks.insert_many([documents.from_task(task) for task in tasks], ordered=False)
        if self._neighbour:
            self._neighbour.tell(tasks)
        return tasks


async def main(address: str, uri: str, *tells: str) -> None:
    connection = await client.connect(uri, "bench", "pymongo")
    await connection.database.tasks.create_indexes(list(indexes.INDEXES["tasks"]))
    await connection.database.signals.create_indexes(list(indexes.INDEXES["signals"]))
    neighbour = Neighbour(connection.database.signals) if tells else None
    async with asyncio.TaskGroup() as group:
        if neighbour:
            group.create_task(neighbour.speak())
            group.create_task(neighbour.hear())
        await bare.serve(Least(connection.database.tasks, neighbour), address, OPTIONS)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
