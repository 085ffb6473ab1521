"""Deletion in the background: whoever dies in the middle, all of a workspace goes, and no process keeps any of it."""

import asyncio
import gc
import random
from collections.abc import Sequence
from datetime import timedelta
from types import CoroutineType, FrameType, FunctionType, ModuleType

import pytest
from support.engine import DistantStore, Engine, tenant
from support.service import LOCAL

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Queue, Status, Task, Terms, View
from openmcp_chain.domain.workspace import State
from openmcp_chain.engine import eviction, queues
from openmcp_chain.engine.eviction import ALIGN_SECONDS, LINGER_SECONDS
from openmcp_chain.store.memory import MemoryStore

WS = "ws-to-be-deleted"
OTHER = "ws-that-stays"
GONE_SECONDS = 600.0
ELSEWHERE = (type, ModuleType, FrameType, CoroutineType, asyncio.AbstractEventLoop, MemoryStore)
"""What is not a process's memory, or is soon over."""


LATER = timedelta(minutes=2)


async def furnish(engine: Engine, workspace_id: str) -> list[Task]:
    """Makes a workspace with tasks of two types: some run, others wait, one for a key, one for a later time."""
    await engine.app.administration.workspaces.create(LOCAL, "unlimited", workspace_id)
    owner = tenant(workspace_id)
    tasks = [await engine.submit(owner, f"type-{number % 2}") for number in range(6)]
    tasks.append(await engine.submit(owner, "type-0", dedupe_key="key"))
    tasks.append(await engine.submit(owner, "type-1", terms=Terms(schedule_to_start=LATER)))
    tasks.append(await engine.submit(owner, "type-1", schedule_time=engine.app.submission._clock() + LATER))
    return tasks


async def delete(engine: Engine, workspace_id: str = WS) -> None:
    await engine.app.administration.workspaces.delete(LOCAL, workspace_id)


async def gone(store: MemoryStore, workspace_id: str = WS) -> None:
    """Returns when the workspace is no more."""
    async with asyncio.timeout(GONE_SECONDS):
        while workspace_id in store._workspaces:  # noqa: ASYNC110 - several engines' work
            await asyncio.sleep(0.5)


def remains(store: MemoryStore, workspace_id: str = WS) -> Sequence[object]:
    """What the store has of a workspace, but for the log of it."""
    return [
        *(key for key in store._tasks if key.workspace == workspace_id),
        *(queue for queue in store._queues if queue.workspace == workspace_id),
        *(key for records in (store._holders, store._calls) for key in records if key[0] == workspace_id),
        *(id_ for id_ in store._workspaces if id_ == workspace_id),
    ]


def remembered(engine: Engine, workspace_id: str = WS) -> Sequence[str]:
    """Where in a process's memory the workspace's name is still to be found, but for what a coroutine does just now."""
    found: list[str] = []
    seen: set[int] = set()
    below: list[tuple[object, str]] = [(engine.app, "app")]
    while below:
        at, path = below.pop()
        # Of a function, what it has closed over: its globals are everybody's.
        inside = [at.__closure__, at.__defaults__] if isinstance(at, FunctionType) else gc.get_referents(at)
        for inner in inside:
            if isinstance(inner, str) and inner == workspace_id:
                found.append(path)
            elsewhere = isinstance(inner, ELSEWHERE)
            if id(inner) not in seen and not elsewhere:
                seen.add(id(inner))
                below.append((inner, f"{path} > {type(inner).__name__}"))
    return found


async def test_all_of_a_workspace_goes_and_nothing_of_another() -> None:
    """Tasks in every state, queues, dedupe_keys; its name can be used again, and is a blank sheet then."""
    store = MemoryStore()
    engine = Engine(store).start()
    workers = [engine.worker("type-0", "type-1", room=2, workspace=name) for name in (WS, OTHER)]
    await furnish(engine, WS)
    kept = await furnish(engine, OTHER)
    held = [await worker.next() for worker in workers for _ in range(2)]
    assert engine.app.pending.estimate(WS) > 0
    await delete(engine)
    await workers[1].complete(held[-1])
    await gone(store)
    assert remains(store) == []
    assert len([key for key in store._tasks if key.workspace == OTHER]) == len(kept)
    with pytest.raises(errors.LeaseLost):
        await workers[0].complete(held[0])
    await engine.app.administration.workspaces.create(LOCAL, "free", WS)
    assert (await engine.app.tasks.list(tenant(WS), "", 10, "", View.BASIC)).tasks == []
    assert engine.app.queues.of_workspace(WS) == []
    assert engine.app.pending.estimate(WS) == 0, "what it may have waiting is all its own"
    again = await engine.submit(tenant(WS), "type-0", dedupe_key="key")
    assert (await workers[0].next()).key == again.key


async def test_no_process_remembers_a_deleted_workspace() -> None:
    """Neither the one that deleted it nor the others, with idle workers, held leases, backlogs, and tasks for later."""
    store = MemoryStore()
    engines = [Engine(DistantStore(data=store)).start() for _ in range(3)]
    workers = [engine.worker("type-0", "type-1", room=1) for engine in engines[:2]]
    await furnish(engines[0], WS)
    for worker in workers:
        await worker.next()
    for engine in engines:
        await engine.app.identity._look_up(WS)
    await asyncio.sleep(10)
    assert all(remembered(engine) for engine in engines), "else this test would find nothing ever"
    await delete(engines[0])
    await gone(store)
    await asyncio.sleep(LATER.total_seconds() + 60)
    for number, engine in enumerate(engines):
        assert remembered(engine) == [], number


async def test_a_deletion_survives_death_at_any_moment(seed: int) -> None:
    """The process that began it dies anywhere, and so do others that go on with it; the last one finishes it."""
    chance = random.Random(seed)  # noqa: S311 - interleavings, not secrets
    store = MemoryStore()

    def start() -> Engine:
        wire = DistantStore(chance, store)
        wire.delay, wire.lost = 0.2, 0.05
        return Engine(wire).start()

    await furnish(Engine(store), WS)
    await furnish(Engine(store), OTHER)
    for _ in range(8):
        dying = start()
        deed = asyncio.create_task(delete(dying))
        await asyncio.sleep(chance.random() * chance.choice((0.2, 2, 20)))
        assert isinstance(dying.store, DistantStore)
        dying.store.away = True
        await dying.die()
        deed.cancel()
        await asyncio.gather(deed, return_exceptions=True)
    last = start()
    if store._workspaces[WS].state is State.ACTIVE:  # nobody got that far
        await delete(Engine(store))
    worker = last.worker("type-0", "type-1", room=50, workspace=WS)
    await gone(store)
    assert remains(store) == []
    assert len(remains(store, OTHER)) > 9
    assert worker.inbox.empty()


async def test_a_late_write_is_found_before_the_name_is_free() -> None:
    """A submit that was let in before and is stored long after all was deleted is deleted too."""
    store = MemoryStore()
    wire = DistantStore(data=store)
    here, there = Engine(store).start(), Engine(wire).start()
    await furnish(here, WS)
    await there.submit(tenant(WS), "type-0")
    wire.gates["insert_tasks"] = asyncio.Event()
    late = asyncio.create_task(there.submit(tenant(WS), "type-0"))
    await delete(here)
    await asyncio.sleep(LINGER_SECONDS - 10)
    assert not [key for key in store._tasks if key.workspace == WS]
    assert WS in store._workspaces
    wire.gates["insert_tasks"].set()
    written = await late
    assert written.key in store._tasks
    await gone(store)
    assert remains(store) == []


async def test_a_new_type_of_one_who_was_shut_out_is_refused() -> None:
    """Its submit was let in before: the queue that it would add has no suspension yet, so it gets no task."""
    store = MemoryStore()
    wire = DistantStore(data=store)
    here, there = Engine(store).start(), Engine(wire).start("queues")
    worker = here.worker("new")
    await furnish(here, WS)
    wire.gates["put_queue"] = asyncio.Event()
    late = asyncio.create_task(there.submit(tenant(WS), "new"))
    await here.app.administration.workspaces.disable(LOCAL, WS)
    wire.gates["put_queue"].set()
    with pytest.raises(errors.TokenInvalid):
        await late
    await asyncio.sleep(2 * ALIGN_SECONDS)
    assert worker.inbox.empty()
    assert store._queues[Queue(WS, "new")].suspended


@pytest.mark.parametrize("state", [State.DISABLED, State.ACTIVE])
async def test_a_change_of_state_that_was_left_half_done_is_finished(state: State) -> None:
    """A process that dies between the workspace and its queues leaves them to the others."""
    store = MemoryStore()
    wire = DistantStore(data=store)
    dying, other = Engine(wire), Engine(store).start()
    await furnish(dying, WS)
    workspaces = dying.app.administration.workspaces
    if state is State.ACTIVE:
        await workspaces.disable(LOCAL, WS)
    wire.cut = "put_queue"
    with pytest.raises(errors.Unavailable):
        await (workspaces.enable(LOCAL, WS) if state is State.ACTIVE else workspaces.disable(LOCAL, WS))
    assert store._workspaces[WS].state is state
    await asyncio.sleep(2 * ALIGN_SECONDS)
    assert {known.suspended for known in store._queues.values()} == {state is State.DISABLED}
    worker = other.worker("type-0")
    await asyncio.sleep(30)
    assert worker.inbox.empty() == (state is State.DISABLED)


async def test_a_process_that_was_cut_off_forgets_what_was_deleted_meanwhile() -> None:
    """It has not seen the workspace go, nor one of the same name come: it reads all anew."""
    store = MemoryStore()
    wire = DistantStore(data=store)
    here, there = Engine(store).start(), Engine(wire).start()
    await furnish(here, WS)
    await furnish(here, OTHER)
    await asyncio.sleep(5)
    wire.away = True
    await delete(here)
    await gone(store)
    await here.app.administration.workspaces.create(LOCAL, "unlimited", WS)
    await here.submit(tenant(WS), "type-1")
    wire.away = False
    await asyncio.sleep(5)
    assert [known.queue.type for known in there.app.queues.of_workspace(WS)] == ["type-1"]
    assert not there.app.queues.halted(Queue(WS, "type-1"))
    assert len(there.app.queues.of_workspace(OTHER)) == 2
    worker = there.worker("type-1", workspace=WS)
    assert (await worker.next()).status is Status.RUNNING


async def test_a_large_workspace_goes_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round deletes more than its share of each, and no workspace waits for another to be gone."""
    monkeypatch.setattr(eviction, "ERASED", 3)
    store = MemoryStore()
    engine = Engine(store)
    await engine.app.queues.refresh()
    for name in (WS, OTHER):
        await furnish(engine, name)
        await delete(engine, name)
    assert [await engine.app.eviction.run_once() for _ in range(4)] == [6, 6, 6, 0]
    assert not store._tasks


async def test_a_read_of_queues_that_was_under_way_brings_nothing_back() -> None:
    """It has seen the queues before they were deleted, and ends after they were forgotten."""
    store = MemoryStore()
    wire = DistantStore(data=store)
    engine = Engine(wire)
    await furnish(engine, WS)
    wire.late["list_queues"] = asyncio.Event()
    reading = asyncio.create_task(engine.app.queues.refresh())
    await asyncio.sleep(0)
    store._queues.clear()
    forgetting = asyncio.create_task(engine.app.queues.forget(WS))
    await asyncio.sleep(1)
    wire.late["list_queues"].set()
    await asyncio.gather(reading, forgetting)
    assert engine.app.queues.of_workspace(WS) == []
    assert engine.app.queues._types == {}
    assert queues.LAPSE_SECONDS < LINGER_SECONDS
