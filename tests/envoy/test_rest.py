"""REST as Envoy makes it of the contract: the specification's JSON, through real Envoy."""

import asyncio
from pathlib import Path

import httpx
import pytest
from support.gateway import Gateway, running
from support.upstream import TRICKY

from openmcp_chain.engine import answers

SECONDS = 60.0
"""How long the largest answers may take on a busy machine."""

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_submit_answers_as_specified(gateway: Gateway) -> None:
    """The answer has the specification's names, the short status and a time that ends in Z."""
    answer = await gateway.rest.post("/v1/tasks", json={"type": "t-1", "payload": {"a": [1, None]}, "metadata": {}})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"task_id": "t-1", "status": "PENDING", "submitted_at": "2024-01-01T00:00:00Z"}


async def test_a_token_needs_no_token(gateway: Gateway) -> None:
    """/v1/auth/token is open, and shows the token as access_token."""
    answer = await gateway.anonymous.post("/v1/auth/token", json={"workspace_id": "ws-1", "workspace_secret": "s"})
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "expires_at"}


async def test_key_set_needs_no_token(gateway: Gateway) -> None:
    """The key set is open, with the media type that the server gave it."""
    answer = await gateway.anonymous.get("/.well-known/jwks.json")
    assert answer.status_code == 200
    assert answer.json()["keys"][0]["kty"] == "EC"


async def test_unset_result_and_error_are_null(gateway: Gateway) -> None:
    """While a task has neither, both are there, as null."""
    answer = await gateway.rest.get("/v1/tasks/pending")
    assert answer.text.startswith(
        '{"task_id":"pending","status":"RUNNING","submitted_at":"2024-01-01T00:00:00Z",'
        '"updated_at":"2024-01-01T00:05:12.345678Z","result":null,"error":null,"type":"",'
    )
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_an_error_is_shown(gateway: Gateway) -> None:
    """A failed task's error is its text, and its result is null."""
    shown = (await gateway.rest.get("/v1/tasks/failed")).json()
    assert (shown["result"], shown["error"]) == (None, "INPUT_NOT_FOUND: no such file")


async def test_a_result_is_never_touched(gateway: Gateway) -> None:
    """A result full of what the JSON around it looks like comes back unchanged, beside the task's own null."""
    shown = (await gateway.rest.get("/v1/tasks/done")).json()
    assert shown["result"] == TRICKY
    assert shown["error"] is None


async def test_a_large_result_passes(gateway: Gateway) -> None:
    """The largest result (1 MiB), of bytes that JSON escapes six to one, passes whole."""
    shown = (await gateway.rest.get("/v1/tasks/big_1000000")).json()
    assert shown["result"] == {"text": "\x01" * 1_000_000}
    assert shown["error"] is None


async def test_the_fullest_answer_passes_and_a_larger_one_is_an_error(tmp_path: Path) -> None:
    """As many bytes of tasks as the server puts into one answer, each escaped six to one, pass whole.

    What is larger, as JSON or as a message, is refused in the contract's shape, though past all filters.
    """
    async with running(tmp_path, unary_seconds=SECONDS) as patient:
        answer = await patient.rest.get(f"/v1/tasks/big_{answers.BYTES}", timeout=SECONDS)
        assert answer.json()["result"] == {"text": "\x01" * answers.BYTES}
        for task in ("big_3500000", "wide_18000000"):
            answer = await patient.rest.get(f"/v1/tasks/{task}", timeout=SECONDS)
            assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
            assert answer.json()["error"]["code"] == "INTERNAL"
            assert not any(name.startswith("x-openmcp") for name in answer.headers)


async def test_gateway_headers_stay_inside(gateway: Gateway) -> None:
    """No header of gRPC's or Envoy's reaches a REST client, but for the request id."""
    for path in ("/v1/tasks/pending", "/v1/tasks/missing", "/nowhere", "/healthz"):
        answer = await gateway.rest.get(path)
        assert "x-request-id" in answer.headers
        assert not [n for n in answer.headers if n.startswith(("grpc-", "x-envoy", "x-openmcp", "server", "trailer"))]


async def test_the_request_id_is_envoys(gateway: Gateway) -> None:
    """The server gets the id that the client is told, whatever the client said; trace context passes as it is."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await gateway.rest.get("/v1/tasks/pending", headers={"x-request-id": "mine", "traceparent": trace})
    metadata = gateway.upstream.tasks.metadata
    assert answer.headers["x-request-id"] == metadata["x-request-id"] != "mine"
    assert metadata["traceparent"] == trace


async def test_claimed_identities_are_dropped(gateway: Gateway) -> None:
    """Headers by which a client could claim an identity, or steer Envoy, don't reach the server."""
    claims = {"X-Workspace-Id": "other", "x-jwt-payload": "{}", "x-openmcp-x": "1", "x-envoy-max-retries": "9"}
    upstream = gateway.upstream
    assert (await gateway.rest.get("/v1/tasks/pending", headers=claims)).status_code == 200
    assert (await gateway.anonymous.post("/v1/auth/token", json={}, headers=claims)).status_code == 200
    for metadata in (upstream.tasks.metadata, upstream.auth.metadata):
        assert "x-request-id" in metadata
        assert not set(metadata) & {name.lower() for name in claims}


async def test_events_come_as_they_happen(gateway: Gateway) -> None:
    """An event stream passes unbuffered: the first event is there while the server has yet to send the second."""
    gateway.upstream.rest.more.clear()
    headers = {"accept": "text/event-stream", "last-event-id": "7"}
    async with gateway.rest.stream("GET", "/v1/tasks/x/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-cache"
        chunks = answer.aiter_bytes()
        assert await anext(chunks) == b"id: 1\ndata: after 7\n\n"
        gateway.upstream.rest.more.set()
        assert b"".join([chunk async for chunk in chunks]) == b"id: 2\ndata: last\n\n"


async def test_an_ended_stream_is_204(gateway: Gateway) -> None:
    """An event stream that will never have another event is 204, with neither body nor content type."""
    answer = await gateway.rest.get("/v1/tasks/ended/events")
    assert (answer.status_code, answer.content) == (204, b"")
    assert not {"content-type", "content-length", "transfer-encoding"} & set(answer.headers)


async def test_an_error_before_a_streams_first_message_is_an_error(gateway: Gateway) -> None:
    """Not a 200 with an error inside."""
    answer = await gateway.rest.get("/v1/tasks/missing/events")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert answer.json()["error"]["code"] == "TASK_NOT_FOUND"


async def test_an_upgrade_offered_is_declined(gateway: Gateway) -> None:
    """A client that offers h2c, as Java's does, is answered in HTTP/1.1."""
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}
    assert (await gateway.rest.get("/v1/tasks/pending", headers=offer)).status_code == 200


async def test_paths_are_normalised(gateway: Gateway) -> None:
    """Doubled slashes and dot segments lead where they seem to."""
    for path in ("/v1//tasks///pending", "/v1/x/../tasks/pending"):
        url = httpx.URL(str(gateway.rest.base_url), raw_path=path.encode())
        answer = await gateway.rest.get(url)
        assert answer.json()["task_id"] == "pending"


async def test_a_call_that_takes_too_long_is_given_up(gateway: Gateway) -> None:
    """The client gets 504, and the server's work is cancelled."""
    gateway.upstream.tasks.cancelled.clear()
    answer = await gateway.rest.get("/v1/tasks/silent")
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "DEADLINE_EXCEEDED"
    await asyncio.wait_for(gateway.upstream.tasks.cancelled.wait(), 10)
