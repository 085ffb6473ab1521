"""What `envoy/json.lua` finds wrong with a request, on more inputs than a running Envoy could be tried with."""

import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lupa import luajit21
from support.gateway import PLANS

from openmcp_chain.stack import envoy
from openmcp_chain.stack.envoy import Address, Settings

RENDERED = yaml.safe_load(
    envoy.render(Settings(listen=Address("127.0.0.1", 1), server=Address("127.0.0.1", 2), plans=PLANS))
)


def keep_body() -> str:
    """The source of the filter that reads bodies, as it is rendered."""
    (listener,) = RENDERED["static_resources"]["listeners"]
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    (source,) = [f["typed_config"]["default_source_code"] for f in filters if f["name"] == "keep_body"]
    text: str = source["inline_string"]
    return text


LUA = luajit21.LuaRuntime(encoding=None)
LUA.execute(keep_body().encode())
# Bytes in, bytes out: what Envoy hands to the filter, as far as the filter uses it.
REQUEST = LUA.execute(
    keep_body().encode()
    + b"""
return function(json)
  local refused = false
  local metadata = { set = function() end }
  envoy_on_request({
    metadata = function() return { get = function() return "openmcp.chain.v1.SubmitTaskRequest" end } end,
    body = function() return { length = function() return #json end, getBytes = function() return json end } end,
    streamInfo = function() return { dynamicMetadata = function() return metadata end } end,
    respond = function() refused = true end,
  })
  return refused, fault(json, FIELDS["openmcp.chain.v1.SubmitTaskRequest"])
end
"""
)


def judged(text: str | bytes) -> tuple[bool, str | None, str | None]:
    """Whether the request is refused before the transcoder sees it; the path and the sentence of its fault."""
    answer = REQUEST(text.encode() if isinstance(text, str) else text)
    refused, path, *wrong = answer
    return refused, path and path.decode(), wrong[0].decode() if wrong else None


def strict(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(number)
    return value


def is_json(text: str) -> bool:
    """Whether Python, made strict, reads it as JSON that UTF-8 and doubles can hold."""
    try:
        read = json.loads(text, parse_float=strict, parse_constant=strict, parse_int=strict)
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


@given(payload=STRUCTS, metadata=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3), data=st.data())
def test_nothing_is_wrong(payload: dict[str, Any], metadata: dict[str, str], data: st.DataObject) -> None:
    """A request that fits has no fault, however it is written."""
    body = {"type": "a", "payload": payload, "metadata": metadata, "later": payload}
    indent, ascii_only = data.draw(st.sampled_from([None, 1])), data.draw(st.booleans())
    assert judged(json.dumps(body, indent=indent, ensure_ascii=ascii_only)) == (False, None, None)


PIECES = st.sampled_from(
    [
        *("{", "}", "[", "]", ":", ",", '"', " ", '"a"', '"b":', '{"a":1,', "[1,2]", "'a'", "é", "true", "nul", "\n"),
        *("1", "-", "0", "01", ".5", "1.", "1e5", "e9", "1e999", "NaN", "\\", '"\\ud800"', '"\\ud83d\\udca9"', '"\\x"'),
        *('"\x01"', '"\\u00e9"', '"\\"', '"\\\\"', "-1.5E-3", "1E+"),
    ]
)


@given(pieces=st.lists(PIECES, max_size=6))
def test_it_knows_json(pieces: list[str]) -> None:
    """What Python, made strict, does not read as JSON has a fault; all else has none."""
    text = f'{{"later":[{"".join(pieces)}]}}'
    assert (judged(text)[1] is None) == is_json(text)


@given(number=st.integers(-(10**40), 10**40) | st.integers(-(2**65), 2**65) | st.integers(2**53 - 9, 2**53 + 9))
@pytest.mark.parametrize("place", ["[%s]", '{"x":%s}', "[1, %s ,2]", '["%s\\"",%s]'])
def test_integers_are_exact(number: int, place: str) -> None:
    """An integer in the payload passes if and only if a double is that integer."""
    value = place.replace("%s", str(number))
    refused, path, wrong = judged(f'{{"payload":{{"a":{value}}}}}')
    assert refused == (int(float(number)) != number)
    if refused:
        assert (path or "").startswith("payload.a")
        assert "2^53" in (wrong or "")


@given(number=st.integers(10**15, 10**30), around=st.text(max_size=40), metadata=st.booleans())
def test_digits_in_text_are_no_integers(number: int, around: str, *, metadata: bool) -> None:
    """Digits inside a string, or outside of the payload, are never refused."""
    text = f"{around} {number}, {number}"
    body = {"metadata": {text: text}, "other": number} if metadata else {"payload": {text: [text, str(number)]}}
    assert judged(json.dumps(body)) == (False, None, None)


@pytest.mark.parametrize("distance", range(40))
def test_every_place_is_looked_at(distance: int) -> None:
    """Wherever in the text an integer stands, it is found, behind others too that are exact."""
    text = f'{{"payload":{{"a":[{" " * distance}9007199254740992,9007199254740993]}}}}'
    assert judged(text)[:2] == (True, "payload.a[1]")


@pytest.mark.parametrize(
    "value",
    [b"\xff", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xe2\x82"],
)
def test_not_utf8(value: bytes) -> None:
    """Text that is not UTF-8 is a fault of its field; a surrogate's and an overlong encoding are not UTF-8."""
    assert judged(b'{"type":"a","payload":{"b":"' + value + b'"}}') == (False, "payload.b", "is not UTF-8")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"payload":{"x":1,"x":2}}', "payload.x"),
        ('{"payload":{"y":1,"a":{"x":1,"x":2}}}', "payload.a.x"),
        ('{"payload":{"a":[{"x":1},{"x":1,"y":{"x":1},"x":2}]}}', "payload.a[1].x"),
        ('{"metadata":{"x":"1","x":"2"}}', 'metadata["x"]'),
    ],
)
def test_a_key_twice(text: str, path: str) -> None:
    """A key that an object of a payload has twice is named, at any depth; the transcoder would name its own tree."""
    assert judged(text) == (False, path, "is there twice")


def test_a_key_in_several_objects() -> None:
    """The same key in another object, beside, inside or around, is another key."""
    text = '{"type":"a","payload":{"x":{"x":[{"x":1},{"x":2}]},"y":{"x":1}},"metadata":{"x":"1"},"type":"b"}'
    assert judged(text) == (False, None, None)


@pytest.mark.parametrize("levels", [32, 33])
def test_levels(levels: int) -> None:
    """A payload is as deep as the server allows, and no deeper."""
    text = '{"payload":' + '{"a":' * levels + "1" + "}" * levels + "}"
    assert judged(text)[1:] == ((None, None) if levels == 32 else ("payload", "is nested deeper than 32 levels"))
