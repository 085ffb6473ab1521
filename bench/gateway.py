"""Envoy before our server, on the configuration that `openmcp dev` gives it; or on the least, before any."""

import base64
import json
from pathlib import Path
from typing import Any

from bench.lab import Lab
from bench.openmcp import Served
from openmcp_chain import config
from openmcp_chain.stack import database, envoy, ports, probes
from openmcp_chain.stack.envoy import view


async def start(lab: Lab, served: Served) -> int:
    """Starts one; returns its port when a call with a token gets through it to the database."""
    (port,) = ports.choose({"Envoy's port": 0})
    settings = envoy.Settings(
        listen=envoy.Address(ports.HOST, port),
        server=envoy.Address.parse(served.target),
        plans=config.load_plans(served.environment),
    )
    _start(lab, envoy.write(settings, lab.folder))
    url = f"http://{ports.HOST}:{port}"
    await lab.until("envoy", probes.accepts_token(url, served.workspace, served.secret, None))
    return port


async def start_bare(lab: Lab, target: str) -> int:
    """Starts one that makes gRPC of REST and does nothing else, before the server at `target`; returns its port."""
    (port,) = ports.choose({"Envoy's port": 0})
    path = lab.folder / "envoy.json"
    path.write_text(json.dumps(_bare(port, envoy.Address.parse(target))))
    _start(lab, path)
    await lab.until("envoy", probes.accepts(f"{ports.HOST}:{port}"))
    return port


def _start(lab: Lab, path: Path) -> None:
    command = database.find("envoy")
    assert command, "the stack extra is not installed"
    lab.start("envoy", [command, *envoy.command(path)[1:]], {})


def _bare(port: int, server: envoy.Address) -> dict[str, Any]:
    def address(host: str, port: int) -> dict[str, Any]:
        return {"socket_address": {"address": host, "port_value": port}}

    def kind(name: str) -> dict[str, str]:
        return {"@type": f"type.googleapis.com/envoy.extensions.{name}"}

    transcoder = {
        **kind("filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder"),
        "proto_descriptor_bin": base64.b64encode(view.descriptors().SerializeToString()).decode(),
        "services": view.services(),
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "server"}}
    manager = {
        **kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "transcoder", "typed_config": transcoder},
            {"name": "router", "typed_config": kind("filters.http.router.v3.Router")},
        ],
    }
    http2 = {
        **kind("upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": address(server.host, server.port)}}
    cluster = {
        "name": "server",
        "load_assignment": {"cluster_name": "server", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    listener = {"address": address(ports.HOST, port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
