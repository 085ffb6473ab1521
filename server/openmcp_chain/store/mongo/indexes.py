"""The indexes, by name. Made at the start of every process; one that is there already is left alone.

Each costs every write something: on the embedded server some 0.1 ms an insert and 0.4 ms an update of CPU time, of 0.6
and 3 ms with all of them. So there are no more than the queries need.
"""

from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.database import AsyncDatabase

TASKS = (
    # Tasks that wait for a worker: of one type, and of one type and workspace, since a workspace's own idle worker must
    # not make the database walk through what waits for others.
    IndexModel([("status", ASCENDING), ("type", ASCENDING), ("due_at", ASCENDING)], name="ready"),
    IndexModel(
        [("status", ASCENDING), ("type", ASCENDING), ("workspace", ASCENDING), ("due_at", ASCENDING)],
        name="ready_in_workspace",
    ),
    # Leases, by when they end.
    IndexModel([("status", ASCENDING), ("due_at", ASCENDING)], name="expired"),
    # Retention: the server deletes a task some time after its `expire_at`.
    IndexModel([("expire_at", ASCENDING)], name="retention", expireAfterSeconds=0),
)


async def create(database: AsyncDatabase[dict[str, Any]]) -> None:
    await database.tasks.create_indexes(list(TASKS))
