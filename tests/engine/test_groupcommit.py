"""Group commit: what goes together, who gets which answer, and what one bad item does to the others."""

import asyncio
import gc
import weakref
from collections.abc import Sequence

import pytest

from openmcp_chain import logs
from openmcp_chain.domain import errors
from openmcp_chain.engine import groupcommit
from openmcp_chain.engine.groupcommit import GroupCommit


class Disk:
    """Doubles numbers, a batch at a time, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.began = asyncio.Event()
        self.fault: Exception | None = None
        self.poison: Exception = ValueError("S3CRET")

    async def flush(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        self.began.set()
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        if 13 in items:
            raise self.poison
        return [2 * item for item in items]


class Slow:
    """Takes so long for a batch, and notes when each began."""

    def __init__(self, seconds: float = 1) -> None:
        self._clock = asyncio.get_running_loop().time
        self._made = self._clock()
        self._seconds = seconds
        self.batches: list[tuple[float, list[int]]] = []

    async def flush(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append((round(self._clock() - self._made, 3), list(items)))
        await asyncio.sleep(self._seconds)
        return items

    async def at(self, seconds: float) -> None:
        await asyncio.sleep(seconds - (self._clock() - self._made))

    @property
    def starts(self) -> list[float]:
        return [began for began, _ in self.batches]


async def test_nobody_waits_for_an_answer_that_is_not_there() -> None:
    """A fault of ours, such as a write that answers for fewer than it was given, reaches who waits for it."""

    async def flush(items: Sequence[int]) -> Sequence[int]:
        return [item for item in items if item != 13]

    commit = GroupCommit(flush)
    async with asyncio.timeout(1):
        ends = await asyncio.gather(*map(commit, (12, 13, 14)), return_exceptions=True)
    assert [ends[0], ends[2]] == [12, 14]
    assert isinstance(ends[1], ValueError)
    await commit.settle()


async def test_what_a_write_logs_names_none_of_its_callers() -> None:
    """Least of all the one who happened to begin it, for as long as others keep coming."""
    seen: list[tuple[int, str, str]] = []

    async def flush(items: Sequence[int]) -> Sequence[int]:
        seen.extend((item, logs.workspace.get(), logs.request_id.get()) for item in items)
        await asyncio.sleep(1)
        return items

    commit = GroupCommit(flush)

    async def call(item: int) -> None:
        await asyncio.sleep(item / 10)
        logs.workspace.set(f"ws-{item}")
        logs.request_id.set(f"r-{item}")
        await commit(item)
        assert logs.workspace.get() == f"ws-{item}"

    await asyncio.gather(*map(call, range(3)))
    assert seen == [(item, "", "") for item in range(3)]


async def test_what_arrives_during_a_write_goes_out_together_in_the_next() -> None:
    """One write at a time; each caller gets its own item's answer."""
    disk = Disk()
    commit = GroupCommit(disk.flush)
    first = asyncio.create_task(commit(0))
    await disk.began.wait()
    others = [asyncio.create_task(commit(item)) for item in range(1, 6)]
    disk.gate.set()
    assert await first == 0
    assert await asyncio.gather(*others) == [2, 4, 6, 8, 10]
    assert disk.batches == [[0], [1, 2, 3, 4, 5]]


async def test_idle_writes_at_once() -> None:
    """No timer: a single item is flushed by itself, and a later one again."""
    disk = Disk()
    disk.gate.set()
    commit = GroupCommit(disk.flush)
    assert [await commit(1), await commit(2)] == [2, 4]
    assert disk.batches == [[1], [2]]


async def test_those_who_have_their_answers_come_again_together() -> None:
    """Behind a batch of several there is a pause, in proportion to the write."""
    disk = Slow(0.005)
    commit = GroupCommit(disk.flush, pauses=True)

    async def call(item: int) -> None:
        await commit(item)
        await asyncio.sleep(0.0001 * item)  # its answer goes out, and the next request comes in
        await commit(10 + item)

    await asyncio.gather(*map(call, range(5)))
    assert [batch for _, batch in disk.batches] == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]


async def test_nobody_waits_for_those_who_may_come_where_few_do_or_enough_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of fewer than SIBLINGS none is waited for; nor if the next batch is full; nor for longer than PAUSE_SECONDS."""

    async def starts(count: int, most: int, *, pauses: bool = True) -> list[float]:
        disk = Slow()
        commit = GroupCommit(disk.flush, most=most, pauses=pauses)
        for _ in range(2):
            await asyncio.gather(*map(commit, range(count)))
        return disk.starts

    assert await starts(groupcommit.SIBLINGS - 1, most=10) == [0, 1]
    assert await starts(4, most=10) == [0, 1 + groupcommit.PAUSE_SECONDS]
    assert await starts(4, most=10, pauses=False) == [0, 1]
    monkeypatch.setattr(groupcommit, "PAUSE_SECONDS", 10)
    assert await starts(4, most=10) == [0, 1.5]
    assert await starts(8, most=4) == [0, 1, 2, 3]


async def test_a_second_writer_begins_when_a_full_batch_waits() -> None:
    """Two are under way for as long as full ones wait; what is less waits for the one that is left."""
    disk = Slow()
    commit = GroupCommit(disk.flush, most=3, writers=2)
    calls = [asyncio.create_task(commit(0))]
    await disk.at(0.1)
    calls += [asyncio.create_task(commit(item)) for item in (1, 2)]
    await disk.at(0.2)
    assert disk.batches == [(0, [0])]
    calls += [asyncio.create_task(commit(item)) for item in range(3, 12)]
    await disk.at(1.9)
    assert disk.batches == [(0, [0]), (0.2, [1, 2, 3]), (1, [4, 5, 6]), (1.2, [7, 8, 9])]
    await asyncio.gather(*calls)
    assert disk.batches[4:] == [(2.2, [10, 11])], "at 2 there was less than a batch, and another writer"
    await commit.settle()


async def test_one_writer_is_enough_for_what_is_less_than_a_batch() -> None:
    """Even if a second has begun: when its turn comes, the first may have taken most of what waited."""
    disk = Slow()
    commit = GroupCommit(disk.flush, most=3, writers=2)
    assert await asyncio.gather(*map(commit, range(4))) == [0, 1, 2, 3]
    assert disk.batches == [(0, [0, 1, 2]), (1, [3])]


async def test_the_writer_that_is_left_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after there were two, and whole batches."""
    monkeypatch.setattr(groupcommit, "PAUSE_SECONDS", 10)
    disk = Slow()
    commit = GroupCommit(disk.flush, most=4, writers=2, pauses=True)
    await asyncio.gather(*map(commit, range(16)))
    await commit(16)
    assert disk.starts == [0, 0, 1, 1, 2.5]


async def test_a_full_batch_ends_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while the only writer pauses goes out at once, if it is as much as one batch may have."""
    monkeypatch.setattr(groupcommit, "PAUSE_SECONDS", 10)
    disk = Slow(8)
    commit = GroupCommit(disk.flush, most=5, pauses=True)
    await asyncio.gather(*map(commit, range(4)))
    calls = [asyncio.create_task(commit(item)) for item in range(4)]
    await asyncio.sleep(1)
    assert disk.starts == [0]
    await asyncio.gather(commit(4), *calls)
    assert disk.starts == [0, 9]


async def test_batches_are_bounded_by_items_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch closes at `most`, or with the item that reaches BATCH_BYTES."""
    monkeypatch.setattr(groupcommit, "BATCH_BYTES", 100)
    disk = Disk()
    disk.gate.set()
    commit = GroupCommit(disk.flush, weigh=lambda item: item, most=3)
    await asyncio.gather(*map(commit, [1, 2, 3, 4, 99, 5, 100, 6]))
    assert disk.batches == [[1, 2, 3], [4, 99], [5, 100], [6]]


async def test_lanes_take_turns() -> None:
    """One item is in the next batch, however many of another lane came before it; within a lane the order stays."""
    disk = Disk()
    commit = GroupCommit(disk.flush, most=4, lane=lambda item: str(item // 100))
    calls = [asyncio.create_task(commit(item)) for item in (0, 1, 2, 3, 4, 5, 6, 100, 200, 201)]
    await disk.began.wait()
    disk.gate.set()
    await asyncio.gather(*calls)
    assert disk.batches == [[0, 100, 200, 1], [201, 2, 3, 4], [5, 6]]


async def test_a_lane_of_large_items_leaves_room_for_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills its share of a batch's bytes; the others, the rest of its items."""
    monkeypatch.setattr(groupcommit, "BATCH_BYTES", 100)
    disk = Disk()
    disk.gate.set()
    commit = GroupCommit(disk.flush, weigh=lambda item: item, lane=lambda item: "small" if item < 10 else "large")
    await asyncio.gather(*map(commit, [30, 31, 32, 33, 1, 2, 3, 4]))
    assert disk.batches == [[30, 1, 31, 2, 3, 4], [32, 33]]


@pytest.mark.parametrize("poison", [ValueError("S3CRET"), errors.Internal()])
async def test_poison_item_fails_alone(poison: Exception) -> None:
    """An item that can't be written, or not be encoded, gets its own exception; those in its batch are written."""
    disk = Disk()
    disk.poison = poison
    disk.gate.set()
    commit = GroupCommit(disk.flush)
    answers = await asyncio.gather(*map(commit, [1, 13, 2]), return_exceptions=True)
    assert answers[0] == 2
    assert answers[1] is poison
    assert answers[2] == 4
    assert await commit(3) == 6


async def test_unavailable_is_everybodys() -> None:
    """When the database is away, the whole batch is told so, once, without a try for each."""
    disk = Disk()
    disk.gate.set()
    disk.fault = errors.Unavailable()
    commit = GroupCommit(disk.flush)
    answers = await asyncio.gather(*map(commit, [1, 2, 3]), return_exceptions=True)
    assert all(isinstance(answer, errors.Unavailable) for answer in answers)
    assert disk.batches == [[1, 2, 3]]
    disk.fault = None
    assert await commit(4) == 8


@pytest.mark.parametrize("error", [errors.Unavailable, errors.Internal, ValueError])
async def test_failed_items_wait_for_no_garbage_collector(error: type[Exception]) -> None:
    """Once their callers have been told, items that could not be written are gone: they may be large."""

    class Item:
        pass

    async def fail(_: Sequence[Item]) -> Sequence[None]:
        raise error

    async def lose(commit: GroupCommit[Item, None]) -> weakref.ref[Item]:
        item = Item()
        with pytest.raises(error):
            await commit(item)
        return weakref.ref(item)

    commit = GroupCommit(fail)
    gc.disable()
    try:
        lost = await asyncio.gather(*(lose(commit) for _ in range(3)))
        await commit.settle()
        assert [item() for item in lost] == [None] * 3
    finally:
        gc.enable()


async def test_cancelled_caller_takes_nobody_with_it() -> None:
    """A caller that gives up stops waiting; its write and the others' go on."""
    disk = Disk()
    commit = GroupCommit(disk.flush)
    calls = [asyncio.create_task(commit(item)) for item in (1, 2)]
    await disk.began.wait()
    calls[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
    disk.gate.set()
    assert await calls[1] == 4
    assert disk.batches == [[1, 2]]


async def test_settle_waits_for_what_was_asked() -> None:
    """`settle` returns when nothing is queued or under way."""
    disk = Disk()
    commit = GroupCommit(disk.flush)
    call = asyncio.create_task(commit(1))
    await disk.began.wait()
    settling = asyncio.create_task(commit.settle())
    await asyncio.sleep(0)
    assert not settling.done()
    disk.gate.set()
    await settling
    assert await call == 2
