"""Between processes, in every store: who lives, and what they tell each other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import bson
import pytest
from support.database import Database
from support.samples import NOW, RETENTION, SECOND, make_task

from openmcp_chain.domain import errors
from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import HIGH, Event, Key, Status, Stretch
from openmcp_chain.store.base import Signal, Store
from openmcp_chain.store.mongo import records
from openmcp_chain.store.mongo.client import Driver
from openmcp_chain.store.mongo.store import connect

Connect = Callable[[], Awaitable[Store]]

LATER = NOW + RETENTION
SIGNAL = Signal(
    "one",
    (Key("ws-1", "$a.b/c\0é"), Key("ws-2", "")),
    (Waiting(Key("ws-1", "$a.b/c\0é"), "data_pipeline", HIGH, NOW, NOW + SECOND),),
    {
        Key("ws-1", "$a.b/c\0é"): Stretch(
            7,
            Status.PENDING,
            (
                Event(3, Status.RUNNING, NOW, {"line": "$é", "fraction": 0.5, "last": True}),
                Event(4, Status.PENDING, NOW, {}),
            ),
            4,
        ),
        Key("ws-2", ""): Stretch(8, Status.CANCELLED, (), 2),
    },
)


class Listener:
    """Keeps what one watcher hears."""

    def __init__(self) -> None:
        self.heard: list[Signal] = []
        self._more = asyncio.Event()

    async def listen(self, store: Store) -> None:
        async for signal in store.watch():
            self.heard.append(signal)
            self._more.set()

    async def until(self, signal: Signal) -> None:
        while signal not in self.heard:
            self._more.clear()
            await self._more.wait()


@asynccontextmanager
async def listening(stores: Sequence[Store]) -> AsyncIterator[list[Listener]]:
    """A listener on each store, all of which hear already."""
    listeners = [Listener() for _ in stores]
    calls = [asyncio.create_task(one.listen(store)) for one, store in zip(listeners, stores, strict=True)]
    # When it hears is not said; so it is called until it does.
    for number in range(1000):
        if all(listener.heard for listener in listeners):
            break
        await stores[0].publish(Signal("caller", [Key("ws", str(number))], []))
        await asyncio.sleep(0.01)
    try:
        yield listeners
    finally:
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def test_a_process_lives_from_its_last_sign_on(store: Store) -> None:
    """That moment included; one that gives another sign lives on."""
    await store.beat("one", LATER, listens=True)
    await store.beat("two", LATER, listens=True)
    await store.beat("one", LATER + SECOND, listens=False)
    assert await store.processes(LATER) == {"one": False, "two": True}
    assert await store.processes(LATER + SECOND) == {"one": False}
    assert await store.processes(LATER + 2 * SECOND) == {}


async def test_all_who_watch_hear_a_signal(connected: Connect) -> None:
    """In the order in which one process has sent them, as they were sent, the sender too."""
    stores = [await connected(), await connected()]
    signals = [SIGNAL, Signal("one", (), ()), *(Signal("two", (Key("ws", str(n)),), ()) for n in range(20))]
    async with listening(stores) as listeners:
        for signal in signals:
            await stores[1].publish(signal)
        for listener in listeners:
            await listener.until(signals[-1])
            assert [signal for signal in listener.heard if signal.process != "caller"] == signals


async def test_a_watcher_hears_signals_and_nothing_else(store: Store) -> None:
    """Tasks come and go without a word."""
    async with listening([store]) as (listener,):
        await store.insert_tasks([make_task()])
        await store.beat("one", LATER, listens=True)
        await store.publish(SIGNAL)
        await listener.until(SIGNAL)
        assert {signal.process for signal in listener.heard} == {"caller", "one"}


def test_a_signal_without_news_is_understood() -> None:
    """A process of a version that had none tells of changes as it did: they are read."""
    document = bson.encode(records.from_signal(SIGNAL, NOW))
    former = bson.decode(document)
    del former["news"]
    assert records.to_signal(bson.decode(document)) == SIGNAL
    assert records.to_signal(former) == replace(SIGNAL, news={})


async def test_a_watcher_that_stops_stops(store: Store) -> None:
    """At once or soon; others hear on."""
    async with listening([store]) as (listener,):
        async with listening([store]):
            pass
        await store.publish(SIGNAL)
        await listener.until(SIGNAL)


async def test_a_watcher_outlives_a_restart_of_the_database(fresh_database: Database, driver: Driver) -> None:
    """It goes on where it was: nothing that was sent before or after is left out."""
    store = await connect(fresh_database.uri, "test", driver, patience=20.0)
    async with listening([store]) as (listener,):
        fresh_database.kill()
        await asyncio.to_thread(fresh_database.start)
        await store.beat("one", LATER, listens=True)
        await store.publish(SIGNAL)
        await listener.until(SIGNAL)
    await store.close()


async def test_a_watcher_says_unavailable_when_the_database_stays_away(
    fresh_database: Database, driver: Driver
) -> None:
    """Or answers no more, with its connections open."""
    store = await connect(fresh_database.uri, "test", driver, patience=1.0)
    watchers = [asyncio.create_task(Listener().listen(store)) for _ in range(2)]
    async with listening([store]):
        pass
    with fresh_database.frozen():
        done, _ = await asyncio.wait(watchers, timeout=60)
    assert len(done) == 2
    for watcher in watchers:
        with pytest.raises(errors.Unavailable) as raised:
            await watcher
        assert raised.value.__cause__ is None
        assert raised.value.__context__ is None
    await store.close()
