"""What the parts of the store have in common."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from openmcp_chain.store.mongo.client import Connection
from openmcp_chain.store.mongo.errors import persist
from openmcp_chain.store.mongo.spans import Newest

Collection = AsyncCollection[dict[str, Any]]

_T = TypeVar("_T")


class Part:
    """A connection, and how long is tried on it."""

    def __init__(self, connection: Connection, patience: float) -> None:
        self._connection = connection
        self._database = connection.database
        # Made once: to name one costs the driver a tenth of a millisecond.
        self._tasks = self._database.tasks
        self._queues = self._database.queues
        self._dedupe_keys = self._database.dedupe_keys
        self._calls = self._database.calls
        self._workspaces = self._database.workspaces
        self._signing_keys = self._database.signing_keys
        self._audit = self._database.audit
        self._processes = self._database.processes
        self._signals = self._database.signals
        self._patience = patience
        self._newest = Newest()

    async def _persist(self, operation: Callable[[], Awaitable[_T]]) -> _T:
        return await persist(operation, self._patience)

    async def _put(self, collection: Collection, document: dict[str, Any]) -> bool:
        """Adds a document of version 1, or replaces the version before; returns whether it is now what is stored."""
        id_, version = document["_id"], document["version"]

        async def put() -> bool:
            if version == 1:
                if await added(collection, document):
                    return True
            elif (await collection.replace_one({"_id": id_, "version": version - 1}, document)).matched_count:
                return True
            return await collection.find_one({"_id": id_}) == document

        return await self._persist(put)


async def added(collection: Collection, document: dict[str, Any]) -> bool:
    """Adds the document, unless its key is taken."""
    try:
        await collection.insert_one(document)
    except DuplicateKeyError:
        return False
    return True
