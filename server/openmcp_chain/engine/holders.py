"""Who has which dedupe_key, and what submits were answered: batched, since a call may submit a thousand tasks.

By themselves, these would take every connection that the process has, and all else would wait behind them.
"""

from collections.abc import Sequence
from datetime import datetime

from openmcp_chain.domain import sizes
from openmcp_chain.domain.task import Call, DedupeKey, Task
from openmcp_chain.engine.few import Few
from openmcp_chain.engine.groupcommit import GroupCommit
from openmcp_chain.engine.reads import SIZES
from openmcp_chain.store.base import Answer, Store, Taking

AT_ONCE = 2
"""Of what has no batches, since it comes rarely, each workspace has so many under way."""


class Holders:
    """Reads and writes them; the workspaces take turns."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._found = GroupCommit[DedupeKey, str](self._find, most=SIZES, lane=lambda key: key.workspace)
        self._taken = GroupCommit[Taking, bool](
            self._take, lambda taking: sizes.of_submit(taking.task), SIZES, lambda taking: taking.task.workspace
        )
        self._answers = GroupCommit[Call, Answer | None](
            self._read_answers, most=SIZES, lane=lambda call: call.workspace
        )
        self._few = Few(AT_ONCE)

    async def find(self, key: DedupeKey) -> str:
        """The id of the task that has it, whether that is stored already or not; empty if none has."""
        return await self._found(key)

    async def take(self, task: Task, instead_of: str) -> bool:
        """Gives the task its key, if the task with the id `instead_of` (empty: none) has it; returns whether it has."""
        return await self._taken(Taking(task, instead_of))

    async def submit(self, key: DedupeKey) -> Task | None:
        """The task that has the key, as it was submitted."""
        async with self._few.turn(key.workspace):
            return await self._store.held_submit(key)

    async def free(self, task: Task) -> None:
        """Takes the key from the task, if it has it."""
        async with self._few.turn(task.workspace):
            await self._store.free_key(task.held_key, task.id)

    async def answer(self, call: Call) -> Answer | None:
        """What the call was answered; None if nothing is kept of it."""
        return await self._answers(call)

    async def record(self, call: Call, answer: Answer, expire_at: datetime) -> Answer:
        """Keeps the answer until about `expire_at`, unless there is one; returns what is kept."""
        async with self._few.turn(call.workspace):
            return await self._store.record_call(*call, answer, expire_at)

    async def _find(self, keys: Sequence[DedupeKey]) -> Sequence[str]:
        found = await self._store.key_holders(set(keys))
        return [found.get(key, "") for key in keys]

    async def _take(self, takings: Sequence[Taking]) -> Sequence[bool]:
        """Of two for one key in a batch, the first goes out; the other comes after it, and finds the key taken."""
        first = {taking.task.held_key: taking for taking in reversed(takings)}
        made = dict(zip(first, await self._store.put_holders(list(first.values())), strict=True))
        return [first[key := taking.task.held_key] is taking and made[key] for taking in takings]

    async def _read_answers(self, calls: Sequence[Call]) -> Sequence[Answer | None]:
        found = await self._store.recorded_calls(set(calls))
        return [found.get(call) for call in calls]
