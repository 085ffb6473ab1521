"""A REST client as simple as a user's own: signs in, submits, reads, follows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
from support.plain import NOBODY
from support.workspaces import Credentials

SECONDS = 30.0
"""How long any single answer, or message of a stream, may take."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of an event stream."""

    id: str
    event: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EventStream:
    """All that an event stream sent until it ended."""

    status: int
    headers: httpx.Headers
    retry: str
    messages: list[Message]


class Rest:
    """Calls of one workspace."""

    def __init__(self, rest_url: str, credentials: Credentials) -> None:
        self.workspace_id = credentials.workspace_id
        self.http = httpx.Client(base_url=rest_url, timeout=SECONDS, trust_env=False, verify=NOBODY)
        answer = self.http.post(
            "/v1/auth/token",
            json={"workspace_id": credentials.workspace_id, "workspace_secret": credentials.workspace_secret},
        )
        self.token: str = answer.json()["access_token"]
        self.http.headers["authorization"] = f"Bearer {self.token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.http.close()

    def submit(self, task_type: str, payload: Mapping[str, Any], **fields: Any) -> str:
        """Submits a task, which must be accepted; returns its id."""
        answer = self.http.post("/v1/tasks", json={"type": task_type, "payload": payload, **fields})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["task_id"])

    def get(self, task_id: str) -> dict[str, Any]:
        """A task, which must be there."""
        answer = self.http.get(f"/v1/tasks/{task_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, task_id: str) -> dict[str, Any]:
        """A task, once it has ended."""
        self.events(task_id)
        return self.get(task_id)

    def events(self, task_id: str, last_event_id: str = "", until: str = "") -> EventStream:
        """Follows a task until its stream ends, or until it has the status `until`."""
        headers = {"accept": "text/event-stream"} | ({"last-event-id": last_event_id} if last_event_id else {})
        messages: list[Message] = []
        fields: dict[str, str] = {}
        retry = ""
        with self.http.stream("GET", f"/v1/tasks/{task_id}/events", headers=headers) as answer:
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                fields[name] = value
                if not line:
                    retry = fields.pop("retry", retry)
                    if "data" in fields:
                        if fields["event"] == "error":
                            return EventStream(answer.status_code, answer.headers, retry, messages)
                        messages.append(Message(fields["id"], fields["event"], json.loads(fields["data"])))
                        if messages[-1].data["status"] == until:
                            break
                    fields = {}
            return EventStream(answer.status_code, answer.headers, retry, messages)
