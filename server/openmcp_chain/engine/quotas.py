"""What a workspace may have at a time: tasks that wait, and open streams. Past it, a submit or a stream is refused.

How many tasks wait is not asked of the database on the way of a submit: counting costs more than the submit itself. A
process keeps an estimate instead: what was counted, and all that it has itself written since, told by the ledger; the
submits that are under way have their places in it. So in one process it is exact, whatever comes at once.

What other processes write it hears of by counting again, in the background. The nearer a workspace is to its limit, the
more often: so seldom that nobody could fill it in between at `GROWTH` tasks a second, and at the limit each
`COUNT_SECONDS`. A count reads so many entries of an index as there are tasks, and no more than twice the limit; the
counts of a process take no more than a part in `SHARE` of its time, so that a large one is followed by a long pause.

What may be accepted beyond the limit is therefore what the other processes accept between two counts here: with `n` of
them at `r` submits a second, `(n - 1) * r` tasks, or where a count takes longer than `COUNT_SECONDS / SHARE`, that many
times more. What may be refused below the limit is what their workers take in that time. docs/decisions/0008 has the
numbers, and what was rejected.

Where counting is dear (on the embedded server) it is done only while there is little to count; beyond, the estimate
goes by what this process has written.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Key, Status, Task
from openmcp_chain.domain.workspace import Principal, Quotas
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.engine.queues import Queues
from openmcp_chain.store.base import Store, TooMuch

log = logging.getLogger(__name__)

COUNT_SECONDS = 1.0
"""How often a workspace at its limit is counted, at most."""
SHARE = 20
"""After a count, nothing is counted for so many times as long as it took."""
GROWTH = 20_000
"""Tasks a second that all processes together are thought to accept from one workspace, at most."""
WITHIN_SECONDS = 2.0
"""A count that takes longer is given up, and not tried again for `TOO_MUCH_SECONDS`."""
TOO_MUCH_SECONDS = 60.0
LOOK_SECONDS = 0.25
"""How often it is seen whose count is due."""
IDLE_SECONDS = 600.0
"""A workspace that has submitted nothing for so long is forgotten."""
WORKSPACES = 10_000
"""How many are remembered."""


class _Waiting:
    """A workspace's waiting tasks, as this process knows them."""

    def __init__(self, now: float) -> None:
        self.limit = 0
        self.counted = 0
        self.changed = 0
        """By how many there are more since, by what this process has written."""
        self.meanwhile = 0
        """By how many since the count that is under way began."""
        self.coming: set[Key] = set()
        """Those that are being written."""
        self.due = now
        """When to count again, by the loop's clock."""
        self.counted_at = float("-inf")
        self.used_at = now

    @property
    def full(self) -> bool:
        return self.estimate >= self.limit

    @property
    def estimate(self) -> int:
        """How many there are, as far as is known."""
        return max(0, self.counted + self.changed) + len(self.coming)


class Pending:
    """Keeps workspaces within their number of waiting tasks."""

    def __init__(self, store: Store, ledger: Ledger, queues: Queues, allowed: Callable[[Principal], Quotas]) -> None:
        """`allowed` says what a caller's workspace may use."""
        self._store = store
        self._queues = queues
        self._allowed = allowed
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._wanted = asyncio.Event()
        ledger.follow(self._announced)

    def limit(self, principal: Principal) -> int:
        """How many tasks of the caller's workspace may wait."""
        return self._allowed(principal).pending_tasks

    def place(self, key: Key, limit: int) -> "_Place":
        """For as long as a task is written that is to wait. Entering it raises TooManyPending, if so many wait."""
        return _Place(self, key, limit)

    def enter(self, key: Key, limit: int) -> _Waiting:
        """A task is being written; `_Waiting.coming` has it until it is."""
        waiting = self._of(key.workspace)
        waiting.limit = limit
        if waiting.full:
            self._count_soon(waiting)
            raise errors.TooManyPending(limit)
        waiting.coming.add(key)
        return waiting

    def estimate(self, workspace: str) -> int:
        """How many tasks of the workspace wait, as far as is known here."""
        waiting = self._waiting.get(workspace)
        return waiting.estimate if waiting is not None else 0

    def forget(self, workspace: str) -> None:
        """The workspace is no more; the next one of its name has none of its tasks."""
        self._waiting.pop(workspace, None)

    async def run_once(self) -> int:
        """Counts where it is due; returns how many were counted."""
        now = asyncio.get_running_loop().time()
        while self._waiting and now - next(iter(self._waiting.values())).used_at > IDLE_SECONDS:
            self._waiting.popitem(last=False)
        due = [(not one.full, one.due, workspace) for workspace, one in self._waiting.items() if one.due <= now]
        for _, _, workspace in sorted(due):
            took = await self._count(workspace)
            await asyncio.sleep(SHARE * took)
        return len(due)

    async def run(self) -> None:
        """Counts until cancelled."""
        while True:
            self._wanted.clear()
            try:
                await self.run_once()
            except errors.Error as error:
                log.warning("waiting tasks not counted", extra={"code": error.code})
            except Exception:
                log.exception("unforeseen")
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    def _of(self, workspace: str) -> _Waiting:
        now = asyncio.get_running_loop().time()
        waiting = self._waiting.get(workspace)
        if waiting is None:
            waiting = self._waiting[workspace] = _Waiting(now)
            if self._queues.of_workspace(workspace):
                self._wanted.set()
            else:  # it has no task yet
                waiting.counted_at, waiting.due = now, now + COUNT_SECONDS
            if len(self._waiting) > WORKSPACES:
                self._waiting.popitem(last=False)
        elif now > waiting.used_at:
            self._waiting.move_to_end(workspace)
        waiting.used_at = now
        return waiting

    def _count_soon(self, waiting: _Waiting) -> None:
        waiting.due = min(waiting.due, waiting.counted_at + COUNT_SECONDS)

    async def _count(self, workspace: str) -> float:
        """Counts the workspace's waiting tasks; returns how long it took."""
        waiting = self._waiting.get(workspace)
        if waiting is None:
            return 0.0
        loop = asyncio.get_running_loop()
        began = waiting.counted_at = loop.time()
        waiting.due, waiting.meanwhile = began + TOO_MUCH_SECONDS, 0
        queues = [state.queue for state in self._queues.of_workspace(workspace)]
        try:
            counted = await self._store.count_waiting(queues, 2 * waiting.limit, WITHIN_SECONDS)
        except TooMuch:
            return loop.time() - began
        # Of what was written meanwhile some was counted; to take it as if none was errs on the side of refusing.
        waiting.counted, waiting.changed = counted, waiting.meanwhile
        room = max(0, waiting.limit - waiting.estimate)
        waiting.due = loop.time() + max(COUNT_SECONDS, room / GROWTH)
        return loop.time() - began

    def _announced(self, before: Task | None, task: Task) -> None:
        waiting = self._waiting.get(task.workspace)
        if waiting is None:
            return
        change = (task.status is Status.PENDING) - (before is not None and before.status is Status.PENDING)
        waiting.changed += change
        waiting.meanwhile += change
        waiting.coming.discard(task.key)


class _Place:
    """A place among a workspace's waiting tasks."""

    __slots__ = ("_key", "_limit", "_pending", "_waiting")

    def __init__(self, pending: Pending, key: Key, limit: int) -> None:
        self._pending = pending
        self._key = key
        self._limit = limit

    def __enter__(self) -> None:
        self._waiting = self._pending.enter(self._key, self._limit)

    def __exit__(self, *_: object) -> None:
        self._waiting.coming.discard(self._key)


class Streams:
    """Counts what each workspace has open in this process: event streams, workers' streams, and calls for tasks."""

    def __init__(self) -> None:
        self._open = Counter[str]()

    @contextmanager
    def hold(self, workspace: str, limit: int) -> Iterator[None]:
        """For as long as one is open. Raises TooManyStreams if the workspace has so many."""
        self.enter(workspace, limit)
        try:
            yield
        finally:
            self.leave(workspace)

    def enter(self, workspace: str, limit: int) -> None:
        """Opens one; `leave` is to follow. Raises TooManyStreams."""
        if self._open[workspace] >= limit:
            raise errors.TooManyStreams(limit)
        self._open[workspace] += 1

    def linger(self, workspace: str) -> None:
        """One that was left has not ended: its caller does not read. It keeps its place until `leave`."""
        self._open[workspace] += 1

    def leave(self, workspace: str) -> None:
        """Closes one."""
        self._open[workspace] -= 1
        if not self._open[workspace]:
            del self._open[workspace]
