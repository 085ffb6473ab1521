"""Several server processes' engines on one store, which tell each other what they change."""

import asyncio
from collections.abc import Sequence

from support.engine import DistantStore, Engine

from openmcp_chain.domain.task import Change, Queue
from openmcp_chain.engine import signals
from openmcp_chain.store.base import Signal
from openmcp_chain.store.memory import MemoryStore

QUICKLY = 0.05
"""Virtual seconds: less than any poll, look or refresh takes."""


class Recorded(DistantStore):
    """Keeps the signals, and an account of the changes that came second."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Signal] = []
        self.lost_claims = 0

    @property
    def told(self) -> int:
        """How many of the signals tell of changes."""
        return sum(bool(signal.changed) for signal in self.published)

    async def publish(self, signal: Signal) -> None:
        self.published.append(signal)
        await super().publish(signal)

    async def update_tasks(self, changes: Sequence[Change]) -> Sequence[bool]:
        made = await super().update_tasks(changes)
        self.lost_claims += made.count(False)
        return made


async def several(store: MemoryStore, count: int) -> list[Engine]:
    """Processes that know of each other and of the queue; at each there is somebody who may want to hear something."""
    engines = [Engine(store).start() for _ in range(count)]
    for engine in engines:
        engine.worker("other")
    await engines[0].app.queues.ensure(Queue("ws-1", "echo"))
    await asyncio.sleep(2 * signals.BEAT_SECONDS)
    return engines


async def pair(store: MemoryStore) -> list[Engine]:
    """Two of them."""
    return await several(store, 2)
