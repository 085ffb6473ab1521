"""API9:2023 Improper Inventory Management: what is described, served, routed and documented is one set."""

import base64
import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2
from security.access import NEEDS
from security.conftest import People
from support.doors import Grpc, Rest, bearer, route, told
from support.methods import METHODS

from openmcp_chain.domain import errors
from openmcp_chain.stack.envoy import routes, view

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto/openmcp/chain/v1"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
CONTRACT = sorted(path for path in METHODS if path.startswith("/openmcp."))


def described() -> set[str]:
    """The methods that the contract's own text has."""
    found = set()
    for file in PROTO.glob("*.proto"):
        service = ""
        for line in file.read_text().splitlines():
            if match := re.match(r"service (\w+)", line):
                service = match[1]
            if match := re.match(r"  rpc (\w+)\(", line):
                found.add(f"/openmcp.chain.v1.{service}/{match[1]}")
    return found


def test_what_is_described_is_served(native: Grpc) -> None:
    """The server's own word, by reflection, names the services of the contract, health and itself; no others."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = native.call(REFLECTION, request).body
    served = {one["name"] for one in answer["list_services_response"]["service"]}
    assert served == {path.strip("/").partition("/")[0] for path in METHODS}
    assert described() == set(CONTRACT) == {path for path in NEEDS if path.startswith("/openmcp.")}


def test_what_reflection_tells_is_what_is_served(native: Grpc) -> None:
    """Every method that reflection describes is one with a line of who may call it."""
    found = set()
    for name in {path.strip("/").partition("/")[0] for path in CONTRACT}:
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
        (answer,) = native.call(REFLECTION, request).body
        for data in answer["file_descriptor_response"]["file_descriptor_proto"]:
            file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(data))
            found |= {f"/{file.package}.{s.name}/{m.name}" for s in file.service for m in s.method}
    assert found == set(CONTRACT)


def test_what_is_served_is_routed() -> None:
    """Envoy's routes are those of the contract's methods, of health and of reflection; each has its method."""
    table = routes.table(view.methods(), routes.Limits(1 << 20, 1.0, 2.0))
    names = {one["name"] for one in table if "route" in one}
    grpc = {f"grpc:{path.strip('/')}" for path in METHODS if not path.endswith("/List")}
    rest = {f"rest:{found[0]} {found[1]}" for path in CONTRACT if (found := route(path))}
    assert names == grpc | rest | {"grpc:unknown"}


@pytest.mark.parametrize("path", CONTRACT)
def test_what_is_routed_is_documented(path: str) -> None:
    """docs/rest.md names each method that REST has, beside its path."""
    found = route(path)
    if found is None:
        return
    verb, template, _ = found
    text = (ROOT / "docs/rest.md").read_text()
    name = path.rpartition("/")[2]
    (line,) = [one for one in text.splitlines() if one.startswith("| `") and re.search(rf"\b{name}\b", one)]
    call = line.split(" | ")[0]
    start, _, action = template.partition(":")
    assert f"`{verb}" in call
    assert start in call
    assert f":{action}" in call or not action


def test_every_code_is_documented() -> None:
    """So is each code that a caller may meet."""
    text = (ROOT / "docs/errors.md").read_text()
    assert not [code for code in errors.TABLE if f"`{code}`" not in text]


@pytest.mark.parametrize(
    "target",
    [
        "/v0/tasks",
        "/v2/tasks",
        "/v1beta/tasks",
        "/v1alpha1/tasks",
        "/tasks",
        "/api/v1/tasks",
        "/internal/tasks",
        "/v1/admin",
        "/v1/users",
        "/v1/keys",
        "/v1/tasks:purge",
        "/v1/task",
        "/V1/tasks",
        "/v1",
    ],
)
def test_nothing_else_answers_by_rest(rest: Rest, people: People, target: str) -> None:
    """No older or newer version, no other spelling and no hidden path is there, for anybody."""
    for caller in (None, people.owner, people.administrator):
        for verb in ("GET", "POST"):
            headers = bearer(caller.token) if caller else []
            assert told(rest.http, verb, target, {} if verb == "POST" else None, headers).code in (
                "ROUTE_NOT_FOUND",
                "METHOD_NOT_ALLOWED",
            )


@pytest.mark.parametrize(
    "path",
    [
        "/openmcp.chain.v1.TaskService/DeleteTask",
        "/openmcp.chain.v1.AdminService/Anything",
        "/openmcp.chain.v2.TaskService/GetTask",
        "/openmcp.chain.v1alpha.TaskService/GetTask",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/grpc.admin.v1.Admin/Get",
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        "/",
    ],
)
def test_nothing_else_answers_by_grpc(native: Grpc, rest: Rest, people: People, path: str) -> None:
    """Nor any other service or version of one, such as gRPC's own for looking into a process."""
    for door in (native, rest.grpc):
        assert door.send(path, [b""], bearer(people.administrator.token)).code == "METHOD_NOT_FOUND"
