"""Domain values to documents and back, in pairs.

A key of a document is always one of ours: what a client names (metadata) is a value, so no name can be an operator, a
path, or anything else but text. Payload and result are bytes, and nothing looks inside.

A field that is None is left out, so that an index on it holds only the documents that have it.
"""

from collections.abc import Mapping
from typing import Any

from openmcp_chain.domain.task import Event, Failure, Key, Lease, Priority, Status, Task
from openmcp_chain.domain.workspace import Secret, SigningKey, Workspace

Document = Mapping[str, Any]

STATE = ("version", "status", "attempt", "due_at", "lease", "updated_at", "events", "result", "failure", "expire_at")
"""The fields of a task that change in its life."""


def primary_key(key: Key) -> str:
    """The `_id` of a task: workspace and id in one text.

    So two workspaces cannot meet in one document, whatever their ids: to name another's, one would have to name its
    workspace. And a cluster is sharded by workspace by `_id` alone, which stays unique across shards and makes every
    filter on it a targeted one. No workspace id has a slash (`ids.is_workspace_id`), so the text splits in one way
    only.
    """
    return f"{key.workspace}/{key.id}"


def from_task(task: Task) -> dict[str, Any]:
    return {
        "_id": primary_key(task.key),
        "workspace": task.workspace,
        "type": task.type,
        "payload": task.payload,
        "metadata": [{"k": name, "v": value} for name, value in task.metadata.items()],
        "priority": int(task.priority),
        "fingerprint": task.fingerprint,
        "traceparent": task.traceparent,
        "max_attempts": task.max_attempts,
        "submitted_at": task.submitted_at,
        **state(task),
    }


def to_task(document: Document) -> Task:
    workspace = document["workspace"]
    lease, failure = document.get("lease"), document.get("failure")
    return Task(
        workspace=workspace,
        id=document["_id"].removeprefix(f"{workspace}/"),
        type=document["type"],
        payload=document["payload"],
        metadata={entry["k"]: entry["v"] for entry in document["metadata"]},
        priority=Priority(document["priority"]),
        fingerprint=document["fingerprint"],
        traceparent=document["traceparent"],
        max_attempts=document["max_attempts"],
        submitted_at=document["submitted_at"],
        version=document["version"],
        status=Status(document["status"]),
        attempt=document["attempt"],
        due_at=document.get("due_at"),
        lease=Lease(**lease) if lease else None,
        updated_at=document["updated_at"],
        events=tuple(Event(e["seq"], Status(e["status"]), e["at"], e["context"]) for e in document["events"]),
        result=document.get("result"),
        failure=Failure(**failure) if failure else None,
        expire_at=document.get("expire_at"),
    )


def state(task: Task) -> dict[str, Any]:
    """The part of a task's document that changes in its life."""
    lease, failure = task.lease, task.failure
    fields = {
        "version": task.version,
        "status": task.status.value,
        "attempt": task.attempt,
        "due_at": task.due_at,
        "lease": lease and {"token": lease.token, "worker": lease.worker, "expires_at": lease.expires_at},
        "updated_at": task.updated_at,
        "events": [
            {"seq": e.seq, "status": e.status.value, "at": e.at, "context": dict(e.context)} for e in task.events
        ],
        "result": task.result,
        "failure": failure and {"code": failure.code, "message": failure.message},
        "expire_at": task.expire_at,
    }
    return {name: value for name, value in fields.items() if value is not None}


def update(before: Task, after: Task) -> dict[str, Any]:
    """The update that makes `before` into `after`: what differs, and only the events that are new."""
    old, new = state(before), state(after)
    changed = {name: value for name, value in new.items() if name != "events" and old.get(name) != value}
    gone = dict.fromkeys(old.keys() - new.keys(), "")
    events = new["events"][len(old["events"]) :]
    parts: dict[str, Any] = {"$set": changed, "$unset": gone, "$push": {"events": {"$each": events}} if events else {}}
    return {operator: part for operator, part in parts.items() if part}


def from_workspace(workspace: Workspace) -> dict[str, Any]:
    return {
        "_id": workspace.id,
        "plan": workspace.plan,
        "worker_types": sorted(workspace.worker_types),
        "disabled": workspace.disabled,
        "secrets": [
            {"id": s.id, "salt": s.salt, "digest": s.digest, "created_at": s.created_at} for s in workspace.secrets
        ],
        "created_at": workspace.created_at,
        "version": workspace.version,
    }


def to_workspace(document: Document) -> Workspace:
    return Workspace(
        id=document["_id"],
        plan=document["plan"],
        worker_types=frozenset(document["worker_types"]),
        disabled=document["disabled"],
        secrets=tuple(Secret(**secret) for secret in document["secrets"]),
        created_at=document["created_at"],
        version=document["version"],
    )


def from_key(key: SigningKey) -> dict[str, Any]:
    return {
        "_id": key.kid,
        "private_pem": key.private_pem,
        "public_jwk": key.public_jwk,
        "signs_from": key.signs_from,
    }


def to_key(document: Document) -> SigningKey:
    return SigningKey(
        kid=document["_id"],
        private_pem=document["private_pem"],
        public_jwk=document["public_jwk"],
        signs_from=document["signs_from"],
    )
