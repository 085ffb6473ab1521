"""Envoy's access log tells of every request, and of none what may be a secret, or of any length."""

import uuid

import pytest
from support.gateway import Gateway
from support.http2 import Http2

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_the_access_log_has_no_secrets(gateway: Gateway) -> None:
    """A line has the request's id, route, status, workspace and trace; no query, no token."""
    secret = "S3CRET-in-a-query"
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    answer = await gateway.rest.get(f"/v1/tasks/pending?access_token={secret}", headers=headers)
    line = await gateway.logged(answer.headers["x-request-id"])
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/tasks/pending", 400)
    assert line["workspace_id"] == "ws-1"
    assert line["trace_id"] == TRACE
    assert line["route"] == "rest:GET /v1/tasks/{task_id}"
    text = gateway.log.read_text()
    assert secret not in text
    assert "eyJ" not in text


@pytest.mark.parametrize(
    ("verb", "path", "shown"),
    [
        ("POST", "/v1/workspaces/ws-1/secrets/%s:revoke", "/v1/workspaces/ws-1/secrets/omcp_123...:revoke"),
        ("GET", "/v1/tasks/%s/events?x=%s", "/v1/tasks/omcp_123.../events"),
        ("GET", "/v1/auth/token/%s", "/v1/auth/token/omcp_123..."),
        ("GET", "/healthz/%s", "/healthz/omcp_123..."),
        ("GET", f"/v1/tasks/{uuid.UUID(int=1)}:wait", f"/v1/tasks/{uuid.UUID(int=1)}:wait"),
    ],
)
async def test_the_access_log_shows_no_secret_in_a_path(gateway: Gateway, verb: str, path: str, shown: str) -> None:
    """What a caller put where an id belongs is cut, wherever that is; an id is shown whole."""
    secret = "omcp_12345678_" + "S3CRET0" * 6 + "x"
    answer = await gateway.rest.request(verb, path.replace("%s", secret), content=b"{}" if verb == "POST" else None)
    assert (await gateway.logged(answer.headers["x-request-id"]))["path"] == shown
    assert "S3CRET0" not in gateway.log.read_text()


async def test_the_access_log_shows_nothing_else_of_headers(gateway: Gateway) -> None:
    """What is no method, no trace and no id of Envoy's is not told, be the request refused before all filters."""
    secret, url = "omcp_12345678_" + "S3CRET0" * 6 + "x", gateway.rest.base_url

    async def call(method: str, path: str, *headers: tuple[str, str]) -> None:
        fields = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "x"), *headers]
        async with Http2(url.host, url.port or 0) as connection:
            assert b'"error"' in (await connection.call(fields, b"") or b"")

    await call("GET", "/v1/a%2Fb", ("x-request-id", secret))
    for method, trace in ((secret, "Bearer " + secret), ("GET", "S3CRET0" * 2000), ("S3CRET0" * 2000, TRACE)):
        path = f"/v1/tasks/{uuid.uuid4()}"
        await call(method, path, ("traceparent", trace))
        line = await gateway.logged(path)
        assert (line["method"], line["trace_id"]) == ("GET" if method == "GET" else "_OTHER", None)
        assert len(str(line)) < 1000
    assert "S3CRET" not in gateway.log.read_text()
