"""The one way to tasks: every read and write of a task goes through here, batched, and every change is announced."""

from collections.abc import Callable, Sequence

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Change, Key, Task
from openmcp_chain.engine.groupcommit import GroupCommit
from openmcp_chain.store.base import Store

DECISIONS = 10
"""How often a change is decided anew when others keep changing the task first."""


UPDATES = 100
"""Changes in a batch. One costs the embedded database some 4 ms, and all of a batch wait for its last."""


class Ledger:
    """Reads and writes tasks by group commit; tells `announce` of each change once it is durable."""

    def __init__(self, store: Store, announce: Callable[[Task], None]) -> None:
        self._announce = announce
        self._store = store
        self._inserts = GroupCommit[Task, Task](store.insert_tasks, lambda task: len(task.payload))
        self._updates = GroupCommit[Change, bool](
            self._update_distinct, lambda change: len(change.after.result or b""), UPDATES
        )
        self._reads = GroupCommit[Key, Task | None](self._read)

    async def insert(self, task: Task) -> Task:
        """Adds the task; returns what is stored under its key: the task itself, or the one that was there."""
        stored = await self._inserts(task)
        if stored is task:
            self._announce(task)
        return stored

    async def get(self, key: Key) -> Task | None:
        """The task as it is now."""
        return await self._reads(key)

    async def try_change(self, before: Task, after: Task) -> bool:
        """Makes one decided change, if the task is still as it was decided on; returns whether it did."""
        made = await self._updates(Change(before, after))
        if made:
            self._announce(after)
        return made

    async def change(self, task: Task, decide: Callable[[Task], Task]) -> Task:
        """Changes the task as `decide` says; if another change came first, reads it again and decides again.

        `task` may be out of date. `decide` returns the task that follows (the same one: nothing to do), or raises,
        which ends it. Raises LeaseLost if the task is gone, Aborted if others keep coming first.
        """
        for _ in range(DECISIONS):
            after = decide(task)
            if after is task or await self.try_change(task, after):
                return after
            current = await self.get(task.key)
            if current is None:
                raise errors.LeaseLost
            task = current
        raise errors.Aborted

    async def settle(self) -> None:
        """Returns when no write waits any more."""
        await self._inserts.settle()
        await self._updates.settle()

    async def _read(self, keys: Sequence[Key]) -> Sequence[Task | None]:
        found = await self._store.get_tasks(set(keys))
        return [found.get(key) for key in keys]

    async def _update_distinct(self, changes: Sequence[Change]) -> Sequence[bool]:
        """Of two changes to one task in a batch, the first goes out; the second was decided on what is past by then."""
        first = {change.before.key: change for change in reversed(changes)}
        made = dict(zip(first, await self._store.update_tasks(list(first.values())), strict=True))
        return [first[change.before.key] is change and made[change.before.key] for change in changes]
