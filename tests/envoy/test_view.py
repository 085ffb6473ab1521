"""The REST view and the routes, against the contract that they are made from."""

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.stack import envoy
from openmcp_chain.stack.envoy import routes, view
from openmcp_chain.transport.server import ACCESS, STREAMS

LIMITS = routes.Limits(bytes=1000, seconds=1.0, stream_silence=2.0)
PROTO = Path(__file__).parents[2] / "proto"


def test_every_file_of_the_contract_is_there() -> None:
    """A new file of the contract cannot be forgotten."""
    assert {file.name for file in view.CONTRACT} == {str(p.relative_to(PROTO)) for p in PROTO.rglob("*.proto")}


def test_the_view_is_the_contract_on_the_wire() -> None:
    """But for names that never travel, the view's messages and methods equal the contract's, field by field."""
    shown = {file.name: file for file in view.descriptors().file}
    for file in view.CONTRACT:
        real = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(real)
        assert shown[file.name].message_type == real.message_type
        assert shown[file.name].service == real.service
        for mine, theirs in zip(shown[file.name].enum_type, real.enum_type, strict=True):
            assert [value.number for value in mine.value] == [value.number for value in theirs.value]


def test_the_view_is_complete() -> None:
    """Every file follows those that it imports, so that Envoy can load them in order."""
    pool = descriptor_pool.DescriptorPool()
    for file in view.descriptors().file:
        pool.AddSerializedFile(file.SerializeToString())
    status = pool.FindEnumTypeByName("openmcp.chain.v1.TaskStatus")
    assert [value.name for value in status.values] == [
        *("TASK_STATUS_UNSPECIFIED", "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")
    ]
    retry = pool.FindMessageTypeByName("google.rpc.RetryInfo")
    assert retry.fields_by_name["retry_delay"].json_name == "retry_delay"


def test_where_tasks_are_in_answers() -> None:
    """What `show_nulls` stands on: an answer that holds tasks says how deep they are; `result` is before `error`."""
    detail = tasks_pb2.TaskDetail.DESCRIPTOR
    names = [field.name for field in sorted(detail.fields, key=lambda field: field.number)]
    assert names.index("error") == names.index("result") + 1
    outputs = {
        method.full_name: method.output_type for method in tasks_pb2.DESCRIPTOR.services_by_name["TaskService"].methods
    }
    table = {route["name"]: route for route in routes.table(view.methods(), LIMITS)}
    for method in view.methods():
        answer = outputs.get(method.name.replace("/", "."))
        within = answer is not None and any(field.message_type is detail for field in answer.fields)
        for verb, template in method.routes:
            told = table[f"rest:{verb} {template}"]["metadata"]["filter_metadata"].get("envoy.filters.http.lua", {})
            assert told.get("nulls") == (1 if answer is detail else 3 if within else None)


def test_only_what_is_served_has_a_route() -> None:
    """What the server does not serve is left to it to refuse: no route of Envoy's says otherwise."""
    names = {route["name"] for route in routes.table(view.methods(), LIMITS) if "route" in route}
    routed = {name for name in names if name.startswith("grpc:")}
    assert routed - {f"grpc:{path[1:]}" for path in ACCESS} == {"grpc:unknown"}


def test_every_binding_has_a_route() -> None:
    """Each REST binding of the contract is routed, and each path refuses other methods."""
    names = {route["name"] for route in routes.table(view.methods(), LIMITS)}
    for method in view.methods():
        assert f"grpc:{method.name}" in names
        for verb, template in method.routes:
            assert {f"rest:{verb} {template}", f"rest:{template}"} <= names


def test_the_bulky_field_is_the_servers() -> None:
    """Whoever refuses a request that is too large, Envoy or the server, blames the same field."""
    for method in view.methods():
        assert method.bulky == (ACCESS[f"/{method.name}"].bulky or "request")


def test_requests_are_whole_and_bounded() -> None:
    """No gRPC route passes on what is not complete, but those whose caller streams; the open ones take little."""
    for route in routes.table(view.methods(), LIMITS):
        if not route["name"].startswith("grpc:") or "route" not in route:
            continue
        buffer = route["typed_per_filter_config"]["envoy.filters.http.buffer"]
        if route["name"].rpartition("/")[2] in ("Work", "ServerReflectionInfo"):
            assert buffer["disabled"]
        else:
            limit = routes.SMALL_BYTES if route["name"].removeprefix("grpc:") in routes.OPEN else LIMITS.bytes
            assert buffer["buffer"]["max_request_bytes"] == limit + routes.FRAME_BYTES


def test_a_stream_has_no_end_only_where_it_is_counted() -> None:
    """What the contract has no streams for, the server counts for no workspace: it ends as any other call does."""
    for route in routes.table(view.methods(), LIMITS):
        if "route" in route and route["name"].startswith("grpc:"):
            counted = any(method.streams and route["name"] == f"grpc:{method.name}" for method in view.methods())
            assert ("max_stream_duration" in route["route"]) is not counted, route["name"]


def test_a_connection_carries_less_than_the_server_takes() -> None:
    """Envoy never comes to the limit of a connection, where the server would refuse calls."""
    assert envoy.SERVER_STREAMS <= STREAMS // 2


def test_only_these_need_no_token() -> None:
    """A route without the check of tokens is one of the open methods', or refuses."""
    unchecked = [
        r for r in routes.table(view.methods(), LIMITS) if "jwt_authn" in str(r.get("typed_per_filter_config"))
    ]
    served = {route["name"] for route in unchecked if "route" in route}
    assert served == {
        "grpc:openmcp.chain.v1.AuthService/Authenticate",
        "grpc:openmcp.chain.v1.RestService/ServeJsonWebKeySet",
        "grpc:grpc.health.v1.Health/Check",
        "rest:POST /v1/auth/token",
        "rest:GET /.well-known/jwks.json",
    }
    assert {method.name for method in view.methods()} >= {name for name in routes.OPEN if "openmcp" in name}


@pytest.mark.parametrize(
    ("template", "matches", "others"),
    [
        ("/v1/tasks", ["/v1/tasks"], ["/v1/tasks/", "/v1/tasksx", "/v1xtasks"]),
        ("/v1/tasks/{task_id}", ["/v1/tasks/a", "/v1/tasks/a:b"], ["/v1/tasks/", "/v1/tasks/a/b"]),
        ("/v1/tasks/{task_id}:cancel", ["/v1/tasks/a:cancel"], ["/v1/tasks/a", "/v1/tasks/a:cancelled"]),
        ("/.well-known/jwks.json", ["/.well-known/jwks.json"], ["/xwell-known/jwks.json", "/.well-known/jwksxjson"]),
        ("/v1/files/**", ["/v1/files/a/b"], ["/v1/files/"]),
    ],
)
def test_patterns(template: str, matches: list[str], others: list[str]) -> None:
    """A path template matches what google/api/http.proto says."""
    pattern = routes.pattern(template)
    assert all(re.fullmatch(pattern, path) for path in matches)
    assert not any(re.fullmatch(pattern, path) for path in others)


def test_a_verb_goes_before_the_path_that_contains_it() -> None:
    """`/v1/tasks/{task_id}:cancel` is found before `/v1/tasks/{task_id}`, which matches it too."""

    def method(name: str, verb: str, path: str) -> view.Method:
        return view.Method(f"a.B/{name}", streams=False, routes=((verb, path),))

    table: list[dict[str, Any]] = routes.table(
        [method("Get", "GET", "/v1/tasks/{task_id}"), method("Cancel", "POST", "/v1/tasks/{task_id}:cancel")], LIMITS
    )
    names = [route["name"] for route in table]
    assert names.index("rest:POST /v1/tasks/{task_id}:cancel") < names.index("rest:GET /v1/tasks/{task_id}")
