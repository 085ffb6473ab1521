"""What processes tell each other: that they live, and what they have changed."""

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias

import pymongo
from bson.codec_options import CodecOptions
from pymongo import WriteConcern
from pymongo.asynchronous.change_stream import AsyncCollectionChangeStream
from pymongo.errors import PyMongoError

from openmcp_chain.store.base import Signal
from openmcp_chain.store.mongo import records
from openmcp_chain.store.mongo.client import Connection, ready
from openmcp_chain.store.mongo.errors import heeding, persist
from openmcp_chain.store.mongo.part import Part, added

HINT_PATIENCE = 1.0
"""Seconds in which a signal is tried: it is worth little, and soon nothing."""

AWAIT_MS = 500
"""How long the database keeps a question for changes open that has no answer yet. With motor, which keeps one of its
threads busy with it, a watcher that is told to stop waits for it."""

SILENCE = 5.0
"""Seconds after which a question without any answer counts as lost."""

_Change: TypeAlias = Mapping[str, Any]
PLAIN = CodecOptions[_Change]()
"""Of times without a zone: every process decodes what all others tell, which took 10 µs for each task that waits, and
takes 1.4."""

INSERTS = [{"$match": {"operationType": "insert"}}]

Token: TypeAlias = Mapping[str, Any] | None
_Stream: TypeAlias = AsyncCollectionChangeStream[_Change]


class Processes(Part):
    """The part of `store.base.Store` under "between processes"."""

    def __init__(self, connection: Connection, patience: float) -> None:
        super().__init__(connection, patience)
        self._hints = self._signals.with_options(write_concern=WriteConcern(w=1))

    async def beat(self, process: str, now: datetime, *, listens: bool) -> None:
        update = {"$set": {"seen_at": now, "listens": listens}}
        await self._persist(lambda: self._processes.update_one({"_id": process}, update, upsert=True))

    async def processes(self, since: datetime) -> Mapping[str, bool]:
        found = await self._persist(lambda: self._processes.find({"seen_at": {"$gte": since}}).to_list(None))
        # One of a version before this was said is told everything, as it was.
        return {document["_id"]: document.get("listens", True) for document in found}

    async def publish(self, signal: Signal) -> None:
        document = records.from_signal(signal, datetime.now(UTC))
        await persist(lambda: added(self._hints, document), HINT_PATIENCE)

    async def watch(self) -> AsyncIterator[Signal]:
        token: Token = None
        while True:
            stream, change = await self._persist(partial(self._open, token))
            try:
                while True:
                    token = stream.resume_token
                    if change:
                        yield records.to_signal(change["fullDocument"])
                    with pymongo.timeout(SILENCE):
                        change = await heeding(stream.try_next())
            except PyMongoError:
                pass  # it goes on from the token, if the database comes back within the store's patience
            finally:
                await _close(stream)

    async def _open(self, token: Token) -> tuple[_Stream, _Change | None]:
        """A stream that has answered once, and its first change, if any."""
        signals = self._signals.with_options(codec_options=PLAIN)
        stream: _Stream = await ready(signals.watch(INSERTS, resume_after=token, max_await_time_ms=AWAIT_MS))
        try:
            return stream, await stream.try_next()
        except BaseException:
            await _close(stream)
            raise


async def _close(stream: _Stream) -> None:
    with suppress(PyMongoError), pymongo.timeout(HINT_PATIENCE):
        await stream.close()
