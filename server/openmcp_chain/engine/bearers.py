"""Those whose calls are under way: a call ends when its bearer's token does, or its time, whatever it waits for.

A token is checked when its call comes. How long the call goes on then is for its caller to say: by holding back its
message, by waiting for tasks, by following events. So a loop looks at all that is under way, every `LOOK_SECONDS`. No
way through the house needs a check of its own; a call that is soon over costs an entry in a dict, and no call a task or
a timer: one for each would be a tenth of what gRPC itself takes for a call.

What a process has read of a workspace is believed for `identity.RECALL_SECONDS`. To that come `YOUNG_SECONDS`, the time
between two looks, and that of a read: a call ends within five seconds of what ended its token. If the database does not
answer, what is under way goes on: nothing comes of it that was not known before.
"""

import asyncio
import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from openmcp_chain.domain import errors
from openmcp_chain.domain.workspace import Principal
from openmcp_chain.engine.identity import Identity

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
YOUNG_SECONDS = 0.5
"""A call that takes no longer is left alone: who hears that the token has ended makes the call again with another one,
and should seldom hear it of what was done."""


class Caller:
    """One who makes a call, for as long as it is under way; a context manager.

    The block is cancelled when the call is to end, and raises then why; as `asyncio.timeout` does it, so a call that
    its caller gives up in the same moment ends as cancelled.
    """

    __slots__ = ("_cancelling", "_fault", "_present", "_task", "seconds")

    def __init__(self, present: "dict[Caller, float]", seconds: float) -> None:
        self.seconds = seconds
        """How long the call may take."""
        self._present = present
        self._fault: errors.Error | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call has a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._present[self] = asyncio.get_running_loop().time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._present[self]
        if self._fault is None:
            return
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._fault from None

    def end(self, fault: errors.Error) -> None:
        """Ends the call, unless it has ended."""
        if self._fault is None and self in self._present:
            self._fault = fault
            self._task.cancel()


class Bearer(Caller):
    """One whose token was checked; the call ends with the token, by what `Identity.recheck` raises."""

    __slots__ = ("principal",)

    def __init__(self, present: "dict[Caller, float]", principal: Principal, seconds: float) -> None:
        super().__init__(present, seconds)
        self.principal = principal
        """Of the newest token: a call that takes another one on the way sets it."""


class Bearers:
    """All of them, in this process."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._present: dict[Caller, float] = {}
        """Since when each is there, by the loop's clock: the first to come first."""

    def present(self, principal: Principal, seconds: float = math.inf) -> Bearer:
        """For as long as the bearer of a token that was just checked makes a call.

        After so many seconds, and LOOK_SECONDS at most, the call ends by DeadlineExceeded.
        """
        return Bearer(self._present, principal, seconds)

    def stranger(self, seconds: float = math.inf) -> Caller:
        """The same of one who needs no token."""
        return Caller(self._present, seconds)

    async def run(self) -> None:
        """Goes on until cancelled. A call whose time is up waits for no read of others' tokens."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_times())
            group.create_task(self._run_tokens())

    async def _run_times(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = loop.time()
            for one, since in self._grown_up():
                if now - since >= one.seconds:
                    one.end(errors.DeadlineExceeded())

    async def _run_tokens(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.run_once()
            except Exception:
                log.exception("unforeseen")

    def _grown_up(self) -> Iterator[tuple[Caller, float]]:
        """Those that are not young any more, and since when they are there."""
        young = asyncio.get_running_loop().time() - YOUNG_SECONDS
        return itertools.takewhile(lambda entry: entry[1] <= young, self._present.items())

    async def run_once(self) -> None:
        """Looks at all tokens, and ends the calls of those whose token has ended."""
        present = defaultdict[Principal, list[Bearer]](list)
        for one, _ in self._grown_up():
            if isinstance(one, Bearer):
                present[one.principal].append(one)
        doubtful = [principal for principal in present if not self._identity.holds(principal)]
        await asyncio.gather(*(self._look(principal, present[principal]) for principal in doubtful))

    async def _look(self, principal: Principal, bearers: list[Bearer]) -> None:
        try:
            await self._identity.recheck(principal)
        except errors.Unavailable:
            return
        except errors.Error as fault:
            for bearer in bearers:
                if bearer.principal == principal:  # else it has got another token meanwhile
                    bearer.end(fault)
