"""Every failure has one shape, whoever made it, and says nothing of what is inside."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.gateway import BODY_LIMIT, Gateway

from openmcp_chain.domain import errors
from openmcp_chain.stack.envoy import routes

pytestmark = pytest.mark.asyncio(loop_scope="session")


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The answer's error, once its shape is what the contract says."""
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "message", "details"}
    assert error["code"] in errors.TABLE
    reasons = [d for d in error["details"] if d["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"]
    assert [(d["reason"], d["domain"]) for d in reasons] == [(error["code"], "openmcp.chain")]
    return error


def fields_of(error: dict[str, Any]) -> list[str]:
    return [v["field"] for detail in error["details"] for v in detail.get("field_violations", ())]


async def test_a_servers_error_is_shown(gateway: Gateway) -> None:
    """Code, message and details are the server's; its own Error is not repeated among the details."""
    answer = await gateway.rest.get("/v1/tasks/missing")
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (404, "TASK_NOT_FOUND")
    assert error["message"] == 'Task quote " brace } and \\ does not exist'
    assert [d["@type"].rpartition(".")[2] for d in error["details"]] == ["ErrorInfo", "ResourceInfo"]
    assert error["details"][1]["resource_name"] == 'quote " brace } and \\'


@pytest.mark.parametrize(
    ("task", "code", "challenge"),
    [
        ("revoked", "TOKEN_INVALID", 'Bearer realm="openmcp-chain", error="invalid_token"'),
        ("expired", "TOKEN_EXPIRED", 'Bearer realm="openmcp-chain", error="invalid_token"'),
        ("credentials", "CREDENTIALS_INVALID", 'Bearer realm="openmcp-chain"'),
    ],
)
async def test_a_servers_401_says_what_would_do(gateway: Gateway, task: str, code: str, challenge: str) -> None:
    """A 401 of the server's own names the scheme, as one of Envoy's does."""
    answer = await gateway.rest.get(f"/v1/tasks/{task}")
    assert (answer.status_code, error_of(answer)["code"]) == (401, code)
    assert answer.headers["www-authenticate"] == challenge


async def test_retry_after_reaches_rest(gateway: Gateway) -> None:
    """What the server says about when to come back is a header, in whole seconds."""
    answer = await gateway.rest.get("/v1/tasks/busy")
    assert (answer.status_code, error_of(answer)["code"]) == (429, "TOO_MANY_STREAMS")
    assert answer.headers["retry-after"] == "5"


async def test_the_table_knows_the_http_status(gateway: Gateway) -> None:
    """A code with an HTTP status of its own has it when the server sends it too."""
    answer = await gateway.rest.get("/v1/tasks/large")
    assert (answer.status_code, error_of(answer)["code"]) == (413, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize(
    ("grpc_status", "http", "code"),
    [
        (1, 503, "UPSTREAM_UNAVAILABLE"),
        (2, 500, "INTERNAL"),
        (4, 504, "DEADLINE_EXCEEDED"),
        (8, 413, "REQUEST_TOO_LARGE"),
        (12, 501, "METHOD_NOT_FOUND"),
        (13, 500, "INTERNAL"),
        (14, 503, "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_a_bare_status_gets_our_words(gateway: Gateway, grpc_status: int, http: int, code: str) -> None:
    """A status without our details came out of gRPC itself: its text, which may hold anything, is not passed on."""
    answer = await gateway.rest.get(f"/v1/tasks/bare_{grpc_status}")
    assert (answer.status_code, error_of(answer)["code"]) == (http, code)
    assert "S3CRET" not in answer.text


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/tasks/", "/v1/tasks/x/y", "/v2/tasks", "/stats", "/quitquitquit"])
async def test_no_such_path(gateway: Gateway, path: str) -> None:
    """An unknown path is 404, with or without a token; Envoy's admin paths are among them."""
    for client in (gateway.rest, gateway.anonymous):
        answer = await client.get(path)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "ROUTE_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("PUT", "/v1/tasks", "GET, POST"), ("DELETE", "/v1/tasks/x", "GET"), ("OPTIONS", "/v1/auth/token", "POST")],
)
async def test_no_such_method(gateway: Gateway, method: str, path: str, allow: str) -> None:
    """A path with another method is 405, and says which it takes."""
    answer = await gateway.anonymous.request(method, path)
    assert (answer.status_code, error_of(answer)["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == allow


async def test_head_has_no_body(gateway: Gateway) -> None:
    """A refused HEAD has no body, which would be read as the beginning of the next answer on the connection."""
    for path in ("/v1/tasks/x", "/nowhere"):
        answer = await gateway.anonymous.head(path)
        assert answer.status_code in (404, 405)
        assert answer.content == b""
        assert (await gateway.anonymous.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json;charset=latin-1; charset=utf-8"},
        {"content-encoding": "gzip"},
    ],
)
async def test_not_json(gateway: Gateway, headers: dict[str, str]) -> None:
    """A body that doesn't call itself plain JSON is refused before anything reads it."""
    answer = await gateway.rest.post("/v1/tasks", content=b"{}", headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        'application/json;Charset="UTF-8"',
        "application/json;",
        None,
    ],
)
async def test_json_by_its_names(gateway: Gateway, content_type: str | None) -> None:
    """JSON may call itself what the standards let it, or nothing."""
    headers = {"content-type": content_type} if content_type else {}
    assert (await gateway.rest.post("/v1/tasks", content=b"{}", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{", "request"),
        ("[]", "request"),
        ("nonsense", "request"),
        ('{"type":"a"}{"type":"b"}', "request"),
        ('{"type":5}', "type"),
        ('{"type":["a"]}', "type"),
        ('{"type":{"a":1}}', "type"),
        ('{"type":"\\ud800"}', "type"),
        ('{"workspace_id":"\\udc00\\ud800"}', "workspace_id"),
        ('{"type":"a","payload":[1]}', "payload"),
        ('{"type":"a","payload":"x"}', "payload"),
        ('{"type":"a","metadata":["x"]}', "metadata"),
        ('{"metadata":{"a":1}}', 'metadata["a"]'),
        ('{"metadata":{"a":"1","a":"2"}}', 'metadata["a"]'),
        ('{"payload":{"a":{}}, "metadata":{"a":"\\ud800"}}', 'metadata["a"]'),
        ('{"type":"a","payload":{"a":1e999}}', "payload.a"),
        ('{"type":"a","payload":{"a":[{"}":"]"},-1e999]},"metadata":{}}', "payload.a[1]"),
        ('{"type":"a","payload":{"a":NaN},"metadata":{}}', "payload.a"),
        ('{"type":"a","payload":{"a":-Infinity}}', "payload.a"),
        ('{"payload":{"a":"\\ud800"}}', "payload.a"),
        ('{"payload":{"\\ud800":1}}', "payload"),
        ('{"metadata":{},"payload":' + '{"a":' * 300 + "1" + "}" * 301, "payload"),
        ('{"payload":{"a":' + "[" * 5000 + "]" * 5000 + "}}", "payload"),
        ('{"type":"a","payload":{"b":{"a":1,"a":2}}}', "payload.b.a"),
        ('{"type":"a","type":"b"}', "type"),
        ('{"payload":{"a":1,}}', "payload"),
        ("{'type':'a'}", "request"),
        ('{"payload":{"a\0":1}}', "payload"),
        ('{"payload":{"a":12345678901234567890.}}', "payload.a"),
        ('{"payload":{"a":1e-400}}', "payload.a"),
        ('{"payload":{"a":9007199254740993.0}}', "payload.a"),
        ('{"metadata":{"a":null}}', 'metadata["a"]'),
        ('{"payloda":{}}', "payloda"),
        ('{"workspaceId":"a"}', "workspaceId"),
        ('{"retry_policy":{"max":1}}', "retry_policy.max"),
        ('{"payload":{"a":9007199254740993}}', "payload.a"),
        ('{"payload":{"a":[1,"9007199254740993",-9223372036854775807]}}', "payload.a[2]"),
        ('{"\\u0070ayload":{"' + "k" * 100 + '":123456789012345678901234567890}}', "payload." + "k" * 64 + "..."),
    ],
)
async def test_bad_json(gateway: Gateway, body: str, field: str) -> None:
    """JSON that does not fit, or can't be kept exactly, is 400; the error names the field and is one line.

    So it is behind three megabytes of text that fits, and when it comes in pieces.
    """
    long = body.replace("{", '{"request_id":"' + "x" * (BODY_LIMIT - 20_000) + '",', 1)

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:20].encode()
        yield body[20:].encode()

    contents: list[str | AsyncIterator[bytes]] = [body, pieces(), *([long] if long != body else [])]
    for content in contents:
        answer = await gateway.rest.post("/v1/tasks", content=content)
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (400, "INVALID_ARGUMENT")
        assert fields_of(error) == [field]
        assert error["message"].startswith(f"{field}: ")
        assert error["message"].isprintable()
        assert "TYPE_" not in error["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"workspace_id":{"$ne":1},"workspace_secret":"x"}', "workspace_id"),
        ('{"workspace_id":"a","workspace_secret":["x"]}', "workspace_secret"),
        ('{"workspace_id":"\\ud800"}', "workspace_id"),
    ],
)
async def test_bad_json_before_signing_in(gateway: Gateway, body: str, field: str) -> None:
    """Every call that takes JSON names the field."""
    error = error_of(await gateway.anonymous.post("/v1/auth/token", content=body))
    assert (error["code"], fields_of(error)) == ("INVALID_ARGUMENT", [field])


@pytest.mark.parametrize(
    "body",
    [
        '{"payload":{"a":[9007199254740992,18446744073709551616,-9007199254740994,1e22,0.12345678901234567]}}',
        '{"payload":{"9007199254740993":"9007199254740993 9007199254740993"}}',
        '{"metadata":{"a":"b, 9007199254740993"}}',
    ],
)
async def test_exact_enough(gateway: Gateway, body: str) -> None:
    """Large integers that a double holds, and digits that are no number of the payload's, are accepted."""
    assert (await gateway.rest.post("/v1/tasks", content=body)).status_code == 200


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/tasks/x?nope=1", "nope"),
        ("/v1/tasks/x?nope", "nope"),
        ("/v1/tasks/x?task_id=y", "task_id"),
        ("/v1/tasks/x?task%5fid=y", "task_id"),
        ("/v1/tasks?filter=a&filter=b", "filter"),
        ("/v1/tasks/x/events?after_sequence=abc", "after_sequence"),
        ("/v1/tasks/x/events?after_sequence=99999999999", "after_sequence"),
    ],
)
async def test_bad_query(gateway: Gateway, path: str, field: str) -> None:
    """A query that does not fit is 400 and names the field; none is ignored, and none wins over the path."""
    answer = await gateway.rest.get(path)
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (400, "INVALID_ARGUMENT")
    assert fields_of(error) == [field]


async def test_a_query_beside_a_body(gateway: Gateway) -> None:
    """A call that has a body takes nothing from the query, and names what it finds there."""
    error = error_of(await gateway.rest.post("/v1/tasks?type=x", json={"type": "a"}))
    assert (error["code"], fields_of(error)) == ("INVALID_ARGUMENT", ["type"])


async def test_too_large(gateway: Gateway) -> None:
    """A body over the limit is 413, announced or in pieces; it says which field makes it so and what the limit is."""
    body = json.dumps({"payload": {"a": "b" * BODY_LIMIT}}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 65_536):
            yield body[at : at + 65_536]

    for path, content, field, limit in (
        ("/v1/tasks", body, "payload", BODY_LIMIT),
        ("/v1/tasks", pieces(), "payload", BODY_LIMIT),
        ("/v1/tasks:batchSubmit", body, "requests", BODY_LIMIT),
        ("/v1/auth/token", body, "request", routes.SMALL_BYTES),
        ("/v1/auth/token", json.dumps({"workspace_id": "a" * routes.SMALL_BYTES}), "request", routes.SMALL_BYTES),
    ):
        answer = await gateway.rest.post(path, content=content)
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (413, "REQUEST_TOO_LARGE")
        assert fields_of(error) == [field]
        assert error["message"].startswith(f"{field}: ")
        assert f"at most {limit} bytes" in error["message"]


async def test_large_enough(gateway: Gateway) -> None:
    """A body just under the limit, larger than Envoy reads at a time, passes."""
    body = {"type": "large", "payload": {"a": "b" * (BODY_LIMIT - 100)}}
    assert (await gateway.rest.post("/v1/tasks", json=body)).json()["task_id"] == "large"


@pytest.mark.parametrize(
    "headers", [{"x-large": "a" * 9000}, {"x-large": "a" * 90_000}, {f"x-{number}": "a" for number in range(150)}]
)
async def test_headers_too_large(gateway: Gateway, headers: dict[str, str]) -> None:
    """Headers over the limit, in bytes or in number, are 431."""
    for method, path in (("GET", "/v1/tasks/x"), ("POST", "/v1/tasks"), ("GET", "/nowhere")):
        answer = await gateway.rest.request(method, path, headers=headers)
        error = error_of(answer)
        assert (answer.status_code, error["code"], fields_of(error)) == (431, "REQUEST_TOO_LARGE", ["headers"])


async def test_connect(gateway: Gateway) -> None:
    """A tunnel is refused at once, before Envoy would wait for what goes through it."""
    url = gateway.rest.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    bearer = gateway.rest.headers["authorization"]
    writer.write(f"CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: 127.0.0.1:80\r\nauthorization: {bearer}\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)  # to its end: the connection is closed
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"code":"ROUTE_NOT_FOUND"' in answer


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/tasks/x", {"x_workspace_id": "other"}),
        ("/v1/tasks/a%2Fb", {}),
        ("/v1/tasks/a%5Cb", {}),
        ("/v1/tasks/%00", {}),
        ("/v1/tasks/x", {"connection": "upgrade", "upgrade": "websocket"}),
    ],
)
async def test_malformed(gateway: Gateway, path: str, headers: dict[str, str]) -> None:
    """What a proxy and a server could read differently is refused outright."""
    url = httpx.URL(str(gateway.rest.base_url), raw_path=path.encode())
    answer = await gateway.rest.get(url, headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "MALFORMED_REQUEST")
