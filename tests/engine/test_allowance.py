"""Bytes that may be in use together."""

import asyncio

import pytest
from support.service import PATIENCE

from openmcp_chain.engine.allowance import Allowance


async def test_who_finds_no_room_waits() -> None:
    """What is larger than all there is goes alone."""
    allowance = Allowance(10)
    await allowance.take(50)
    assert not allowance.has_room(1)
    waiting = asyncio.create_task(allowance.take(6))
    await asyncio.sleep(0)
    assert not waiting.done()
    allowance.give_back(50)
    await asyncio.wait_for(waiting, PATIENCE)
    assert allowance.has_room(4)
    assert not allowance.has_room(5)


async def test_who_wants_much_is_not_passed_by_others() -> None:
    """They wait behind, in their order; one that gives up keeps nobody waiting."""
    allowance, begun = Allowance(10), list[int]()

    async def use(size: int, until: asyncio.Event) -> None:
        async with allowance.use(size):
            begun.append(size)
            await until.wait()

    end = [asyncio.Event() for _ in range(4)]
    using = [asyncio.create_task(use(size, event)) for size, event in zip((6, 8, 3, 2), end, strict=True)]
    await asyncio.sleep(0)
    assert begun == [6]
    using[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await using[1]
    await asyncio.sleep(0)
    assert begun == [6, 3]
    using.append(asyncio.create_task(use(9, end[0])))
    end[2].set()
    await asyncio.sleep(0.01)
    assert begun == [6, 3, 2]
    end[0].set()
    end[3].set()
    await asyncio.gather(*using, return_exceptions=True)
    assert begun == [6, 3, 2, 9]
    assert allowance.has_room(10)
    assert not allowance._taken


@pytest.mark.parametrize("before", [True, False])
async def test_one_that_gives_up_just_as_there_is_room_leaves_it_to_the_next(*, before: bool) -> None:
    """A moment before, or after."""
    allowance = Allowance(10)
    await allowance.take(10)
    first, second = (asyncio.create_task(allowance.take(10)) for _ in range(2))
    await asyncio.sleep(0)
    if before:
        first.cancel()
        allowance.give_back(10)
    else:
        allowance.give_back(10)
        first.cancel()
    await asyncio.wait_for(second, PATIENCE)
    assert first.cancelled()
    allowance.give_back(10)
    assert not allowance._taken
    assert not allowance._waiting
