"""What `envoy/json.lua` finds wrong with a request, on more inputs than a running Envoy could be tried with."""

import json
import math
import re
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st
from lupa import luajit21

from openmcp_chain import structs
from openmcp_chain.stack import envoy

# Bytes in, bytes out: what Envoy hands to the filter, as far as the filter uses it.
LUA = luajit21.LuaRuntime(encoding=None)
# LuaJIT takes some 50 us for a number such as 1e300: a body of them would hold Envoy for half a minute.
LUA.execute(b"""
local number_of = tonumber
function tonumber(text, base)
  assert(type(text) ~= "string" or not text:find("[eE][+-]?%d%d%d"), "a costly number")
  return number_of(text, base)
end
""")
REQUEST = LUA.execute(
    envoy.request_lua().encode()
    + b"""
return function(json, message, path, in_path)
  local route = { message = message, has_body = json ~= nil, in_path = { [in_path] = true } }
  local found
  envoy_on_request({
    metadata = function() return { get = function(_, name) return route[name] end } end,
    headers = function() return { get = function() return path end } end,
    body = function() return { length = function() return #json end, getBytes = function() return json end } end,
    streamInfo = function()
      return { dynamicMetadata = function() return { set = function(_, _, _, fault) found = fault end } end }
    end,
    respond = function(_, headers) assert(headers[":status"] == "400" and found) end,
  })
  if found then
    return found.field, found.wrong
  end
end
"""
)
PACKAGE = "openmcp.chain.v1"
FITS = (None, None)


def judged(
    text: str | bytes | None, message: str = "SubmitTaskRequest", path: str = "/", in_path: str = "-"
) -> tuple[str | None, str | None]:
    """The path and the sentence of a request's fault, if the filter refuses it."""
    data = text.encode() if isinstance(text, str) else text
    found = REQUEST(data, f"{PACKAGE}.{message}".encode(), path.encode(), in_path.encode())
    return (found[0].decode(), found[1].decode()) if found else FITS


def strict(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(number)
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError(pairs)
    return dict(pairs)


def is_json(text: str) -> bool:
    """Whether Python, made strict, reads it as JSON that UTF-8 and doubles can hold, with no name twice."""
    try:
        read = json.loads(text, parse_float=strict, parse_constant=strict, parse_int=strict, object_pairs_hook=once)
        json.dumps(read, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


LEAVES = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
STRUCTS = st.dictionaries(st.text(max_size=3), VALUES, max_size=3)
MAPS = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3)


@given(payload=STRUCTS | st.none(), metadata=MAPS | st.none(), batch=st.booleans(), data=st.data())
def test_nothing_is_wrong(
    payload: dict[str, Any] | None, metadata: dict[str, str] | None, data: st.DataObject, *, batch: bool
) -> None:
    """A request that fits has no fault, however it is written; so is each one of a batch."""
    body: dict[str, Any] = {
        "type": "a",
        "payload": payload,
        "metadata": metadata,
        "labels": metadata,
        "priority": 1,
        "conflict_policy": "FAIL",
        "schedule_time": "2024-01-01T00:00:00Z",
        "retention": "3s",
        "retry_policy": {"backoff_coefficient": 1.5, "maximum_attempts": "3", "non_retryable_error_codes": ["A"]},
    }
    indent, ascii_only = data.draw(st.sampled_from([None, 1])), data.draw(st.booleans())
    if batch:
        body = {"requests": [body, body]}
    text = json.dumps(body, indent=indent, ensure_ascii=ascii_only)
    assert judged(text, "BatchSubmitTasksRequest" if batch else "SubmitTaskRequest") == FITS


PIECES = st.sampled_from(
    [
        *("{", "}", "[", "]", ":", ",", '"', " ", '"a"', '"b":', '{"a":1,', "[1,2]", "'a'", "é", "true", "nul", "\n"),
        *("1", "-", "0", "01", ".5", "1.", "1e5", "e9", "1e999", "NaN", "\\", '"\\ud800"', '"\\ud83d\\udca9"', '"\\x"'),
        *('"\x01"', '"\\u00e9"', '"\\"', '"\\\\"', "-1.5E-3", "1E+", '"\\u00g0"', '"\\u1"', '{"a\0":1}', '"\x7f"'),
    ]
)


@given(pieces=st.lists(PIECES, max_size=6))
def test_it_knows_json(pieces: list[str]) -> None:
    """What Python, made strict, does not read as JSON has a fault; all else has none."""
    text = f'{{"payload":{{"a":[{"".join(pieces)}]}}}}'
    assert (judged(text) == FITS) == is_json(text)


KEYS = st.text('ab\\"/\n\u00e9\U0001f4a9', max_size=2)
OBJECTS = st.recursive(
    st.just("1"),
    lambda inner: st.lists(st.tuples(KEYS, st.booleans(), inner), max_size=3).map(
        lambda members: f"{{{','.join(f'{json.dumps(k, ensure_ascii=a)}:{value}' for k, a, value in members)}}}"
    ),
    max_leaves=6,
)


@given(value=OBJECTS)
def test_names_are_there_once(value: str) -> None:
    """A name that an object has twice is a fault, at any depth and in whatever spelling; in two objects, it is none."""
    text = f'{{"payload":{{"x":{value}}}}}'
    assert (judged(text) == FITS) == is_json(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"payload":{"x":1,"x":2}}', "payload.x"),
        ('{"payload":{"y":1,"a":{"x":1,"x":2}}}', "payload.a.x"),
        ('{"payload":{"a":[{"x":1},{"x":1,"y":{"x":1},"x":2}]}}', "payload.a[1].x"),
        ('{"payload":{"x\\/":1,"\\u0078/":2}}', "payload.\\u0078/"),
        ('{"payload":{"\U0001f4a9":1,"\\ud83d\\udca9":2}}', "payload.\\ud83d\\udca9"),
        ('{"payload":{"\\\\u0078":1,"x":1,"\\\\u0078":2}}', "payload.\\\\u0078"),
        ('{"metadata":{"x":"1","x":"2"}}', 'metadata["x"]'),
        ('{"payload":{},"type":"a","payload":{}}', "payload"),
        ('{"retry_policy":{"maximum_attempts":1,"maximum_attempts":1}}', "retry_policy.maximum_attempts"),
    ],
)
def test_a_name_twice(text: str, path: str) -> None:
    """The name is told, as it was written the second time."""
    assert judged(text) == (path, "is there twice")


@given(number=st.integers(-(10**40), 10**40) | st.integers(-(2**65), 2**65) | st.integers(2**53 - 9, 2**53 + 9))
@pytest.mark.parametrize("place", ["[%s]", '{"x":%s}', "[1, %s ,2]", '["%s\\"",%s]', "%s.0", "%s.000"])
def test_integers_are_exact(number: int, place: str) -> None:
    """An integer in the payload passes if and only if a double is that integer."""
    value = place.replace("%s", str(number))
    path, wrong = judged(f'{{"payload":{{"a":{value}}}}}')
    assert (path is not None) == (int(float(number)) != number)
    if path is not None:
        assert path.startswith("payload.a")
        assert "integer that a double" in (wrong or "")


@given(
    digits=st.from_regex(r"(0|[1-9][0-9]{0,24})(\.[0-9]{1,22})?", fullmatch=True),
    exponent=st.none() | st.integers(-420, 420) | st.integers(-20, 20),
)
def test_numbers_are_kept(digits: str, exponent: int | None) -> None:
    """A number is a finite double, and 0 only if it says so; one that says an integer is not changed into another.

    With an exponent, a double that shows the same digits is good enough; it would have to be exact beyond 17 of them,
    and need not be at all with so many zeros that no double is.
    """
    number = digits + (f"e{exponent}" if exponent is not None else "")
    said, double = Decimal(number), float(number)
    kept = math.isfinite(double) and (double != 0 or said == 0)
    if kept and said and said == said.to_integral_value():
        significant = digits.replace(".", "").strip("0")
        zeros = said.adjusted() + 1 - len(significant)
        shown = f"{double:.{len(significant) - 1}e}" if exponent is not None and len(significant) <= 17 else double
        kept = Decimal(shown) == said or (exponent is not None and len(significant) <= 17 and zeros > 22)
    assert (judged(f'{{"payload":{{"a":-{number}}}}}') == FITS) == kept


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        *(("9007199254740993", False), ("9007199254740993.0", False), ("9007199254740993e0", False)),
        *(("900719925474099.3E1", False), ("12345678901234567890.", False), ("1e-400", False), ("1e400", False)),
        *(("9007199254740992.0", True), ("6.02214076e23", True), ("1.7976931348623157e+308", True), ("5e-324", True)),
        *(("0.12345678901234567890", True), ("0e999", True), ("1e23", True), ("100000000000000000000000", False)),
        *(("90071992547409921e22", False), ("90071992547409921e23", True), ("900719925474099211e23", False)),
        *(("1.7976931348623158e308", True), ("1.7976931348623159e308", False), ("0.17976931348623159e309", False)),
        *(("2.4703282292062327209e-324", True), ("2.4703282292062327208e-324", False)),
        *(("2.4703282292062328e-324", True), ("2.4703282292062327e-324", False), ("0.00024703282292062328e-320", True)),
        *(("1" + "0" * 400 + "e-400", True), ("0." + "0" * 400 + "1e401", True), ("0." + "0" * 330 + "1", False)),
        *((str(2**1023), True), (str(2**1023 + 2), False), ("1" * 310, False), ("1e" + "0" * 400 + "1", True)),
        *(("1e" + "9" * 400, False), ("1e-" + "9" * 400, False), ("0e" + "9" * 400, True)),
    ],
)
def test_numbers(number: str, kept: bool) -> None:
    """By example."""
    assert (judged(f'{{"payload":{{"a":{number}}}}}') == FITS) == kept


def test_the_end_of_doubles() -> None:
    """Up to its twentieth digit: a number that would be infinite is told so, and one before it that it is not exact."""
    for number, wrong in (
        ("1.7976931348623158078e308", "is an integer that"),
        ("1.7976931348623158079e308", "is not a"),
    ):
        assert (judged(f'{{"payload":{{"a":{number}}}}}')[1] or "").startswith(wrong)


@pytest.mark.parametrize("number", ["0.1%s1", "1%s.5", "1%s1e-200000", "0.%s1e200000", "1e%s1", "1.%s"])
def test_a_number_is_read_in_one_pass(number: str) -> None:
    """A number of 200 KB is read at once: by a pattern that looks again at each digit it would take five minutes."""
    assert judged(f'{{"payload":{{"a":{number.replace("%s", "0" * 200_000)}}}}}')[1] in {
        None,
        "is not a finite number, which JSON can't hold",
    }


@given(number=st.integers(10**15, 10**30), around=st.text(max_size=40))
def test_digits_in_text_are_no_integers(number: int, around: str) -> None:
    """Digits inside a string are never refused."""
    text = f"{around} {number}, {number}"
    assert judged(json.dumps({"metadata": {text: text}, "payload": {text: [text, str(number)]}})) == FITS


@pytest.mark.parametrize(
    "value",
    [b"\xff", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xe2\x82"],
)
def test_not_utf8(value: bytes) -> None:
    """Text that is not UTF-8 is a fault of its field; a surrogate's and an overlong encoding are not UTF-8."""
    assert judged(b'{"type":"a","payload":{"b":"' + value + b'"}}') == ("payload.b", "is not UTF-8")


@pytest.mark.parametrize(
    ("message", "before", "path", "after"),
    [
        ("SubmitTaskRequest", "", "payload", ""),
        ("BatchSubmitTasksRequest", '{"requests":[{},', "requests[1].payload", "]}"),
        ("CompleteTaskRequest", "", "result", ""),
    ],
)
@pytest.mark.parametrize("levels", [32, 33])
def test_levels(message: str, before: str, path: str, after: str, levels: int) -> None:
    """A payload is as deep as the server allows, and no deeper, wherever it is in the request."""
    text = f'{before}{{"{path.rpartition(".")[2]}":' + '{"a":' * levels + "1" + "}" * levels + "}" + after
    assert judged(text, message) == (FITS if levels == 32 else (path, "is nested deeper than 32 levels"))


@pytest.mark.parametrize(
    ("text", "path", "wrong"),
    [
        ('{"payloda":{}}', "payloda", "this call has no such field"),
        ('{"workspaceId":"a"}', "workspaceId", "this call has no such field"),
        ('{"retry_policy":{"max":1}}', "retry_policy.max", "this call has no such field"),
        ('{"a b":1}', "request", "has a field that this call does not have"),
        ('{"retry_policy":{"\u00e9":1}}', "retry_policy", "has a field that this call does not have"),
        ('{"metadata":{"a":null}}', 'metadata["a"]', "must be a string"),
        ('{"labels":["a"]}', "labels", "must be an object of strings"),
        ('{"priority":true}', "priority", "must be an integer"),
        ('{"conflict_policy":[]}', "conflict_policy", "must be one of its names, as a string"),
        ('{"retention":5}', "retention", 'must be a duration as a string, such as "1.5s"'),
        ('{"schedule_time":0}', "schedule_time", 'must be a time as a string, such as "2024-01-01T00:00:00Z"'),
        ('{"retry_policy":[]}', "retry_policy", "must be an object"),
        (
            '{"retry_policy":{"non_retryable_error_codes":"a"}}',
            "retry_policy.non_retryable_error_codes",
            "must be a list",
        ),
        (
            '{"retry_policy":{"non_retryable_error_codes":["a",null]}}',
            "retry_policy.non_retryable_error_codes[1]",
            "must be a string",
        ),
        ('{"retry_policy":{"backoff_coefficient":1e999}}', "retry_policy.backoff_coefficient", None),
    ],
)
def test_the_contracts_fields(text: str, path: str, wrong: str | None) -> None:
    """A field that the call doesn't have, or of another kind, is named, inside of messages too."""
    found = judged(text)
    assert found[0] == path
    assert wrong in (None, found[1])


@pytest.mark.parametrize(
    ("message", "text", "field", "around"),
    [
        ("SubmitTaskRequest", '{"payload":{"a":[%s]}}', "payload", 5),
        ("BatchSubmitTasksRequest", '{"requests":[{},{"payload":{"a":[%s]}}]}', "requests", 9),
    ],
)
@pytest.mark.parametrize(("value", "counts"), [("[]", 1), ('{"":1}', 3)])
def test_how_many_values(message: str, text: str, field: str, around: int, value: str, counts: int) -> None:
    """Values and names are counted, all of a request; with one too many, the field they are in is named."""
    most = (envoy.VALUES - around) // counts
    assert judged(text % ",".join([value] * most), message) == FITS
    wrong = f"has more than the {envoy.VALUES} values and names that a request may have in all"
    assert judged(text % ",".join([value] * (most + 1)), message) == (field, wrong)


@pytest.mark.parametrize(("value", "size"), [("[]", 4), ('{"":null}', 12)])
def test_no_payload_has_too_many_values(value: str, size: int) -> None:
    """What the server takes as a payload, of the smallest values there are, REST can say."""
    one, two = (json_format.Parse(f'{{"a":[{text}]}}', Struct()) for text in (value, f"{value},{value}"))
    assert two.ByteSize() - one.ByteSize() == size
    assert judged(f'{{"type":"a","payload":{{"a":[{",".join([value] * (structs.BYTES // size))}]}}}}') == FITS


def test_the_path_names_a_field() -> None:
    """What the path says can't be said again in the body, nor by the query, where it would win."""
    wrong = "is named by the path, and cannot be in the "
    assert judged('{"task_id":"y"}', "CancelTaskRequest", in_path="task_id") == ("task_id", wrong + "body too")
    for query in ("task_id=y", "task%5fid=y", "%74ask_i%64=y", "view=FULL&task_id", "task_id"):
        assert judged(None, "GetTaskRequest", f"/v1/tasks/x?{query}", "task_id") == ("task_id", wrong + "query too")


@pytest.mark.parametrize(
    ("path", "message", "found"),
    [
        ("/v1/tasks?filter=a%26b&page_size=5&&", "ListTasksRequest", FITS),
        ("/v1/tasks?", "ListTasksRequest", FITS),
        ("/v1/tasks:batchGet?task_ids=a&task_ids=b", "BatchGetTasksRequest", FITS),
        ("/v1/tasks?filter=a&filter=b", "ListTasksRequest", ("filter", "is there twice")),
        ("/v1/tasks?filter=a&f%69lter=b", "ListTasksRequest", ("filter", "is there twice")),
        ("/v1/tasks?nope=1", "ListTasksRequest", ("nope", "this call has no such field")),
        ("/v1/tasks?nope", "ListTasksRequest", ("nope", "this call has no such field")),
        ("/v1/tasks?n%00=1", "ListTasksRequest", ("n%00", "this call has no such field")),
        ("/v1/tasks?=1", "ListTasksRequest", ("request", "has a value without a name in its query")),
    ],
)
def test_queries(path: str, message: str, found: tuple[str | None, str | None]) -> None:
    """A query has fields of the call, each once but for lists."""
    assert judged(None, message, path) == found


def test_a_query_beside_a_body() -> None:
    """A call with a body takes all from there."""
    assert judged("{}", path="/v1/tasks?type=x") == ("type", "belongs into the body")
    assert judged("{}", path="/v1/tasks?x=x") == ("x", "this call has no such field")


def test_no_body() -> None:
    """No body at all is as good as an empty object; blanks are not."""
    assert judged("", "RetryTaskRequest") == FITS
    assert judged(" ", "RetryTaskRequest") == ("request", "ends too soon to be JSON")


def test_every_message_is_known() -> None:
    """Of every message that a request may hold, the filter knows the fields."""
    known = dict(re.findall(r'^  \["([\w.]+)"\] = \{(.*)\},$', envoy.request_lua(), re.MULTILINE))
    assert f"{PACKAGE}.RetryPolicy" in known
    for kinds in known.values():
        for kind in re.findall(r'= "(?:\[\])?([\w.]+)"', kinds):
            assert "." not in kind or kind in known
