"""Filters in MongoDB's words: what `domain.filters.matches` says of a task, `query` says of its document."""

from typing import Any

from openmcp_chain.domain.filters import And, Comparator, Comparison, Filter, Label, Not, Or
from openmcp_chain.domain.task import Status

_OPERATORS = {
    Comparator.EQUAL: "$eq",
    Comparator.LESS: "$lt",
    Comparator.AT_MOST: "$lte",
    Comparator.GREATER: "$gt",
    Comparator.AT_LEAST: "$gte",
}


def query(chosen: Filter) -> dict[str, Any]:
    """The query for the documents of the tasks that the filter selects; empty for all of them.

    It is about tasks of every workspace, and may be about `submitted_at`: give it a `$match` of its own, behind the one
    that finds by an index. (The embedded server uses an index only for a query on the index's fields and no others.)

    No condition needs to be turned around for a negation: `$nor` matches exactly the documents that its part does not,
    those that lack a field included.
    """
    match chosen:
        case Comparison("schedule_time", comparator, value):
            at = {_OPERATORS[comparator]: value}
            return {"$or": [{"scheduled_for": at}, {"scheduled_for": None, "due_at": at}]}
        case Comparison(field, comparator, value):
            return {field: {_OPERATORS[comparator]: value.value if isinstance(value, Status) else value}}
        case Label(key, None):
            return {"labels": {"$elemMatch": {"k": key}}}
        case Label(key, value):
            return {"labels": {"$elemMatch": {"k": key, "v": value}}}
        case Not(part):
            return {"$nor": [query(part)]}
        case And(()):
            return {}
        case And(parts):
            return {"$and": [query(part) for part in parts]}
        case Or(parts):
            return {"$or": [query(part) for part in parts]}
