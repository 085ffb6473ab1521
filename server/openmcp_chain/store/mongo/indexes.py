"""The indexes, by name. Made at the start of every process; one that is there already is left alone.

Those of tasks are two, and no more than the queries need: each costs every write something (on the embedded server some
0.7 ms an update and 0.2 ms an insert of CPU time). docs/decisions/0006-queues-and-indexes.md says what does without.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from pymongo import ASCENDING, DESCENDING, IndexModel

from openmcp_chain.store.mongo.client import Database

KEEP_SIGNALS = timedelta(minutes=1)
KEEP_PROCESSES = timedelta(days=1)


def _expiry(field: str, after: timedelta = timedelta()) -> IndexModel:
    """The server deletes a document some time (it looks once a minute) after this field's time and `after`."""
    return IndexModel([(field, ASCENDING)], name="expiry", expireAfterSeconds=int(after.total_seconds()))


INDEXES: Mapping[str, Sequence[IndexModel]] = {
    "tasks": (
        # What somebody must see to: of each queue, of what runs, of what has ended.
        IndexModel([("queue", ASCENDING), ("due_at", ASCENDING)], name="due"),
        IndexModel([("workspace", ASCENDING), ("submitted_at", DESCENDING)], name="listed"),
    ),
    "timers": (IndexModel([("at", ASCENDING)], name="due"),),
    "workspaces": (IndexModel([("state", ASCENDING)], name="state"),),
    "audit": (IndexModel([("workspace", ASCENDING), ("_id", DESCENDING)], name="listed"),),
    "queues": (IndexModel([("changed_at", ASCENDING)], name="changed"),),
    "calls": (_expiry("expire_at"),),
    "processes": (_expiry("seen_at", KEEP_PROCESSES),),
    "signals": (_expiry("at", KEEP_SIGNALS),),
}


async def create(database: Database) -> None:
    for collection, models in INDEXES.items():
        await database[collection].create_indexes(list(models))
