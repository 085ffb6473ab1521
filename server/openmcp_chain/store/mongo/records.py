"""All but tasks to documents and back, in pairs. What a client names is a value here too, never a field's name."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from openmcp_chain.domain import audit
from openmcp_chain.domain.queue import QueueState, Waiting
from openmcp_chain.domain.task import Key, Queue, Status, Stretch
from openmcp_chain.domain.workspace import Kind, Quotas, Secret, SigningKey, State, Workspace
from openmcp_chain.store.base import Answer, Granted, Signal
from openmcp_chain.store.mongo import documents
from openmcp_chain.store.mongo.documents import Document

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
"""When a queue was made that was stored without saying."""
_EPOCH = _EARLIEST.replace(tzinfo=None)


def within(workspace: str, name: str) -> str:
    """The `_id` of what has this name in a workspace. No workspace id has a slash, so no two of these are one."""
    return f"{workspace}/{name}"


def from_queue(state: QueueState) -> dict[str, Any]:
    return {
        "_id": within(*state.queue),
        "workspace": state.queue.workspace,
        "type": state.queue.type,
        "paused_at": state.paused_at,
        "reason": state.reason,
        "suspended": state.suspended,
        "created_at": state.created_at,
        "changed_at": state.changed_at,
        "version": state.version,
    }


def to_queue(document: Document) -> QueueState:
    return QueueState(
        queue=Queue(document["workspace"], document["type"]),
        paused_at=document["paused_at"],
        reason=document["reason"],
        created_at=document.get("created_at", _EARLIEST),
        changed_at=document["changed_at"],
        version=document["version"],
        suspended=document["suspended"],
    )


def from_answer(id_: str, answer: Answer, expire_at: datetime) -> dict[str, Any]:
    return {
        "_id": id_,
        "fingerprint": answer.fingerprint,
        "tasks": [{**_from_key(one.key), "token": one.token} for one in answer.granted],
        "expire_at": expire_at,
    }


def to_answer(document: Document) -> Answer:
    granted = tuple(Granted(_to_key(one), one["token"]) for one in document["tasks"])
    return Answer(document["fingerprint"], granted)


def from_signal(signal: Signal, now: datetime) -> dict[str, Any]:
    return {
        "process": signal.process,
        "changed": [_from_key(key) for key in signal.changed],
        "waiting": [
            {
                **_from_key(one.key),
                "type": one.type,
                "priority": one.priority,
                "submitted_at": one.submitted_at,
                "due_at": one.due_at,
            }
            for one in signal.waiting
        ],
        "news": [
            {
                **_from_key(key),
                "version": part.version,
                "status": part.status.value,
                "events": documents.events(part.events),
                "last": part.last,
            }
            for key, part in signal.news.items()
        ],
        "at": now,
    }


def to_signal(document: Document) -> Signal:
    return Signal(
        process=document["process"],
        changed=tuple(map(_to_key, document["changed"])),
        waiting=tuple(
            Waiting(_to_key(one), one["type"], one["priority"], _in_utc(one["submitted_at"]), _in_utc(one["due_at"]))
            for one in document["waiting"]
        ),
        # A version before there were any says nothing of them.
        news={_to_key(one): _to_stretch(one) for one in document.get("news", ())},
    )


def from_workspace(workspace: Workspace) -> dict[str, Any]:
    return {
        "_id": workspace.id,
        "kind": workspace.kind.value,
        "state": workspace.state.value,
        "plan": workspace.plan,
        "quotas": {"pending_tasks": workspace.quotas.pending_tasks, "streams": workspace.quotas.streams},
        "worker_types": sorted(workspace.worker_types),
        "secrets": [
            {"id": s.id, "salt": s.salt, "digest": s.digest, "created_at": s.created_at, "expires_at": s.expires_at}
            for s in workspace.secrets
        ],
        "created_at": workspace.created_at,
        "updated_at": workspace.updated_at,
        "version": workspace.version,
    }


def to_workspace(document: Document) -> Workspace:
    return Workspace(
        id=document["_id"],
        kind=Kind(document["kind"]),
        state=State(document["state"]),
        plan=document["plan"],
        quotas=Quotas(**document["quotas"]),
        worker_types=frozenset(document["worker_types"]),
        secrets=tuple(Secret(**secret) for secret in document["secrets"]),
        created_at=document.get("created_at", _EARLIEST),
        updated_at=document["updated_at"],
        version=document["version"],
    )


def from_signing_key(key: SigningKey) -> dict[str, Any]:
    return {
        "_id": key.kid,
        "private_pem": key.private_pem,
        "public_jwk": key.public_jwk,
        "signs_from": key.signs_from,
    }


def to_signing_key(document: Document) -> SigningKey:
    return SigningKey(
        kid=document["_id"],
        private_pem=document["private_pem"],
        public_jwk=document["public_jwk"],
        signs_from=document["signs_from"],
    )


def from_audit_event(event: audit.Event) -> dict[str, Any]:
    return {
        "_id": event.id,
        "at": event.at,
        "actor": event.actor.name,
        "request_id": event.actor.request_id,
        "action": event.action.value,
        "workspace": event.workspace,
        "details": [{"k": name, "v": value} for name, value in event.details.items()],
    }


def to_audit_event(document: Document) -> audit.Event:
    return audit.Event(
        id=document["_id"],
        at=document["at"],
        actor=audit.Actor(document["actor"], document["request_id"]),
        action=audit.Action(document["action"]),
        workspace=document["workspace"],
        details={entry["k"]: entry["v"] for entry in document["details"]},
    )


def _from_key(key: Key) -> dict[str, str]:
    return {"workspace": key.workspace, "id": key.id}


def _to_stretch(document: Document) -> Stretch:
    events = tuple(replace(event, at=_in_utc(event.at)) for event in documents.to_events(document))
    return Stretch(document["version"], Status(document["status"]), events, document["last"])


def _in_utc(moment: datetime) -> datetime:
    """Signals are read without time zones: see `processes`. To add takes a tenth of what `replace` does."""
    return _EARLIEST + (moment - _EPOCH)


def _to_key(document: Document) -> Key:
    return Key(document["workspace"], document["id"])
