"""The rendered configuration, for each place where it runs, in the eyes of Envoy itself."""

import subprocess
from pathlib import Path

import pytest
from support.gateway import PLANS, parsed

from openmcp_chain.domain.keys import CLOCK_SKEW, LIFETIME
from openmcp_chain.domain.plans import REQUEST_BYTES, Plan
from openmcp_chain.engine import bearers
from openmcp_chain.stack import envoy
from openmcp_chain.stack.envoy import Address, Settings, rates
from openmcp_chain.stack.envoy.collector import Collector
from openmcp_chain.transport import rest, rpc

LOCAL = Settings(listen=Address("127.0.0.1", 8080), server=Address("127.0.0.1", 50051), plans=PLANS)
EVERYWHERE = "0.0.0.0"  # noqa: S104 - where a container listens
COMPOSE = Settings(listen=Address(EVERYWHERE, 8080), server=Address("server", 50051), plans=PLANS)
VAST = Plan("vast", requests_per_second=300_000, burst=2**40, streams=0)
"""As good as no limit."""
KUBERNETES = Settings(
    listen=Address("::", 8080),
    server=Address("openmcp-server.openmcp.svc.cluster.local", 50051),
    plans={**PLANS, VAST.name: VAST},
    otlp=Collector.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel-collector.observability"}),
    admin=Address("127.0.0.1", 9901),
    access_log=False,
)


@pytest.mark.parametrize("settings", [LOCAL, COMPOSE, KUBERNETES], ids=["local", "compose", "kubernetes"])
def test_envoy_accepts_it(settings: Settings, tmp_path: Path) -> None:
    """Envoy's own validation passes, and finds nothing deprecated."""
    command = [*envoy.command(envoy.write(settings, tmp_path)), "--mode", "validate"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "eprecated" not in ended.stderr


def test_a_bucket_has_no_more_than_envoy_can_count() -> None:
    """Of calls or of bytes; what it can count is as the plan says it."""
    limits = [*rates.of_calls({"": VAST}), *rates.of_bodies({"": VAST}, LOCAL.body_limit)]
    each = [limit["token_bucket"]["tokens_per_fill"] for limit in limits]
    assert each == [300_000, 300_000 * REQUEST_BYTES, 2**32 - 1]
    assert {limit["token_bucket"]["max_tokens"] for limit in limits} == {2**32 - 1}


def test_nothing_is_left_to_fill_in() -> None:
    """No placeholder survives, and what is rendered is YAML with one listener."""
    text = envoy.render(LOCAL)
    assert "${" not in text
    assert [listener["name"] for listener in parsed(text)["static_resources"]["listeners"]] == ["public"]


def test_the_server_gets_to_answer() -> None:
    """A call that the server lets wait, or gives up, is not given up by Envoy first, however silent it is.

    Not when memory is short either: whoever leaves answers unread would end the calls of all who wait. Nor is an event
    stream that is pinged.
    """
    rendered = parsed(envoy.render(LOCAL))
    (listener,) = rendered["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    idle = float(manager["stream_idle_timeout"].rstrip("s"))
    actions = {one["name"].rpartition(".")[2]: one for one in rendered["overload_manager"]["actions"]}
    factors = actions["reduce_timeouts"]["typed_config"]["timer_scale_factors"]
    reduced = {one["timer"]: float(one["min_timeout"].rstrip("s")) for one in factors}
    names = {name.removeprefix("HTTP_DOWNSTREAM_") for name in reduced}
    assert names == {"STREAM_FLUSH", "STREAM_IDLE", "CONNECTION_IDLE"}
    least = reduced["HTTP_DOWNSTREAM_STREAM_IDLE"]
    assert rpc.UNARY_SECONDS + bearers.LOOK_SECONDS < LOCAL.unary_seconds < least < idle
    assert least > 2 * rest.PING_SECONDS


def test_a_stream_may_be_silent_for_as_long_as_its_token_lives() -> None:
    """And for no longer, but where the server pings. Told by each route of such a method, by gRPC or REST."""
    rendered = parsed(envoy.render(LOCAL))
    (listener,) = rendered["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    silent = {one["name"]: one["route"]["idle_timeout"] for one in routes if "idle_timeout" in one.get("route", {})}
    methods = ("TaskService/StreamTaskEvents", "WorkerService/Work")
    assert silent == {f"grpc:openmcp.chain.v1.{name}": f"{LOCAL.stream_silence_seconds}s" for name in methods}
    # What a token is believed after its end, and the loop that looks for such.
    assert LOCAL.stream_silence_seconds > (LIFETIME + CLOCK_SKEW).total_seconds() + 5


def test_the_edge_is_as_it_is_told() -> None:
    """The numbers of docs/decisions/0009 are those of the configuration."""
    told = (Path(__file__).parents[2] / "docs/decisions/0009-the-edge.md").read_text()
    rendered = parsed(envoy.render(LOCAL))
    (listener,) = rendered["static_resources"]["listeners"]
    chain = listener["filter_chains"][0]
    manager = chain["filters"][0]["typed_config"]
    http2, common = manager["http2_protocol_options"], manager["common_http_protocol_options"]
    (server,) = (one for one in rendered["static_resources"]["clusters"] if one["name"] == "server")
    overload = {one["name"].rpartition(".")[2]: one["triggers"][0] for one in rendered["overload_manager"]["actions"]}
    heaps = {name: round(100 * one["threshold"]["value"]) for name, one in overload.items() if "threshold" in one}
    scales = {name: [*one["scaled"].values()] for name, one in overload.items() if "scaled" in one}
    assert scales == {"reduce_timeouts": [0.6, 0.8], "reset_high_memory_stream": [0.8, 1.0]}
    assert "From 60 to 80 % of the heap it gives less" in told
    assert f"the heap ({LOCAL.heap_bytes >> 20} MiB)" in told
    assert f"at {heaps['disable_http_keepalive']} % it ends connections" in told
    assert f"at {heaps['shrink_heap']} % gives memory back, from there on resets" in told
    assert f"at {heaps['stop_accepting_requests']} % answers 503" in told
    assert f"at {heaps['reject_incoming_connections']} % takes no connection" in told
    assert f"| {LOCAL.max_connections:,}: one beyond" in told
    buffers = {listener["per_connection_buffer_limit_bytes"], server["per_connection_buffer_limit_bytes"]}
    assert buffers == {32 * 1024}
    assert "| 32 KiB: what" in told
    patience = {listener["listener_filters_timeout"], chain["transport_socket_connect_timeout"]}
    assert patience == {manager["request_headers_timeout"]} == {"10.0s"}
    assert f"| {LOCAL.unary_seconds:g} s, by the route" in told
    assert (manager["stream_idle_timeout"], common["idle_timeout"]) == ("60.0s", "620s")
    assert LOCAL.stream_silence_seconds == 16 * 60
    assert f"streams of a connection | {http2['max_concurrent_streams']} |" in told
    (extended,) = server["typed_extension_protocol_options"].values()
    windows = [http2, extended["explicit_http_config"]["http2_protocol_options"]]
    assert {one["initial_stream_window_size"] for one in windows} == {64 * 1024}
    streams = windows[1]["max_concurrent_streams"]
    assert [one["initial_connection_window_size"] for one in windows] == [1024 * 1024, streams * 64 * 1024]
    assert f"what all its {streams} streams may hold" in told
    (layer,) = rendered["layered_runtime"]["layers"]
    assert f"{layer['static_layer']['overload.premature_reset_total_stream_count']} first calls" in told


def test_admin_is_off_unless_asked_for() -> None:
    """Envoy's admin interface, which can stop it, listens only where the settings say."""
    assert parsed(envoy.render(LOCAL))["admin"] == {}
    assert "127.0.0.1" in str(parsed(envoy.render(KUBERNETES))["admin"])


def test_it_reaches_itself() -> None:
    """The key set is fetched over loopback from the port that is listened on, whatever the listening address."""
    for settings, own in ((LOCAL, "127.0.0.1"), (COMPOSE, "127.0.0.1"), (KUBERNETES, "::1")):
        clusters = {c["name"]: c for c in parsed(envoy.render(settings))["static_resources"]["clusters"]}
        assert {"address": own, "port_value": 8080} == (
            clusters["self"]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"][
                "socket_address"
            ]
        )


@pytest.mark.parametrize(
    ("text", "address"),
    [("server:50051", Address("server", 50051)), ("[::1]:80", Address("::1", 80))],
)
def test_addresses(text: str, address: Address) -> None:
    """Names, IPv4 and bracketed IPv6 addresses are read."""
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["", "server", "server:", ":80", "server:0", "server:65536", "server:x"])
def test_bad_addresses(text: str) -> None:
    """What is no address is refused, and shown."""
    with pytest.raises(ValueError, match="host:port"):
        Address.parse(text)
