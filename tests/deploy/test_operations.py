"""docs/operations.md says what the code does: its variables, metrics, log lines, times and ports are the source's."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from support import manifests
from typer.main import get_command

from openmcp_chain.cli.main import app
from openmcp_chain.domain import errors
from openmcp_chain.domain.keys import CLOCK_SKEW, LEAD, VERIFIES
from openmcp_chain.engine import events, keys, ledger, looks, pace, queues, signals, signins
from openmcp_chain.stack import envoy
from openmcp_chain.store.mongo import client
from openmcp_chain.transport import messages, rest, rpc
from openmcp_chain.worker import conversation, worker

PACKAGE = manifests.ROOT / "server/openmcp_chain"


@cache
def text() -> str:
    return (manifests.ROOT / "docs/operations.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without their code marks."""
    section = re.split(rf"^## {heading}$", text(), flags=re.MULTILINE)[1].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def calls() -> Iterator[ast.Call]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield node


def test_every_variable_is_told_and_no_other() -> None:
    """The table has exactly the variables that servers and workers read, each with its readers and its true default."""
    shared = dict(manifests.read_by_all())
    readers = {"server": manifests.read_by_server() | shared, "worker": manifests.read_by_worker() | shared}
    expected = {
        name: (
            ", ".join(reader for reader, known in readers.items() if name in known),
            default,
        )
        for name, default in (readers["server"] | readers["worker"]).items()
    }
    assert {name: (reader, default) for name, reader, default, _ in rows("Environment variables")} == expected


def test_no_variable_is_read_in_passing() -> None:
    """Whatever the package's code names of our variables is one that the page tells of."""
    told = set(re.findall(r"`((?:OPENMCP|AWS)_[A-Z0-9_]+)`", text()))
    named = {
        node.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"(OPENMCP|AWS)_[A-Z0-9_]+", node.value)
    }
    assert named
    assert named <= told


def test_every_metric_is_told_and_no_other() -> None:
    """The table of metrics has exactly those that the code makes."""
    made = {
        call.args[0].value
        for call in calls()
        if isinstance(call.func, ast.Attribute)
        and re.fullmatch(r"create_(counter|histogram|up_down_counter|gauge|observable_\w+)", call.func.attr)
        and isinstance(call.args[0], ast.Constant)
    }
    assert {row[0] for row in rows("What to watch")} == made


def test_what_to_alert_on_exists() -> None:
    """The log lines and codes that the page tells to watch are ones that the code really writes."""
    logged = {
        call.args[0].value
        for call in calls()
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("info", "warning", "error")
        if call.args and isinstance(call.args[0], ast.Constant)
    }
    lines = set(re.findall(r"`([a-z ]+)`", " ".join(text().split()).partition("Worth an alert: ")[2]))
    assert lines
    assert lines <= logged
    codes = re.findall(r"`([A-Z]+)`", text().partition("Alert on ")[2].partition("\n\n")[0])
    assert set(codes) <= set(errors.TABLE)
    assert codes


def test_ports_are_those_of_the_manifests() -> None:
    """The table of ports has the ports that compose and Kubernetes use."""
    told = {int(row[0]) for row in rows("Ports")}
    policies = manifests.of_kind("NetworkPolicy").values()
    rules = [rule for one in policies for way in ("ingress", "egress") for rule in one["spec"].get(way, ())]
    allowed = {port["port"] for rule in rules for port in rule["ports"]}
    assert allowed - {53, 443} <= told
    assert told - allowed == {50052, 4317, 8889}


def test_the_commands_for_operators_are_all_told() -> None:
    """Those that work on the database itself, and so read the server's variables."""
    commands: Any = get_command(app)
    on_database = {
        name
        for name, group in commands.commands.items()
        if any(
            option.envvar == "OPENMCP_MONGODB_URI"
            for command in getattr(group, "commands", {}).values()
            for option in command.params
        )
    }
    sentence = re.search(r"`openmcp ([^.]+) read\s+the server's\s+variables", text())
    assert sentence
    assert set(re.findall(r"\w+", sentence[1])) - {"and"} == on_database


def test_waits_are_those_of_the_code() -> None:
    """Times and numbers in the prose are the constants of the code."""
    prose = " ".join(text().split())
    assert f"port reads messages of {messages.REQUEST_BYTES >> 20} MiB" in prose
    over = messages.RECEIVE_BYTES - messages.REQUEST_BYTES
    assert f"Past {messages.REQUEST_BYTES >> 20} MiB and {over >> 10} KiB it is gRPC itself" in prose
    assert f"after {conversation.REFUSED_SECONDS:g} s if its secret is refused" in prose
    assert f"gives running tasks {worker.DRAIN_SECONDS:g} s" in prose
    assert f"event streams look {events.POLL_SECONDS:g} s after their last event" in prose
    assert f"less and less often, every {events.LONGEST_POLL_SECONDS:g} s at least" in prose
    assert f"{rpc.CALLS:,} in a process, {rpc.WORKSPACE_CALLS:,} of one workspace" in prose
    assert f"and {ledger.WAITING} changes of one task" in prose
    assert f"`heartbeat_timeout` is less than {pace.SHORTEST:g} s" in prose
    assert f"{pace.HEARD:,} reports a second are read" in prose
    assert f"what waits is looked for every {looks.AGAIN_SECONDS:g} s where there is news, every minute" in prose
    assert looks.RARELY_SECONDS == 60
    assert f"to within {signals.ALIVE.total_seconds():g} s for the former" in prose
    assert f"{queues.SKEW.total_seconds():g} s for the latter" in prose
    assert f"and {client.CONNECTIONS} connections to MongoDB" in prose
    assert f"pings on event streams ({rest.PING_SECONDS:g} s)" in prose
    assert f"after {signins.STEP:g} s, and past three" in prose
    assert signins.FREE == 3
    assert f"{signins.LONGEST:g} s at most; in three minutes" in prose
    assert signins.MOST * signins.FORGET_SECONDS == 3 * 60
    assert f"{signins.WAITING_OF_NAME} wait for one name, {signins.WAITING:,} in a process" in prose
    assert f"It signs after {LEAD.total_seconds():g} s" in prose
    assert f"differ by {CLOCK_SKEW.total_seconds():g} s, for tokens" in prose
    assert f"retires by itself {VERIFIES.total_seconds() / 60:g} minutes after" in prose
    assert f"end within {keys.BELIEVED_SECONDS:g} s, everywhere" in prose
    rates = envoy.SIGN_INS, envoy.OPEN_CALLS
    assert f"{rates[0].per_second} sign-ins a second, {rates[0].burst} at once" in prose
    assert f"{rates[1].per_second} a second, {rates[1].burst} at once of gRPC's health check and the key set" in prose
    commands: Any = get_command(app)
    for name, shown in (("sign_ins_per_second", rates[0].per_second), ("sign_in_burst", rates[0].burst)):
        (option,) = (one for one in commands.commands["envoy-config"].params if one.name == name)
        assert option.show_default == str(shown)
    (container,) = manifests.pod("envoy")["containers"]
    assert f"Kubernetes waits {container['lifecycle']['preStop']['sleep']['seconds']} s before it tells it" in prose
