"""Tasks to documents and back, in pairs; `records` has the rest.

A key of a document is always one of ours: what a client names (metadata, labels) is a value, so no name can be an
operator, a path, or anything else but text. Payload and result are bytes, and nothing looks inside.

What is empty, or as it is by default, is left out: most tasks have no labels, no terms, no deadlines.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from openmcp_chain.domain import retry, sizes
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Call, Event, Failure, Key, Lease, Progress, Queue, Status, Task, Terms, View
from openmcp_chain.store.base import LARGE_BYTES

Document = Mapping[str, Any]

RUNNING, ENDED = "running", "ended"
ENDED_WITH_KEY = "ended with a key"
"""They are deleted one by one, since their dedupe_keys are given away before."""

STATE = (
    *("version", "status", "queue", "attempt", "tried_before", "due_at", "scheduled_for", "start_by"),
    *("close_by", "lease", "cancel", "progress", "notes", "updated_at", "result", "result_bytes", "failure"),
    *("superseded", "events_bytes"),
)
"""The fields of a task that change in its life, but for its events."""

HIDDEN: Mapping[View, Document] = {
    View.OUTLINE: {"payload": 0, "result": 0, "metadata": 0, "labels": 0, "events": 0},
    View.BASIC: {"payload": 0, "result": 0, "events": 0},
    View.RESULT: {"payload": 0, "events": 0},
    View.FULL: {"events": 0},
    View.HISTORY: {"payload": 0},
    View.WHOLE: {},
}
"""Projections that leave out what a view leaves out."""
CONTENT_BYTES: Mapping[str, str] = {"payload": "payload_bytes", "result": "result_bytes"}
"""The fields that tell how large payload and result are, where they are large."""
REST_BYTES: Mapping[str, str] = {"metadata": "entries_bytes", "events": "events_bytes"}
"""The same of metadata with labels, and of events."""

_SPANS = ("schedule_to_start", "start_to_close", "schedule_to_close", "heartbeat", "retention")
_MICROSECOND = timedelta(microseconds=1)


def primary_key(key: Key) -> str:
    """The `_id` of a task: workspace and id in one text.

    So two workspaces cannot meet in one document, whatever their ids: to name another's, one would have to name its
    workspace. And a cluster is sharded by workspace by `_id` alone, which stays unique across shards and makes every
    filter on it a targeted one. No workspace id has a slash (`ids.is_workspace_id`), so the text splits in one way
    only.
    """
    return f"{key.workspace}/{key.id}"


def to_key(document: Document) -> Key:
    """The key of a task, of whose document no more is needed than `_id`."""
    return Key(*document["_id"].split("/", 1))


def waiting(queue: Queue, priority: int) -> str:
    """What PENDING tasks of a queue and a priority have as their `queue`.

    In one text, since the embedded server finds by an index only what each field of the query is a part of. It has two
    slashes that are not the type's, so it is neither RUNNING nor one of those that have ended, nor another's.
    """
    return f"{queue.type}/{queue.workspace}/{priority}"


def from_task(task: Task) -> dict[str, Any]:
    static = {
        "_id": primary_key(task.key),
        "workspace": task.workspace,
        "type": task.type,
        "payload": task.payload or None,
        "payload_bytes": _large(len(task.payload)),
        "entries_bytes": _large(sizes.of_entries(task)),
        "metadata": _entries(task.metadata) or None,
        "labels": _entries(task.labels) or None,
        "priority": task.priority,
        "terms": _from_terms(task.terms) or None,
        "dedupe_key": task.dedupe_key or None,
        "fingerprint": task.fingerprint or None,
        "traceparent": task.traceparent or None,
        "submitted_at": task.submitted_at,
        "events": events(task.events),
    }
    return {**_present(static), **state(task)}


def to_task(document: Document) -> Task:
    """The task, without what the document was read without."""
    get = document.get
    lease, progress, failure = get("lease"), get("progress"), get("failure")
    return Task(
        workspace=document["workspace"],
        id=to_key(document).id,
        type=document["type"],
        payload=get("payload", b""),
        metadata=_mapping(get("metadata", ())),
        labels=_mapping(get("labels", ())),
        priority=document["priority"],
        terms=_to_terms(get("terms", {})),
        dedupe_key=get("dedupe_key", ""),
        fingerprint=get("fingerprint", b""),
        traceparent=get("traceparent", ""),
        submitted_at=document["submitted_at"],
        version=document["version"],
        status=Status(document["status"]),
        attempt=get("attempt", 0),
        tried_before=get("tried_before", 0),
        due_at=document["due_at"],
        scheduled_for=get("scheduled_for"),
        start_by=get("start_by"),
        close_by=get("close_by"),
        lease=_to_lease(lease) if lease else None,
        cancel=get("cancel"),
        progress=Progress(**progress) if progress else None,
        notes=get("notes", 0),
        updated_at=document["updated_at"],
        events=to_events(document),
        result=get("result"),
        failure=Failure(**failure) if failure else None,
        superseded=get("superseded", False),
    )


def to_events(document: Document) -> tuple[Event, ...]:
    """What was read of a task's events."""
    return tuple(
        Event(e["seq"], Status(e["status"]), e["at"], e.get("context", {})) for e in document.get("events", ())
    )


def state(task: Task) -> dict[str, Any]:
    """The part of a task's document that changes in its life, but for its events."""
    lease, progress, failure = task.lease, task.progress, task.failure
    return _present(
        {
            "version": task.version,
            "status": task.status.value,
            "queue": _queue(task),
            "attempt": task.attempt or None,
            "tried_before": task.tried_before or None,
            "due_at": task.due_at,
            "scheduled_for": task.scheduled_for,
            "start_by": task.start_by,
            "close_by": task.close_by,
            "lease": lease
            and _present(
                {
                    "token": lease.token,
                    "worker": lease.worker,
                    "expires_at": lease.expires_at,
                    "deadline": lease.deadline,
                    "heard": lease.heard or None,
                    "call": list(lease.call) if lease.call else None,
                }
            ),
            "cancel": task.cancel,
            "progress": progress and {"fraction": progress.fraction, "message": progress.message},
            "notes": task.notes or None,
            "updated_at": task.updated_at,
            "result": task.result,
            "result_bytes": _large(len(task.result or b"")),
            "failure": failure and {"code": failure.code, "message": failure.message},
            "superseded": task.superseded or None,
            "events_bytes": _large(sizes.of_events(task.events)),
        }
    )


def events(happened: Iterable[Event]) -> list[dict[str, Any]]:
    return [
        _present({"seq": e.seq, "status": e.status.value, "at": e.at, "context": dict(e.context) or None})
        for e in happened
    ]


def update(before: Task, after: Task) -> dict[str, Any]:
    """The update that makes `before` into `after`: what differs, and only the events that are new."""
    old, new = state(before), state(after)
    changed = {name: value for name, value in new.items() if old.get(name) != value}
    gone = dict.fromkeys(old.keys() - new.keys(), "")
    added = events(after.events[len(before.events) :])
    parts: dict[str, Any] = {"$set": changed, "$unset": gone, "$push": {"events": {"$each": added}} if added else {}}
    return {operator: part for operator, part in parts.items() if part}


def _to_lease(document: Document) -> Lease:
    call = document.get("call")
    return Lease(**{**document, "call": Call(*call)}) if call else Lease(**document)


def _queue(task: Task) -> str:
    if task.status is Status.PENDING:
        return waiting(task.queue, task.priority)
    if task.status is Status.RUNNING:
        return RUNNING
    return ENDED_WITH_KEY if task.dedupe_key else ENDED


def _from_terms(terms: Terms) -> dict[str, Any]:
    spans = {name: _microseconds(getattr(terms, name)) for name in _SPANS}
    return _present({"retry": None if terms.retry == retry.DEFAULT else _from_policy(terms.retry), **spans})


def _to_terms(document: Document) -> Terms:
    policy = document.get("retry")
    spans = {name: document[name] * _MICROSECOND for name in _SPANS if name in document}
    return Terms(retry=_to_policy(policy) if policy else retry.DEFAULT, **spans)


def _from_policy(policy: RetryPolicy) -> dict[str, Any]:
    return {
        "initial_interval": _microseconds(policy.initial_interval),
        "backoff_coefficient": policy.backoff_coefficient,
        "maximum_interval": _microseconds(policy.maximum_interval),
        "maximum_attempts": policy.maximum_attempts,
        "non_retryable_error_codes": sorted(policy.non_retryable_error_codes),
    }


def _to_policy(document: Document) -> RetryPolicy:
    return RetryPolicy(
        initial_interval=document["initial_interval"] * _MICROSECOND,
        backoff_coefficient=document["backoff_coefficient"],
        maximum_interval=document["maximum_interval"] * _MICROSECOND,
        maximum_attempts=document["maximum_attempts"],
        non_retryable_error_codes=frozenset(document["non_retryable_error_codes"]),
    )


def _microseconds(span: timedelta | None) -> int | None:
    return None if span is None else span // _MICROSECOND


def _large(size: int) -> int | None:
    """The size of what is large: kept beside it, to be known before that is read."""
    return size if size > LARGE_BYTES else None


def _entries(mapping: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"k": name, "v": value} for name, value in mapping.items()]


def _mapping(entries: Iterable[Document]) -> dict[str, str]:
    return {entry["k"]: entry["v"] for entry in entries}


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
