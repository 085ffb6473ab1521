"""Bad requests on every REST route, through the real Envoy: never a 5xx, a hang, or an error of another shape."""

import itertools
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from contract.errorshape import fields_named, framed_error, rest_answer, rest_error
from contract.rawhttp import Answer, Headers, exchange
from google.protobuf import descriptor_pool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.rest import Rest
from support.stack import StackInfo

from openmcp_chain.stack.envoy import view

pytestmark = pytest.mark.usefixtures("known")

ROUTES = [route for method in view.methods() for route in method.routes]
"""(method, path template): every REST route that the contract's annotations give."""
WRITES = [(verb, template) for verb, template in ROUTES if verb in ("POST", "PATCH")]
"""Those that take a body."""
T = TypeVar("T")
WHOLE = ("/v1/tasks", "/v1/tasks/{task_id}/events")
"""Between them a page, a body and a stream: they get all of what one filter refuses on every route, others a part."""
TURNS = 4
"""In how many parts the others share it."""
TASK_ID = "01a20ab1-7e68-7207-88ee-c510558c969c"
JSON: Headers = [("content-type", "application/json")]
QUICK = settings(
    max_examples=4,  # of each route, and there are dozens
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def fill(template: str, value: str = TASK_ID) -> str:
    return re.sub(r"\{[^}]*\}", lambda _: value, template)


def share(things: Sequence[T], route: tuple[str, str], first: int = 0) -> Sequence[T]:
    """Those that are tried on a route: each of them comes to one in so many."""
    return things if route[1] in WHOLE else things[(ROUTES.index(route) + first) % TURNS :: TURNS]


def judge(answer: Answer, method: str = "GET") -> Mapping[str, Any] | None:
    """Whether an answer is one of those that a client may be given: its error, or None if it is none."""
    assert answer.status < 500, answer
    assert answer.status < 300 or answer.status >= 400, answer
    if answer.headers.get("content-type", "").startswith("application/grpc"):  # as was asked, which only a POST can
        assert (answer.status, method) == (200, "POST"), answer
        framed_error(answer.headers, answer.body)
        return None
    if answer.status < 400:
        rest_answer(answer.status, answer.headers, answer.body)
        return None
    if method == "HEAD":
        assert answer.body == b""
        return None
    return rest_error(answer.status, answer.headers["content-type"], answer.body)


@pytest.fixture
def bearer(idle: Rest) -> Headers:
    """The headers of a workspace, for what is not about its tasks."""
    return [("authorization", f"Bearer {idle.token}")]


@pytest.fixture
def bearer_for(token_for: Callable[[str], str]) -> Callable[[str], Headers]:
    """The headers of somebody who may call a route, by its path template."""
    methods = {template: method.name for method in view.methods() for _, template in method.routes}
    return lambda template: [("authorization", f"Bearer {token_for(methods[template])}")]


SEGMENTS = [
    *("%2F", "%252F", "a%2Fb", "%5C", "..", "..;", ".;", "%2e%2e", "%2e", "..;/", ";a=b", "+", "a+b", "%00", "%0a"),
    *("%", "%zz", "%c0%af", "%ff", "%e2%80%a8", "~", "*", "'", '"', "<x>", "{task_id}", "$where", "a.b", "a:b"),
    *("0", "-1", "x" * 3000, "%F0%9F%92%A9", "events", "\x7f", "é", "\\", "^", "|", "`", "@", "a=b&c", "#fragment"),
    *(":verb", "null", "?"),
]


@pytest.mark.parametrize(("method", "template"), ROUTES)
def test_odd_paths(stack: StackInfo, bearer: Headers, method: str, template: str) -> None:
    """Escaped, dotted, encoded twice, not UTF-8: an odd path names a task that is not there, or no path at all.

    By turns: in place of an id, and around the path, where it is no route of ours.
    """
    body = b"{}" if method == "POST" else None
    segments = share(SEGMENTS, (method, template))
    around = [(f"{fill(template)}/{segment}", f"//{segment}{fill(template)}") for segment in segments]
    inside = dict.fromkeys(fill(template, segment) for segment in segments)  # one, if the path has no place for it
    for target in itertools.chain(inside, *around):
        error = judge(exchange(stack.rest_url, method, target, [*bearer, *JSON], body))
        if method == "GET" and "{task_id}" in template:
            assert error, target


@pytest.mark.parametrize("template", sorted({template for _, template in ROUTES}))
def test_other_methods(stack: StackInfo, bearer: Headers, template: str) -> None:
    """A path takes the methods that it has; any other is told which those are, or refused as no HTTP of ours."""
    allowed = {method for method, known in ROUTES if known == template}
    methods = (
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "QUERY",
        "PROPFIND",
        "CONNECT",
        "FOO",
    )
    for method in methods:
        if method in allowed:
            continue
        target = fill(template) if method != "CONNECT" else "127.0.0.1:80"
        answer = exchange(stack.rest_url, method, target, [*bearer, *JSON], b"{}")
        judge(answer, method)
        assert answer.status >= 400, (method, answer)
        if answer.status == 405:
            assert answer.headers["allow"] == ", ".join(sorted(allowed))
    assert exchange(stack.rest_url, "PUT", fill(template), bearer).status == 405


BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "text": b"hello",
    "array": b"[]",
    "string": b'"x"',
    "null": b"null",
    "two values": b"{}{}",
    "comment": b"{/**/}",
    "trailing comma": b'{"type":"echo",}',
    "single quotes": b"{'type':'echo'}",
    "NUL": b"{\0}",
    "not UTF-8": b'{"type":"\xff\xfe"}',
    "UTF-16": '{"type":"echo"}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"type":"echo"}',
    "overlong UTF-8": b'{"type":"\xc0\xaf"}',
    "huge number": b'{"type":"echo","payload":{"a":1e999}}',
    "NaN": b'{"type":"echo","payload":{"a":NaN}}',
    "Infinity": b'{"type":"echo","payload":{"a":-Infinity}}',
    "lone surrogate": b'{"type":"echo","payload":{"a":"\\ud800"}}',
    "lone surrogate key": b'{"type":"echo","payload":{"\\udfff":1}}',
    "surrogates reversed": b'{"type":"echo","payload":{"a":"\\udc00\\ud800"}}',
    "bad escape": b'{"type":"echo","payload":{"a":"\\x"}}',
    "control character": b'{"type":"echo\n"}',
    "type is a number": b'{"type":1}',
    "type is an object": b'{"type":{}}',
    "payload is text": b'{"type":"echo","payload":"x"}',
    "payload is a list": b'{"type":"echo","payload":[1]}',
    "metadata is a list": b'{"type":"echo","metadata":[]}',
    "metadata of numbers": b'{"type":"echo","metadata":{"a":{"b":1}}}',
    "metadata of null": b'{"type":"echo","metadata":{"a":null}}',
    "type twice": b'{"type":"echo","type":"other","type":1}',
    "unknown enum": b'{"type":"echo","status":"TASK_STATUS_FOO"}',
    "deep": b'{"type":"echo","payload":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    "deep list": b'{"type":"echo","payload":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}",
    "deep, without end": b"[" * 50_000,
    "long key": b'{"' + b"k" * 50_000 + b'":1}',
    "bad type": b'{"type":"1 2 3"}',
    "long type": b'{"type":"' + b"t" * 2000 + b'"}',
    "bad request_id": b'{"type":"echo","request_id":"not-a-uuid"}',
    "bad priority": b'{"type":"echo","metadata":{"priority":"urgent"}}',
}


REFUSED = ("INVALID_ARGUMENT", "CREDENTIALS_INVALID", "TASK_NOT_FOUND", "WORKSPACE_NOT_FOUND")


@pytest.mark.parametrize(
    ("name", "verb", "template"),
    [(name, verb, template) for verb, template in WRITES for name in share([*BODIES], (verb, template))],
)
def test_bad_bodies(
    stack: StackInfo, bearer_for: Callable[[str], Headers], name: str, verb: str, template: str
) -> None:
    """A body that does not fit is answered by INVALID_ARGUMENT, in both framings that HTTP/1.1 has."""
    body, bearer = BODIES[name], bearer_for(template)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    answers = [
        exchange(stack.rest_url, verb, fill(template), [*bearer, *JSON], body),
        exchange(
            stack.rest_url,
            verb,
            fill(template),
            [*bearer, *JSON, ("transfer-encoding", "chunked")],
            chunked,
            sized=False,
        ),
    ]
    for answer in answers:
        error = judge(answer)
        # Some routes have all they need in their path.
        assert error or name == "empty"
        if error:
            assert error["code"] in REFUSED, error
            assert error["code"] != "INVALID_ARGUMENT" or fields_named(error), error
    assert answers[0].status == answers[1].status


LONG = b'"request_id":"' + b"x" * 3_000_000 + b'",'
NAMED: dict[str, tuple[str, bytes, str]] = {
    "syntax": ("/v1/tasks", b'{%s"type":"a","payload":{"a":[1,}', "payload.a[1]"),
    "NaN": ("/v1/tasks", b'{%s"type":"a","payload":{"a":NaN}}', "payload.a"),
    "lone surrogate": ("/v1/tasks", b'{%s"type":"a","payload":{"a":"\\ud800"}}', "payload.a"),
    "too deep": ("/v1/tasks", b'{%s"type":"a","payload":{"a":' + b"[" * 200 + b"]" * 200 + b"}}", "payload"),
    "inexact": ("/v1/tasks", b'{%s"type":"a","payload":{"a":[1,2,9007199254740993]}}', "payload.a[2]"),
    "payload is a list": ("/v1/tasks", b'{%s"type":"a","payload":[1]}', "payload"),
    "type is a list": ("/v1/tasks", b'{%s"type":["a"]}', "type"),
    "type is an object": ("/v1/tasks", b'{%s"type":{"a":1}}', "type"),
    "metadata is a list": ("/v1/tasks", b'{%s"type":"a","metadata":["x"]}', "metadata"),
    "metadata of numbers": ("/v1/tasks", b'{%s"type":"a","metadata":{"a":1}}', 'metadata["a"]'),
    "workspace is a query": ("/v1/auth/token", b'{%s"workspace_id":{"$ne":1},"workspace_secret":"x"}', "workspace_id"),
    "workspace is no text": ("/v1/auth/token", b'{%s"workspace_id":"\\ud800"}', "workspace_id"),
}


@pytest.mark.parametrize("before", [b"", LONG], ids=["short", "long"])
@pytest.mark.parametrize("name", NAMED)
def test_the_field_is_named(stack: StackInfo, bearer: Headers, name: str, before: bytes) -> None:
    """A fault names its field, however long the body is and whether it says its length or not."""
    target, template, field = NAMED[name]
    if target == "/v1/auth/token":  # takes 64 KiB
        before = before and b" " * 60_000
    body = template.replace(b"%s", before)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    in_chunks = [*bearer, *JSON, ("transfer-encoding", "chunked")]
    for answer in (
        exchange(stack.rest_url, "POST", target, [*bearer, *JSON], body),
        exchange(stack.rest_url, "POST", target, in_chunks, chunked, sized=False),
    ):
        error = judge(answer)
        assert error
        assert (error["code"], fields_named(error)) == ("INVALID_ARGUMENT", [field])


def test_an_object_in_a_map(stack: StackInfo, bearer: Headers) -> None:
    """A map's value that is an object is refused by the map's name."""
    body = b'{"type":"a","metadata":{"a":{"b":"c"}}}'
    error = judge(exchange(stack.rest_url, "POST", "/v1/tasks", [*bearer, *JSON], body))
    assert error
    assert error["code"] == "INVALID_ARGUMENT"
    assert fields_named(error)[0].startswith("metadata")


TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
"""Any code points, lone surrogates among them: JSON spells them by escapes."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


def known_fields(template: str) -> Sequence[str]:
    """Names of the fields of the route's request."""
    names = [method.name for method in view.methods() if any(known == template for _, known in method.routes)]
    requests = [descriptor_pool.Default().FindMethodByName(name.replace("/", ".")).input_type for name in names]
    return [field.name for request in requests for field in request.fields]


def fields(template: str) -> st.SearchStrategy[str]:
    """The same, and names that are none."""
    known = known_fields(template)
    return st.sampled_from([*known, *(f"{name}.a" for name in known), "access_token"]) | TEXT


@pytest.mark.parametrize(("verb", "template"), WRITES)
@QUICK
@given(data=st.data())
def test_any_json(
    stack: StackInfo,
    bearer_for: Callable[[str], Headers],
    verb: str,
    template: str,
    data: st.DataObject,
) -> None:
    """Whatever JSON is sent is refused in the one shape, or accepted.

    By turns with fields that are none, which one filter refuses alike on every route before it looks at others.
    """
    named = fields(template) if share([template], (verb, template)) else st.sampled_from(known_fields(template))
    sent = data.draw(st.dictionaries(named, VALUES, min_size=1, max_size=4) | VALUES)
    headers = [*bearer_for(template), *JSON]
    judge(exchange(stack.rest_url, verb, fill(template), headers, json.dumps(sent).encode()))


@settings(QUICK, max_examples=32)
@given(payload=st.dictionaries(TEXT, VALUES, min_size=1, max_size=3), metadata=st.dictionaries(TEXT, TEXT, max_size=2))
def test_any_task(rest: Rest, stack: StackInfo, payload: dict[str, Any], metadata: dict[str, str]) -> None:
    """Whatever a task is made of, it is refused in the one shape, or accepted: then it can be read."""
    sent = {"type": "nobody_takes_this", "payload": payload, "metadata": metadata}
    headers = [("authorization", f"Bearer {rest.token}"), *JSON]
    answer = exchange(stack.rest_url, "POST", "/v1/tasks", headers, json.dumps(sent).encode())
    if judge(answer) is None:
        rest.get(json.loads(answer.body)["task_id"])


@pytest.mark.parametrize(("verb", "template"), WRITES)
@QUICK
@given(body=st.binary(max_size=300))
def test_any_bytes(
    stack: StackInfo, bearer_for: Callable[[str], Headers], verb: str, template: str, body: bytes
) -> None:
    """Bytes that are no JSON are refused in the one shape."""
    judge(exchange(stack.rest_url, verb, fill(template), [*bearer_for(template), *JSON], body))


@pytest.mark.parametrize(("method", "template"), ROUTES)
@QUICK
@given(data=st.data())
def test_any_query(stack: StackInfo, bearer: Headers, method: str, template: str, data: st.DataObject) -> None:
    """Query parameters that are unknown, of the wrong type, repeated or malformed are refused, or do no harm."""
    text = st.text(max_size=8) | st.sampled_from(["1", "-1", "1e999", "9" * 25, "%2F", "%zz", "%ff", "+", "null", ""])
    pairs = data.draw(st.lists(st.tuples(fields(template), text), max_size=3))
    query = "&".join(f"{name}={value}" for name, value in pairs)
    # Where a request line ends is another test's matter.
    raw = re.sub(r"[\s\0-\x1f]", "_", query.encode("latin-1", "replace").decode("latin-1"))
    quoted = urllib.parse.quote(query, safe="&=", errors="replace")
    target = f"{fill(template)}?{data.draw(st.sampled_from([raw, quoted]))}"
    judge(exchange(stack.rest_url, method, target, [*bearer, *JSON], b"{}" if method == "POST" else None))


HEADERS: Headers = [
    *(("x-workspace-id", "ws-demo"), ("X-Workspace-ID", "ws-demo"), ("x_workspace_id", "ws-demo")),
    *(("x-openmcp-local-reply", "200 GET x"), ("x-openmcp-end-of-stream", "1"), ("x-jwt-payload", "e30=")),
    *(("x-envoy-upstream-rq-timeout-ms", "1"), ("x-envoy-original-path", "/v1/tasks"), ("x-envoy-max-retries", "9")),
    *(("grpc-timeout", "1n"), ("grpc-timeout", "soon"), ("grpc-encoding", "gzip"), ("grpc-status", "13"), ("te", "x")),
    *(("content-type", "application/grpc"), ("content-type", "application/grpc-web"), ("content-type", "text/plain")),
    *(("content-type", ""), ("content-type", "application/json; charset=utf-16"), ("content-type", "multipart/x")),
    *(("content-encoding", "gzip"), ("content-encoding", "br"), ("accept", "application/xml"), ("accept", "")),
    *(("transfer-encoding", "gzip"), ("upgrade", "websocket"), ("upgrade", "h2c"), ("expect", "100-continue")),
    *(("expect", "200-maybe"), ("host", "evil.example"), ("range", "bytes=0-1"), ("if-none-match", "*")),
    *(("authorization", "Basic eDp5"), ("authorization", "Bearer"), ("authorization", "Bearer a b"), ("cookie", "a=b")),
    *(("authorization", "Bearer \xff\xfe"), ("authorization", "Bearer " + "a." * 3000), ("last-event-id", "\xff")),
    *(("last-event-id", "9" * 3000), ("traceparent", "00-zz"), ("traceparent", "\xff"), ("x-request-id", "r" * 2000)),
    *(
        ("x-request-id", "a\tb"),
        ("x-http-method-override", "DELETE"),
        ("x-forwarded-proto", "gopher"),
        ("a", "b" * 9000),
    ),
    *(("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=unknown"), ("content-length", "-1"), ("trace-bin", "%%%")),
    ("a", "b" * 9000),
]


@pytest.mark.parametrize(("method", "template"), ROUTES)
@pytest.mark.parametrize("signed_in", [True, False])
def test_odd_headers(stack: StackInfo, bearer: Headers, method: str, template: str, *, signed_in: bool) -> None:
    """No header makes a route answer in another way than by its own answer, or by an error in the one shape.

    The routes take turns, with a token and without.
    """
    body = b"{}" if method == "POST" else None
    for header in share(HEADERS, (method, template), int(signed_in)):
        name = header[0].lower()
        others = [known for known in (*(bearer if signed_in else ()), *JSON) if known[0] != name]
        answer = exchange(stack.rest_url, method, fill(template), [*others, header], body)
        judge(answer, method)
    if signed_in:
        many = [(f"x-{n}", "v") for n in range(150)]
        judge(exchange(stack.rest_url, method, fill(template), [*bearer, *JSON, *many], body), method)


@pytest.mark.parametrize("name", ["x-workspace-id", "X-WORKSPACE-ID", "x-workspace", "workspace_id", "x_workspace_id"])
def test_identity_is_the_tokens(stack: StackInfo, rest: Rest, demo: Rest, name: str) -> None:
    """No header gives a caller another workspace than its token's."""
    task_id = rest.submit("echo", {})
    claim = [("authorization", f"Bearer {demo.token}"), (name, rest.workspace_id)]
    error = judge(exchange(stack.rest_url, "GET", f"/v1/tasks/{task_id}", claim))
    assert error
    assert error["code"] in ("TASK_NOT_FOUND", "MALFORMED_REQUEST")


POSTS = [template for method, template in ROUTES if method == "POST"]


# Far over the limit, one route stands for all: it is one filter that counts, and knows of no route.
@pytest.mark.parametrize(
    ("template", "size"), [*((template, 4 * 2**20 + 1) for template in POSTS), ("/v1/tasks", 16 * 2**20)]
)
def test_huge_body(stack: StackInfo, bearer: Headers, template: str, size: int) -> None:
    """A body over the limit is refused, whether it says its size or not."""
    body = b'{"type":"echo","payload":{"a":"' + b"x" * (size - 34) + b'"}}'
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    chunked = [*bearer, *JSON, ("transfer-encoding", "chunked")]
    for answer in (
        exchange(stack.rest_url, "POST", fill(template), [*bearer, *JSON], body),
        exchange(stack.rest_url, "POST", fill(template), chunked, chunks, sized=False),
    ):
        error = judge(answer)
        assert error
        assert error["code"] in ("REQUEST_TOO_LARGE", "INVALID_ARGUMENT"), error
        assert fields_named(error)
