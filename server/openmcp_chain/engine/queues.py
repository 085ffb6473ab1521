"""Which queues there are, and which are halted: known to every process, and never for longer than it is true.

A process may give out a task only while what it knows of the queue is fresh: read no more than `VALID_SECONDS` ago. A
pause is answered when that time has passed since it was written. So after the answer no process can still believe
that the queue goes on, and no task slips through, with no process having to ask another.

What is given out was claimed before, and may wait to be sent; and a process may be stopped anywhere (by a signal, with
its machine) and go on with what it believed. So it is asked when the task has been claimed, and again as the last thing
before it is sent, by a clock that runs on meanwhile. What remains is a process that is stopped for longer than
`VALID_SECONDS` between that and its own write to the connection: it sends that task when it goes on.

The queues of a workspace that is shut out are suspended, in the same way. A submit that was let in just before may
still add a queue afterwards. So whoever adds one looks, once it is stored, whether the workspace is shut out by now:
either it sees that, or the one that shuts out sees the queue.
"""

import asyncio
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta

from openmcp_chain.domain import errors, queue
from openmcp_chain.domain.queue import QueueState
from openmcp_chain.domain.task import Queue
from openmcp_chain.engine import shared
from openmcp_chain.engine.clock import Clock
from openmcp_chain.store.base import Store

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5
VALID_SECONDS = 2.0
SKEW = timedelta(seconds=30)
"""How far clocks of servers may differ, with the time that a write may take: each read goes so far back."""
ASKED = 6
"""How often it is asked in a row what is not known, before a claimed task is given back."""
AGAIN = 10
"""How often a change is tried when others come first."""
PART = 100
"""How many queues are changed at once."""
LAPSE_SECONDS = 20.0
"""Who has not read for so long reads all anew: a workspace may have been deleted meanwhile, which nothing tells of."""


class Queues:
    """The queues, as this process knows them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._states: dict[Queue, QueueState] = {}
        self._by_type: defaultdict[str, dict[Queue, None]] = defaultdict(dict)
        self._by_workspace: defaultdict[str, dict[Queue, None]] = defaultdict(dict)
        self._types = Counter[str]()
        self._adding: dict[Queue, asyncio.Task[None]] = {}
        self._since: datetime | None = None
        self._read_at = float("-inf")
        self._fresh_until = 0.0
        self._refreshing: asyncio.Task[None] | None = None
        self.changed: Callable[[QueueState], None] = lambda _: None
        """Called with each queue that is new here, or was halted or let go on."""
        self.forgotten: Callable[[Queue], None] = lambda _: None
        """Called with each queue that is no more."""

    async def ensure(self, wanted: Queue) -> None:
        """Makes the queue durable, if it is not known yet. Raises TooManyTypes; TokenInvalid if it is shut out."""
        if wanted in self._states:
            return
        adding = self._adding.get(wanted)
        if adding is None:
            if self._types[wanted.workspace] >= queue.TYPES:
                raise errors.TooManyTypes(queue.TYPES)
            self._types[wanted.workspace] += 1  # for as long as it is not known whether it is new
            adding = self._adding[wanted] = shared.begin(self._add(wanted))
        await asyncio.shield(adding)

    def of_type(self, task_type: str) -> Sequence[Queue]:
        """The queues of a type, over all workspaces."""
        return list(self._by_type.get(task_type, ()))

    def of_workspace(self, workspace: str) -> Sequence[QueueState]:
        """A workspace's queues, by type."""
        mine = map(self._states.__getitem__, self._by_workspace.get(workspace, ()))
        return sorted(mine, key=lambda state: state.queue.type)

    def halted(self, wanted: Queue) -> bool:
        """Whether nothing of it may be given out, as far as is known."""
        state = self._states.get(wanted)
        return state is not None and state.halted

    def knows(self, wanted: Queue) -> bool:
        """Whether it is known to exist."""
        return wanted in self._states

    def beginning(self, wanted: Queue) -> datetime:
        """Nothing of it is due before. Of one that is no more, nothing is."""
        state = self._states.get(wanted)
        return self._clock() if state is None else state.created_at - SKEW

    def suspended(self) -> AbstractSet[str]:
        """The workspaces of which a queue is suspended, as far as is known."""
        return {state.queue.workspace for state in self._states.values() if state.suspended}

    def unsuspended(self) -> AbstractSet[str]:
        """The workspaces of which a queue is not suspended, as far as is known."""
        return {state.queue.workspace for state in self._states.values() if not state.suspended}

    @property
    def fresh(self) -> bool:
        """Whether what is known is new enough to act on."""
        return asyncio.get_running_loop().time() < self._fresh_until

    async def certain(self) -> bool:
        """Whether what is known is new enough to act on. If it is not, asks, for some seconds."""
        for _ in range(ASKED):
            if self.fresh:
                return True
            try:
                await self.refresh()
            except errors.Error:
                await asyncio.sleep(REFRESH_SECONDS)
        return self.fresh

    async def pause(self, wanted: Queue, reason: str) -> QueueState:
        """Pauses the queue; returns when no process gives out its tasks any more."""
        state = await self._change(wanted, lambda state: state.paused(reason, self._clock()))
        await asyncio.sleep(VALID_SECONDS)
        return state

    async def resume(self, wanted: Queue) -> QueueState:
        """Ends the pause."""
        return await self._change(wanted, lambda state: state.resumed(self._clock()))

    async def align(self, workspace_id: str) -> None:
        """Suspends a workspace's queues if it is shut out, else lets them go on.

        By its state as it is at each try: whoever else does the same wants the same. Those that are added meanwhile are
        not waited for. VALID_SECONDS later every process knows. Raises Aborted if others keep changing them.
        """
        await self.refresh()
        mine = [state.queue for state in self.of_workspace(workspace_id)]
        for _ in range(AGAIN):
            workspace = await self._store.get_workspace(workspace_id)
            shut_out = workspace is not None and not workspace.active
            states = [self._states[queue] for queue in mine if queue in self._states]
            changes = [state.with_suspended(shut_out, self._clock()) for state in states if state.suspended != shut_out]
            if not changes:
                return
            for start in range(0, len(changes), PART):
                part = changes[start : start + PART]
                put = await asyncio.gather(*map(self._store.put_queue, part))
                for after in itertools.compress(part, put):
                    self._learn(after)
            await self.refresh()
        raise errors.Aborted

    async def forget(self, workspace: str) -> None:
        """The workspace is no more, nor are its queues in the database."""
        while self._refreshing is not None:  # it may have read them before
            await asyncio.wait([self._refreshing])
        for state in self.of_workspace(workspace):
            self._forget(state)

    async def refresh(self) -> None:
        """Reads what has changed until now. Raises Unavailable."""
        if self._refreshing is not None:  # it may have begun before what the caller is to know of
            await asyncio.wait([self._refreshing])
        if self._refreshing is None:
            self._refreshing = shared.begin(self._refresh(), everybodys=True)
        await asyncio.shield(self._refreshing)

    async def run(self) -> None:
        """Refreshes until cancelled."""
        while True:
            try:
                await self.refresh()
            except errors.Error as error:
                log.warning("queues not read", extra={"code": error.code})
            except Exception:
                log.exception("unforeseen")
            await asyncio.sleep(REFRESH_SECONDS)

    async def _add(self, wanted: Queue) -> None:
        try:
            state = queue.new(wanted, self._clock())
            added = await self._store.put_queue(state)
            workspace = await self._store.get_workspace(wanted.workspace)
            if workspace is not None and not workspace.active:
                raise errors.TokenInvalid  # `eviction` suspends the queue
            if added:
                self._learn(state)
            else:
                await self.refresh()
        finally:
            self._uncount(wanted.workspace)
            del self._adding[wanted]

    async def _refresh(self) -> None:
        try:
            began, now = asyncio.get_running_loop().time(), self._clock()
            anew, before = began - self._read_at > LAPSE_SECONDS, list(self._states.values())
            found = await self._store.list_queues(None if anew else self._since)
            if anew:
                versions = {state.queue: state.version for state in found}
                for known in before:
                    # One that has gone back has been deleted, and is another.
                    if self._states.get(known.queue) is known and versions.get(known.queue, 0) < known.version:
                        self._forget(known)
            for state in found:
                self._learn(state)
            self._since, self._read_at = now - SKEW, began
            self._fresh_until = began + VALID_SECONDS
        finally:
            self._refreshing = None

    async def _change(self, wanted: Queue, decide: Callable[[QueueState], QueueState]) -> QueueState:
        await self.ensure(wanted)
        for _ in range(AGAIN):
            # Decided on what was known, a pause would do nothing where another process has just resumed.
            await self.refresh()
            state = self._states[wanted]
            after = decide(state)
            if after is state or await self._store.put_queue(after):
                self._learn(after)
                return after
        raise errors.Aborted

    def _learn(self, state: QueueState) -> None:
        known = self._states.get(state.queue)
        if known is not None and known.version >= state.version:
            return
        if known is None:
            self._types[state.queue.workspace] += 1
            self._by_type[state.queue.type][state.queue] = None
            self._by_workspace[state.queue.workspace][state.queue] = None
        self._states[state.queue] = state
        self.changed(state)

    def _forget(self, state: QueueState) -> None:
        gone = state.queue
        del self._states[gone]
        for index, name in ((self._by_type, gone.type), (self._by_workspace, gone.workspace)):
            del index[name][gone]
            if not index[name]:
                del index[name]
        self._uncount(gone.workspace)
        self.forgotten(gone)

    def _uncount(self, workspace: str) -> None:
        self._types[workspace] -= 1
        if not self._types[workspace]:
            del self._types[workspace]
