"""The store itself: each promise of `store.base` as one read or one guarded write, and a read of what a write lost to.

A caller that is cancelled in the middle of an operation costs its connection (the driver closes it), and leaves open
whether a write happened; so a caller shields a write that others share.

Left out with reason, for what they cost on the embedded server and in contention on any: find-and-modify, sort with
limit over what is not bounded in time, `$or`, ranges on `_id`, transactions.
"""

from pymongo.errors import NotPrimaryError

from openmcp_chain.store.mongo import client, indexes
from openmcp_chain.store.mongo.deletions import Deletions
from openmcp_chain.store.mongo.errors import persist
from openmcp_chain.store.mongo.identities import Identities
from openmcp_chain.store.mongo.lists import Lists
from openmcp_chain.store.mongo.processes import Processes
from openmcp_chain.store.mongo.queues import Queues
from openmcp_chain.store.mongo.tasks import Tasks

PATIENCE = 5.0
"""Seconds in which a method begins a new try; it raises Unavailable after twice that at most."""

PING_PATIENCE = 1.0


async def connect(
    uri: str, database: str, driver: client.Driver = "pymongo", *, patience: float = PATIENCE
) -> "MongoStore":
    """The store in this database, its indexes made.

    Raises ValueError for a URI that is none, Unavailable if no primary answers in time (see PATIENCE).
    """
    connection = await persist(lambda: client.connect(uri, database, driver), patience)
    try:
        await persist(lambda: indexes.create(connection.database), patience)
    except BaseException:
        await connection.close()
        raise
    return MongoStore(connection, patience)


class MongoStore(Tasks, Deletions, Lists, Queues, Identities, Processes):
    """`store.base.Store` on MongoDB."""

    async def ping(self) -> None:
        """Asks the primary now: what the driver last heard of it may be seconds old."""

        async def hello() -> None:
            answer = await self._connection.client.admin.command("hello")
            if not answer.get("isWritablePrimary"):
                raise NotPrimaryError

        await persist(hello, PING_PATIENCE)

    async def close(self) -> None:
        await self._connection.close()
