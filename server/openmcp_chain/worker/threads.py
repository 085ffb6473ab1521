"""Plain functions in threads, so many at a time.

No more are asked for than there is room for, unless some hang that were given up. So whoever waits for room waits for
one of those, and not for ever.

Each runs in a daemon thread of its own. `concurrent.futures` joins its threads when the process ends, so that one
function that hangs would keep a worker from ever stopping; and its future can't carry a StopIteration.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeAlias

ROOM_SECONDS = 5.0
"""How long is waited for room."""

_Outcome: TypeAlias = tuple[object, BaseException | None]


class NoRoom(Exception):
    """Every thread is taken by a function that does not end."""


class Threads:
    """Room for `size` threads."""

    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)

    async def run(self, call: Callable[[], object]) -> object:
        """Calls it in a thread, with this task's context variables; waits for room first.

        A thread can't be stopped: if the wait is cancelled, it goes on, and keeps its room until it ends. Raises NoRoom
        if there is none for ROOM_SECONDS.
        """
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise NoRoom from None
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[_Outcome] = loop.create_future()

        def settle(outcome: _Outcome) -> None:
            self._free.release()
            if not ended.done():
                ended.set_result(outcome)

        def body() -> None:
            outcome: _Outcome
            try:
                outcome = call(), None
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(settle, outcome)

        try:
            threading.Thread(target=contextvars.copy_context().run, args=(body,), daemon=True).start()
        except RuntimeError:  # the machine has no thread left
            self._free.release()
            raise
        result, error = await ended
        if error is not None:
            raise error
        return result
