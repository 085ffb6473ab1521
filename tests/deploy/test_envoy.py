"""`openmcp envoy-config` as the deployments call it: Envoy takes what it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import manifests
from typer.testing import CliRunner

from openmcp_chain.cli.main import app
from openmcp_chain.stack import envoy


def render(arguments: list[str], **environment: str) -> str:
    """What the command prints, run in this process."""
    result = CliRunner().invoke(app, arguments, env={"OTEL_EXPORTER_OTLP_ENDPOINT": "", **environment})
    assert result.exit_code == 0, result.stderr
    return result.stdout


def validate(config: Path) -> None:
    """Envoy itself reads the file, all but opening sockets."""
    program = str(Path(sys.executable).with_name("envoy"))
    done = subprocess.run(
        [program, "--mode", "validate", "-c", config, "--log-level", "error"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_envoy_takes_what_kubernetes_renders(tmp_path: Path) -> None:
    """The init container's arguments and plans make a file that Envoy accepts, with the limits of these plans."""
    (container,) = manifests.pod("envoy")["initContainers"]
    plans = tmp_path / "plans.toml"
    plans.write_text((manifests.KUBERNETES / "plans.toml").read_text().replace("= 200", "= 345"))
    config = tmp_path / "envoy.yaml"
    arguments = [argument.replace("/etc/envoy/envoy.yaml", str(config)) for argument in container["args"]]
    assert render(arguments, OPENMCP_PLANS_FILE=str(plans)) == ""
    validate(config)
    assert '"tokens_per_fill": 345' in config.read_text()


def test_envoy_is_run_as_everywhere() -> None:
    """Compose and Kubernetes start Envoy with the options that the local stack starts it with."""
    (container,) = manifests.pod("envoy")["containers"]
    assert container["args"] == envoy.command(Path("/etc/envoy/envoy.yaml"), concurrency=2)[1:]
    service = manifests.compose()["services"]["envoy"]
    assert service["command"] == envoy.command(Path("/run/openmcp/envoy.yaml"), concurrency=2)[1:]


def test_envoy_sends_spans_where_the_servers_send_theirs(tmp_path: Path) -> None:
    """With compose's telemetry switched on, Envoy accepts the file, and sends to the collector that it names."""
    arguments = [one for one in manifests.compose()["services"]["envoy-config"]["command"] if "--output" not in one]
    text = render(arguments, OTEL_EXPORTER_OTLP_ENDPOINT="http://otel-collector:4317")
    config = tmp_path / "envoy.yaml"
    config.write_text(text)
    validate(config)
    clusters = {one["name"]: one for one in yaml.safe_load(text)["static_resources"]["clusters"]}
    assert '{"address": "otel-collector", "port_value": 4317}' in json.dumps(clusters["otlp"]["load_assignment"])


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--server=server"], {}, "'server' is not host:port"),
        (["--server=server:0"], {}, "'server:0' is not host:port"),
        (["--server=server:1"], {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}, "must be http://host:port"),
        (["--server=server:1"], {"OPENMCP_PLANS_FILE": "/none"}, "OPENMCP_PLANS_FILE: "),
        (["--server=server:1", "--output=/none/envoy.yaml"], {}, "No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], environment: dict[str, str], named: str) -> None:
    """A wrong address, collector, plans file or output ends the command with status 1 and a line that names it."""
    result = CliRunner().invoke(
        app, ["envoy-config", *arguments], env={"OTEL_EXPORTER_OTLP_ENDPOINT": "", **environment}
    )
    assert result.exit_code == 1
    assert result.stdout == ""
    assert named in result.stderr
    assert result.stderr.count("\n") == 1
