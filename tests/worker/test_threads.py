"""Plain functions in threads."""

import asyncio
import contextvars
import threading

import pytest
from support.service import PATIENCE, until

from openmcp_chain.worker.threads import Threads

colour = contextvars.ContextVar("colour", default="none")


async def test_so_many_run_at_a_time() -> None:
    """No more than there is room for run at once; the others wait, and all are run."""
    threads, go = Threads(2), threading.Event()
    running, most, ran = 0, 0, 0
    lock = threading.Lock()

    def call() -> int:
        nonlocal running, most, ran
        with lock:
            running += 1
            most = max(most, running)
        go.wait(PATIENCE)
        with lock:
            running -= 1
            ran += 1
        return threading.get_ident()

    calls = [asyncio.create_task(threads.run(call)) for _ in range(5)]
    await until(lambda: running == 2)
    go.set()
    assert threading.get_ident() not in await asyncio.gather(*calls)
    assert (most, ran) == (2, 5)


async def test_a_function_keeps_its_room_until_it_ends() -> None:
    """If nobody waits for it any more, it goes on, and the next one still waits for its end."""
    threads, go, order = Threads(1), threading.Event(), list[str]()

    def first() -> None:
        order.append("first begins")
        go.wait(PATIENCE)
        order.append("first ends")

    abandoned = asyncio.create_task(threads.run(first))
    await until(lambda: bool(order))
    abandoned.cancel()
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    second = asyncio.create_task(threads.run(lambda: order.append("second")))
    waiting = asyncio.create_task(threads.run(lambda: order.append("never")))
    await asyncio.sleep(0)
    waiting.cancel()
    go.set()
    await second
    assert order == ["first begins", "first ends", "second"]


async def test_context_variables_go_along() -> None:
    """The function sees the context variables of the task that runs it, the current trace among them."""
    colour.set("blue")
    assert await Threads(1).run(colour.get) == "blue"


async def test_what_is_raised_is_raised_again() -> None:
    """An exception comes out as it is, a BaseException too; there is room again afterwards."""
    threads = Threads(1)

    def fail() -> None:
        raise KeyboardInterrupt("x")

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            await threads.run(fail)
