"""The one way to tasks: every read and write of a task goes through here, batched, and every change is announced."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from openmcp_chain.domain import errors, sizes
from openmcp_chain.domain.task import Change, Key, Position, Stretch, Task, View
from openmcp_chain.engine.answers import Ask, free
from openmcp_chain.engine.groupcommit import GroupCommit
from openmcp_chain.engine.reads import SIZES, Reads, is_much
from openmcp_chain.store.base import Store

log = logging.getLogger(__name__)

DECISIONS = 10
"""How often a change is decided anew when others, such as other processes, keep changing the task first."""

INSERTS, INSERTERS = 100, 2
"""New tasks in a batch, and full batches at the database: one is inserted while the next is sent. Whoever comes beside
a crowd waits for those two, and his own (docs/decisions/0011-group-commit.md)."""
TOLD = 10_000
"""New tasks that are remembered as told of: what is written again is so within moments."""
STRETCH = 100
"""Events of a history that are read at a time; of long lines, some 400 KiB."""
STRETCHES = 10
"""So many histories are read together."""
WAITING = 256
"""Changes of one task that wait for their turn; more are refused with ABORTED, as where too many come first."""
UPDATES = 100
"""Changes in a batch. One costs the embedded database some 3 ms, and all of a batch wait for its last."""

Follower: TypeAlias = Callable[[Task | None, Task], None]
"""Is told what a task was (None: it is new) and what it is now; without its payload, unless it is new."""


@dataclass(slots=True)
class _Turns:
    """Whose turn it is to change one task, while somebody wants to."""

    lock: asyncio.Lock
    wanted: int = 0
    latest: Task | None = None
    """What the last of them made of it, unless there is much to it."""


class Ledger:
    """Reads and writes tasks by group commit; tells its followers of each change once it is durable.

    They are told by the writer, not by the caller: one who gives up waiting does not part a write from what follows.
    """

    def __init__(self, store: Store) -> None:
        self._followers: list[Follower] = []
        self._store = store
        self._inserts = GroupCommit[Task, Task](
            self._insert,
            sizes.of_submit,
            INSERTS,
            lambda task: task.workspace,
            writers=INSERTERS,
            pauses=True,
        )
        self._updates = GroupCommit[Change, Task | None](
            self._update, _weight, UPDATES, lambda change: change.after.workspace, pauses=True
        )
        self._told: OrderedDict[int, None] = OrderedDict()
        """The new tasks that followers were told of last: hashes of their keys and versions, since workspaces that are
        deleted are not to be remembered."""
        self._turns: dict[Key, _Turns] = {}
        self._reads = {view: Reads(store, view) for view in View}
        self._histories = GroupCommit[Position, Stretch | None](
            self._read_histories, most=STRETCHES, lane=lambda position: position.key.workspace
        )
        self._versions = GroupCommit[Key, int | None](self._read_versions, most=SIZES, lane=lambda key: key.workspace)

    def follow(self, follower: Follower) -> None:
        """Tells `follower` of every change from now on. It must return soon, and not raise."""
        self._followers.append(follower)

    async def insert(self, task: Task) -> Task:
        """Adds the task; returns what is stored under its key: the task itself, or the outline of what was there."""
        return await self._inserts(task)

    async def get(self, key: Key, view: View, may_read: Ask = free) -> Task | None:
        """The task as it is now. See `Reads`."""
        return await self._reads[view](key, may_read)

    async def version(self, key: Key) -> int | None:
        """The task's version as it is now; None if it is gone."""
        return await self._versions(key)

    async def history(self, key: Key, after: int) -> Stretch | None:
        """What follows the event `after` of the task's history, up to STRETCH events; None if the task is gone."""
        return await self._histories(Position(key, after))

    async def sizes(self, keys: Iterable[Key], view: View) -> Sequence[int]:
        """Of each: the bytes of payload and result as far as the view has them; 0 if they are not large."""
        return await asyncio.gather(*map(self._reads[view].size, keys))

    async def try_change(self, before: Task, after: Task) -> bool:
        """Makes one decided change, if the task is still as it was decided on; returns whether it did."""
        return await self._updates(Change(before, after)) is after

    async def change(self, task: Task | Key, decide: Callable[[Task], Task], view: View = View.HISTORY) -> Task:
        """Changes the task as `decide` says; if another change came first, decides again on the task as it is then.

        `task` may be out of date, and may lack its payload: what is read again lacks what `view` (HISTORY or WHOLE)
        does, and what is stored stays. Without its events, or by its key alone, it is read first: nothing is decided on
        a part of a history. Nobody else should read a history for a change: here only a few are in hand at a time, see
        `reads`. `decide` returns the task that follows (the same one: nothing to do), or raises, which ends it, once it
        has been asked of the task as it is now. Raises LeaseLost if the task is gone, Aborted if others keep coming
        first.

        Changes of one task take turns, in the order in which they are asked for: each is decided on what the one before
        it has made, so of up to `WAITING` at once none is refused for the others.
        """
        key, known = (task.key, task if task.events else None) if isinstance(task, Task) else (task, None)
        turns = self._turns.setdefault(key, _Turns(asyncio.Lock()))
        if turns.wanted >= WAITING:
            raise errors.Aborted
        turns.wanted += 1
        try:
            async with turns.lock:
                latest = turns.latest if view is not View.WHOLE else None
                if latest is not None and (known is None or latest.version > known.version):
                    known = latest
                changed = await self._change(key, known, decide, view)
                # However many changes wait, not with one history each.
                turns.latest = None if is_much(changed) else changed
                return changed
        finally:
            turns.wanted -= 1
            if not turns.wanted:
                del self._turns[key]

    async def _change(self, key: Key, known: Task | None, decide: Callable[[Task], Task], view: View) -> Task:
        for _ in range(DECISIONS):
            if known is None:
                async with self._reads[view].hold(key) as task:
                    if task is None:
                        raise errors.LeaseLost
                    made, stored = await self._make(task, decide(task))
                del task  # while the next one is waited for
            else:
                try:
                    after = decide(known)
                except errors.Error:
                    if await self._versions(key) == known.version:
                        raise
                    made, stored = None, None
                else:
                    made, stored = await self._make(known, after)
                    del after
            if made is not None:
                return made
            known = stored if view is not View.WHOLE else None
        raise errors.Aborted

    async def _make(self, before: Task, after: Task) -> tuple[Task | None, Task | None]:
        """Makes the change if nothing came first; returns `after` if so, and what is stored then if that is known."""
        stored = after if after is before else await self._updates(Change(before, after))
        return (after if stored is after else None), stored

    async def settle(self) -> None:
        """Returns when no write waits any more."""
        await self._inserts.settle()
        await self._updates.settle()

    async def _read_histories(self, positions: Sequence[Position]) -> Sequence[Stretch | None]:
        found = await self._store.histories(set(positions), STRETCH)
        return [found.get(position) for position in positions]

    async def _read_versions(self, keys: Sequence[Key]) -> Sequence[int | None]:
        found = await self._store.task_versions(set(keys))
        return [found.get(key) for key in keys]

    async def _insert(self, tasks: Sequence[Task]) -> Sequence[Task]:
        all_stored = await self._store.insert_tasks(tasks)
        for task, stored in zip(tasks, all_stored, strict=True):
            # Of two that are equal, as of a request that is sent twice, the store takes one for the other, tried again.
            if stored is task and (told := hash((task.key, task.version))) not in self._told:
                self._told[told] = None
                if len(self._told) > TOLD:
                    self._told.popitem(last=False)
                self._announce(None, task)
        return all_stored

    async def _update(self, changes: Sequence[Change]) -> Sequence[Task | None]:
        """For each what is stored of its task, as far as that is known then: its own `after`, if it was made.

        Of two changes to one task in a batch, the first goes out; the second was decided on what is past by then.
        """
        first = {change.before.key: change for change in reversed(changes)}
        made = dict(zip(first, await self._store.update_tasks(list(first.values())), strict=True))
        for key, change in first.items():
            if made[key]:
                # Followers keep what they are told of: no payload, which is as it was.
                after = replace(change.after, payload=b"") if change.after.payload else change.after
                self._announce(change.before, after)
        return [first[change.before.key].after if made[change.before.key] else None for change in changes]

    def _announce(self, before: Task | None, after: Task) -> None:
        for follower in self._followers:
            try:
                follower(before, after)
            except Exception:
                # What was written is written; the others are told all the same.
                log.exception("unforeseen", extra={"task_id": after.id})


def _weight(change: Change) -> int:
    """What a change takes of its batch: to write one event, a database may write all of the task anew."""
    return len(change.after.result or b"") + sizes.of_entries(change.after) + sizes.of_events(change.after.events)
