"""The Lua filter on more inputs than a running Envoy could be tried with."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa import luajit21

from openmcp_chain.stack import envoy
from openmcp_chain.stack.envoy import Address, Settings

LUA = luajit21.LuaRuntime()
LUA.execute(envoy.lua(Settings(listen=Address("127.0.0.1", 1), server=Address("127.0.0.1", 2), plans={})))
# What Envoy hands to the filter, as far as the filter uses it.
RESPOND = LUA.eval("""
function(given_headers, given_body, nulls)
  local headers = {
    get = function(_, name) return given_headers[name] end,
    getNumValues = function(_, name) return given_headers[name] and 1 or 0 end,
    replace = function(_, name, value) given_headers[name] = value end,
    remove = function(_, name) given_headers[name] = nil end,
  }
  local body = {
    length = function() return #given_body end,
    getBytes = function() return given_body end,
    setBytes = function(_, text) given_body = text; return #text end,
  }
  envoy_on_response({
    headers = function() return headers end,
    body = function() return body end,
    metadata = function() return { get = function() return nulls end } end,
    streamInfo = function()
      local metadata = { get = function() end }
      return { dynamicMetadata = function() return metadata end, downstreamSslConnection = function() end }
    end,
  })
  return given_headers[":status"], given_body
end
""")

SHOWN = LUA.eval("""
function(given_headers)
  local shown = {}
  local headers = { get = function(_, name) return given_headers[name] end }
  local metadata = { set = function(_, _, name, value) shown[name] = value end }
  envoy_on_request({
    headers = function() return headers end,
    streamInfo = function() return { dynamicMetadata = function() return metadata end } end,
  })
  return shown
end
""")
SECRET = "omcp_12345678_" + "s" * 43

TEXTS = st.sampled_from(["error", "result", '"error":""', '"result":{}', "\\", '\\"', "]}"]) | st.text(max_size=6)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=6,
)
STRUCTS = st.dictionaries(TEXTS, VALUES, max_size=3)


def respond(headers: dict[str, str], body: str, *, nulls: int | None = None) -> tuple[str, Any]:
    """The status and the JSON that the filter makes of a response."""
    status, text = RESPOND(LUA.table_from({"content-type": "application/json", **headers}), body, nulls)
    return status, json.loads(text)


def shown(**headers: str) -> dict[str, str]:
    """What of a request logs and traces may show."""
    return dict(SHOWN(LUA.table_from({name.replace("_", ":"): value for name, value in headers.items()})))


def shown_path(path: str) -> str:
    return shown(_path=path)["path"]


@given(result=STRUCTS | st.none(), error=TEXTS, payload=STRUCTS, ascii_only=st.booleans(), listed=st.booleans())
def test_nulls(
    result: dict[str, Any] | None, error: str, payload: dict[str, Any], ascii_only: bool, listed: bool
) -> None:
    """Of a task, or each of a list, exactly its own unset result and error become null; every other byte stays."""
    task: dict[str, Any] = {"task_id": "t", "status": "RUNNING", "submitted_at": "2024-01-01T00:00:00Z"}
    rest = {"type": "t", "payload": payload, "metadata": {"error": "", "result": ""}}
    printed = task | ({"result": result} if result is not None else {}) | {"error": error} | rest
    expected: Any = task | {"result": result, "error": error or None} | rest
    unset, shown_unset = task | {"error": ""} | rest, task | {"result": None, "error": None} | rest
    answer: Any = {"tasks": [printed, unset, printed], "next_page_token": ""} if listed else printed
    text = json.dumps(answer, separators=(",", ":"), ensure_ascii=ascii_only)
    _, shown = respond({":status": "200"}, text, nulls=3 if listed else 1)
    assert shown == ({"tasks": [expected, shown_unset, expected], "next_page_token": ""} if listed else expected)


@given(message=TEXTS, details=st.lists(VALUES, max_size=3), ascii_only=st.booleans())
def test_server_errors(message: str, details: list[Any], ascii_only: bool) -> None:
    """Of any status with our Error first, code, message and the other details are shown, none of them changed."""
    ours = {"@type": "type.googleapis.com/openmcp.chain.v1.Error", "code": "TASK_NOT_FOUND", "message": message}
    status = {"code": 5, "message": message, "details": [ours, *details]}
    text = json.dumps(status, separators=(",", ":"), ensure_ascii=ascii_only)
    http, shown = respond({":status": "404"}, text)
    assert http == "404"
    expected = {"code": "TASK_NOT_FOUND", "message": message} | ({"details": details} if details else {})
    assert shown == {"error": expected}


@given(text=st.text())
def test_any_other_body_is_replaced(text: str) -> None:
    """An error whose body is not ours says nothing of that body."""
    http, shown = respond({":status": "502"}, text)
    assert (http, shown["error"]["code"]) == ("500", "INTERNAL")


@pytest.mark.parametrize(
    ("mark", "http", "code"),
    [
        ("401 GET jwt_authn_access_denied{Jwt_is_missing}", "401", "TOKEN_MISSING"),
        ("403 GET jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}", "401", "TOKEN_INVALID"),
        ("401 GET jwt_authn_access_denied{Jwks_remote_fetch_is_failed}", "503", "UPSTREAM_UNAVAILABLE"),
        ("408 GET request_overall_timeout", "408", "DEADLINE_EXCEEDED"),
        ("400  http1.codec_error", "400", "MALFORMED_REQUEST"),
        ("426 GET low_version", "400", "MALFORMED_REQUEST"),
        ("500 GET something_new", "500", "INTERNAL"),
        ("504 GET response_timeout", "504", "DEADLINE_EXCEEDED"),
    ],
)
def test_own_replies(mark: str, http: str, code: str) -> None:
    """Each reply of Envoy's own becomes the error that fits, and none keeps Envoy's words."""
    status, shown = respond({":status": mark[:3], "x-openmcp-local-reply": mark}, "upstream reset: secrets")
    assert (status, shown["error"]["code"]) == (http, code)
    assert "secrets" not in json.dumps(shown)


@pytest.mark.parametrize("path", ["/a" * 120_000, "/" + "a:" * 120_000, "/" + "a" * 240_000, "/a?" + "/a" * 120_000])
def test_little_of_a_long_path_is_shown_or_looked_at(path: str) -> None:
    """Before any limit counts, a stranger's path may have 256 KiB: neither logs nor the thread get that much of it."""
    assert len(shown_path(path)) <= 1024 + len("...")
    assert shown_path("/v1/tasks/x?y") == "/v1/tasks/x"
    assert shown_path("/v1/tasks/\x7fé") == "/v1/tasks/???"


@given(st.integers(950, 1030), st.sampled_from(["a", "/", "a/", "?"]))
def test_no_cut_shows_a_secrets_beginning(before: int, filler: str) -> None:
    """Wherever in a path a secret is put, no more of it is shown than that it is one."""
    path = "/v1/" + (filler * before)[:before] + "/" + SECRET
    assert SECRET[:9] not in shown_path(path)
    assert SECRET[:9] not in shown_path(path + "/events")


TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "", "get", "G T", "G" * 17, SECRET])
def test_a_method_is_shown_if_it_is_one(method: str) -> None:
    """Any other is called as OpenTelemetry calls it."""
    assert shown(_method=method)["method"] == (method if method in ("GET", "OPTIONS") else "_OTHER")


@pytest.mark.parametrize(
    "traceparent",
    [
        *("", TRACE_ID, "-".join(["00", "x" * 32, "b" * 16, "01"]), "-".join(["00", "a" * 33, "b" * 15, "01"])),
        *("-".join(["00", TRACE_ID, "b" * 16, "01", "x"]), ("Bearer " + SECRET)[:55]),
    ],
)
def test_a_trace_is_shown_if_it_has_the_form(traceparent: str) -> None:
    """By its id; of anything else, nothing."""
    assert "trace_id" not in shown(traceparent=traceparent)
    assert shown(traceparent=f"00-{TRACE_ID}-{'b' * 16}-01")["trace_id"] == TRACE_ID
