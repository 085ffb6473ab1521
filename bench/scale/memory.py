"""What a server's memory grows by: bytes for each queue that it knows, and each waiting task of which it is told."""

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime

import uuid_utils

from bench import task
from openmcp_chain.domain import queue
from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import NORMAL, Key, Queue
from openmcp_chain.engine.backlog import Backlog
from openmcp_chain.engine.clock import system
from openmcp_chain.engine.looks import Looks
from openmcp_chain.engine.queues import Queues
from openmcp_chain.engine.room import Room
from openmcp_chain.store.memory import MemoryStore

COUNT = 5_000
WORKSPACES = 100
"""Of which the tasks are."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one server."""

    queue: float
    """A type of a workspace's, known: every server knows all."""
    looked_at: float
    """More, where a worker takes of it: when it is looked at, and how far its priorities were looked through."""
    hint: float
    """A waiting task of which another server told."""


def measure() -> Memory:
    return asyncio.run(_measure())


async def _measure() -> Memory:
    now = datetime.now(UTC)
    store, backlog, looks = MemoryStore(), Backlog(task.TYPE, Room()), Looks()
    names = [f"workspace-{number:05}" for number in range(COUNT)]
    # A store in memory has the very objects that the server then has: they are made by the refresh's time, and counted.
    known = Queues(store, system)

    async def know() -> None:
        for name in names:
            await store.put_queue(queue.new(Queue(name, task.TYPE), now))
        await known.refresh()

    async def look() -> None:
        for name in names:
            backlog.cursors(name)
            looks.want(Queue(name, task.TYPE), 0.0)

    async def hint() -> None:
        for number in range(COUNT):
            name = names[number % WORKSPACES]
            backlog.add(Waiting(Key(name, str(uuid_utils.uuid7())), task.TYPE, NORMAL, now, now))

    return Memory(await _grown(know), await _grown(look), await _grown(hint))


async def _grown(make: Callable[[], Coroutine[None, None, None]]) -> float:
    tracemalloc.start()
    try:
        await make()
        return tracemalloc.get_traced_memory()[0] / COUNT
    finally:
        tracemalloc.stop()
