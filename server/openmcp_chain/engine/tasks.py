"""What a workspace does with the tasks that it has: read them, list them, end them, try them again."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from openmcp_chain.domain import errors, filters, ids, transitions
from openmcp_chain.domain.errors import Violation
from openmcp_chain.domain.filters import Filter
from openmcp_chain.domain.task import Key, Status, Task, View
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine import answers, pages
from openmcp_chain.engine.answers import Ask, free
from openmcp_chain.engine.counts import Counts
from openmcp_chain.engine.leases import Leases
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.engine.lists import Lists, Turn, behind
from openmcp_chain.engine.quotas import Pending
from openmcp_chain.store.base import Place, Store

PART = 200
"""How many listed tasks are read at once: each may have some 300 KB of metadata."""
RETRY_SECONDS = 15.0
"""A call that tries tasks again begins no other part after this: half of what it may take is left for a slow one, so
that all that was done is told, and where to go on."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of tasks, and the token of the next one; empty if this is the last."""

    tasks: Sequence[Task]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Retried:
    """What a call has tried again, and where the next one goes on."""

    task_ids: Sequence[str]
    more: bool
    """Whether there may be more."""
    next_page_token: str = ""
    """Behind what was seen to; empty: from the newest on."""


class Tasks:
    """A workspace's tasks. Another workspace's do not exist: TaskNotFound."""

    def __init__(self, store: Store, ledger: Ledger, leases: Leases, pending: Pending) -> None:
        self._ledger = ledger
        self._leases = leases
        self._pending = pending
        self._counts = Counts(store)
        self._lists = Lists(store)

    async def ask(self, principal: Principal, task_id: str, view: View, may_read: Ask) -> None:
        """Raises what `may_read` does for an answer with what is large of the task, which is not read; TaskNotFound.

        How large it is is looked up only where a large answer would be refused: most are not.
        """
        key = key_of(principal, task_id)
        try:
            may_read(answers.BYTES)
        except errors.Error:
            may_read(sum(await self._ledger.sizes([key], view)))

    async def get(self, principal: Principal, task_id: str, view: View, may_read: Ask = free) -> Task:
        """The task as it is now. Raises TaskNotFound; before it is read, if it is large, what `may_read` does."""
        await self.ask(principal, task_id, view, may_read)
        task = await self._ledger.get(key_of(principal, task_id), view, may_read)
        if task is None:
            raise errors.TaskNotFound(task_id)
        return task

    async def get_many(
        self, principal: Principal, task_ids: Sequence[str], view: View, may_read: Ask = free
    ) -> Sequence[Task | None]:
        """Each task, or None if it does not exist; of the first only, as many as fit into one answer.

        Raises what `may_read` does, before they are read, if they are large.
        """
        keys = [_key_if_any(principal, task_id) for task_id in task_ids]
        known = [key for key in keys if key]
        sizes = dict(zip(known, await self._ledger.sizes(known, view), strict=True))
        weights = [sizes[key] if key else 0 for key in keys]
        fit = answers.room(weights)
        may_read(sum(weights[:fit]))
        found = await asyncio.gather(*(self._find(key, view, may_read) for key in keys[:fit]))
        return found[: answers.room([answers.weight(task) if task else 0 for task in found])]

    async def list(
        self, principal: Principal, text: str, size: int, page_token: str, view: View, may_read: Ask = free
    ) -> Listed:
        """A page of the tasks that the filter selects, the newest first: `size` at most, and what fits into an answer.

        Raises InvalidArgument for a filter that can't be read, or a token that is not of this very list; what
        `may_read` does, before payloads or results are read that are large.
        """
        chosen = filters.parse(text)
        mark = pages.mark(principal.workspace, text, view.name)
        rest = _place(page_token, mark) if page_token else None
        async with self._lists.turn(principal.workspace) as turn:
            tasks, rest = await self._page(turn, chosen, rest, size, view, may_read)
            if view is not View.BASIC:
                filled, rest = await self._filled(tasks, rest, view, may_read)
                tasks = [task for task in filled if filters.matches(chosen, task)]
        if rest is None:
            return Listed(tasks, "")
        return Listed(tasks, _token(mark, rest))

    async def _page(
        self, turn: Turn, chosen: Filter, rest: Place | None, size: int, view: View, may_read: Ask
    ) -> tuple[Sequence[Task], Place | None]:
        """The tasks of a list from behind `rest` on, without payloads and results; and what is behind them."""
        tasks: list[Task] = []
        left, large = answers.BYTES, 0
        while True:
            asked = min(size - len(tasks), PART)
            page = await turn.page(chosen, rest, asked, left, first=not tasks)
            sizes = await self._ledger.sizes([task.key for task in page.tasks], view)
            weights = [answers.weight(task) + size for task, size in zip(page.tasks, sizes, strict=True)]
            fit = answers.room(weights, left, first=not tasks)
            tasks += page.tasks[:fit]
            large += sum(sizes[:fit])
            may_read(large)
            left -= sum(weights[:fit])
            rest = page.rest if fit == len(page.tasks) else behind(tasks[-1])
            if rest is None or fit < asked or len(tasks) == size:
                return tasks, rest

    async def count(self, principal: Principal, text: str) -> Mapping[Status, int]:
        """How many tasks the filter selects, by status: see `counts`."""
        return await self._counts(principal.workspace, text)

    async def cancel(self, principal: Principal, task_id: str, reason: str) -> Task:
        """Ends a waiting task, or asks a running one to stop; returns it without its payload.

        Raises TaskNotFound, TaskEnded.
        """
        key = key_of(principal, task_id)
        return await self._change(key, lambda task: transitions.cancel(task, reason, self._leases.moment()))

    async def retry(self, principal: Principal, task_id: str) -> Task:
        """Makes a task that failed or was cancelled wait again; returns it without its payload.

        Raises TaskNotFound, TaskNotRetryable, TooManyPending.
        """
        return await self._retry(key_of(principal, task_id), self._pending.limit(principal))

    async def retry_many(self, principal: Principal, text: str, limit: int, page_token: str = "") -> Retried:
        """Retries up to `limit` of the tasks that the filter selects, the newest first, from where `page_token` says.

        Fewer, or none, if it takes long; fewer if something fails: what was done is told in any case. One that can't be
        tried again is passed over. Raises InvalidArgument; TooManyPending, Unavailable or Aborted only if none was
        retried.
        """
        waiting = self._pending.limit(principal)
        chosen = _retryable(filters.parse(text))
        mark = pages.mark(principal.workspace, text, "retry")
        after = _place(page_token, mark) if page_token else None
        retried: list[str] = []
        loop = asyncio.get_running_loop()
        enough = loop.time() + RETRY_SECONDS

        def unfinished() -> Retried:
            """What is not seen to begins behind `after`."""
            return Retried(retried, more=True, next_page_token=_token(mark, after) if after else "")

        while True:
            wanted = min(PART, limit - len(retried))
            try:
                keys, rest = await self._keys(principal.workspace, chosen, after, max(wanted, 1))
            except errors.Error:
                if not retried:
                    raise
                return unfinished()
            if wanted == 0 and keys:
                return unfinished()
            results = await asyncio.gather(*(self._retry_listed(key, waiting) for key in keys))
            retried += [task_id for task_id in results if isinstance(task_id, str)]
            if failed := next((one for one in results if isinstance(one, errors.Error)), None):
                if not retried:
                    raise failed
                return unfinished()
            if rest is None:
                return Retried(retried, more=False)
            after = rest
            if loop.time() > enough:
                return unfinished()

    async def _keys(
        self, workspace: str, chosen: Filter, after: Place | None, size: int
    ) -> tuple[Sequence[Key], Place | None]:
        """The keys of the tasks of a page, and what is behind them."""
        async with self._lists.turn(workspace) as turn:
            page = await turn.page(chosen, after, size, answers.BYTES)
        return [task.key for task in page.tasks], page.rest

    async def _retry(self, key: Key, limit: int) -> Task:
        with self._pending.place(key, limit):
            return await self._change(key, lambda task: transitions.retry(task, self._leases.moment().now))

    async def _retry_listed(self, key: Key, limit: int) -> str | errors.Error | None:
        """The id of the task that is tried again, what failed, or None if it can't be."""
        try:
            return (await self._retry(key, limit)).id
        except (errors.TaskNotRetryable, errors.TaskNotFound):
            return None
        except errors.Error as error:
            return error

    async def _find(self, key: Key | None, view: View, may_read: Ask) -> Task | None:
        return await self._ledger.get(key, view, may_read) if key else None

    async def _filled(
        self, listed: Sequence[Task], rest: Place | None, view: View, may_read: Ask
    ) -> tuple[Sequence[Task], Place | None]:
        """The listed tasks as they are now, with payload and result, as many as fit; and what is behind them."""
        found = await asyncio.gather(*(self._ledger.get(task.key, view, may_read) for task in listed))
        fit = answers.room([answers.weight(task) if task else 0 for task in found])
        if fit < len(listed):
            rest = behind(listed[fit - 1])
        return [task for task in found[:fit] if task is not None], rest

    async def _change(self, key: Key, decide: transitions.Decision) -> Task:
        try:
            return await self._ledger.change(key, decide)
        except errors.LeaseLost:
            raise errors.TaskNotFound(key.id) from None


def key_of(principal: Principal, task_id: str) -> Key:
    """The key of the workspace's task. Raises TaskNotFound for what is no UUID: no task has such an id."""
    if not ids.is_uuid(task_id):
        raise errors.TaskNotFound(task_id)
    # UUIDs are the same in either case (RFC 9562, 4).
    return Key(principal.workspace, task_id.lower())


def _key_if_any(principal: Principal, task_id: str) -> Key | None:
    try:
        return key_of(principal, task_id)
    except errors.TaskNotFound:
        return None


def _retryable(chosen: Filter) -> Filter:
    """The same filter, of tasks only that can be tried again, as far as a store can tell.

    Those that no try would help may be many: where a failed task leaves its dedupe_key to the next, all but the last.
    """

    def has(field: str, value: Status | bool) -> Filter:
        return filters.Comparison(field, filters.Comparator.EQUAL, value)

    over = filters.Or(tuple(has("status", status) for status in (Status.FAILED, Status.CANCELLED)))
    return filters.And((chosen, over, filters.Not(has("superseded", True))))


def _token(mark: str, place: Place) -> str:
    return pages.encode(mark, round(place.submitted_at.timestamp() * 1000), place.task_id)


def _place(token: str, mark: str) -> Place:
    """The place that a token names. Raises InvalidArgument."""
    milliseconds, task_id = pages.decode(mark, token, 2)
    try:
        return Place(datetime.fromtimestamp(int(milliseconds) / 1000, UTC), str(task_id))
    except (ValueError, OverflowError, OSError):
        raise errors.InvalidArgument(Violation("page_token", "is not the next_page_token of any page")) from None
