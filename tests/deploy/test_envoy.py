"""`openmcp envoy-config` as the deployments call it: Envoy takes what it writes."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from support import manifests
from support.gateway import parsed
from typer.testing import CliRunner

from openmcp_chain.cli.main import app
from openmcp_chain.domain import plans
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
    file = tmp_path / "plans.toml"
    file.write_text((manifests.KUBERNETES / "plans.toml").read_text().replace("= 200", "= 345"))
    config = tmp_path / "envoy.yaml"
    arguments = [argument.replace("/etc/envoy/envoy.yaml", str(config)) for argument in container["args"]]
    assert render(arguments, OPENMCP_PLANS_FILE=str(file)) == ""
    validate(config)
    assert '"tokens_per_fill": 345' in config.read_text()


def test_the_shared_limiter_of_the_docs_is_one_that_envoy_takes(tmp_path: Path) -> None:
    """With the page's filter and cluster put in, Envoy accepts the file; the service's rules are the shipped plans."""
    section = (manifests.ROOT / "docs/operations.md").read_text().partition("## Limits over several Envoys")[2]
    blocks = re.findall("```yaml\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    limiter, cluster, rules = (yaml.safe_load(block) for block in blocks)
    rendered = parsed(render(["envoy-config", "--server=server:50051"]))
    (listener,) = rendered["static_resources"]["listeners"]
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    (place,) = (i for i, one in enumerate(filters) if one["name"] == "envoy.filters.http.local_ratelimit")
    filters[place] = limiter
    rendered["static_resources"]["clusters"].append(cluster)
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(rendered))
    validate(config)
    limits = {}
    for rule in rules["descriptors"]:
        (each,) = rule["descriptors"]
        assert (rule["key"], each["key"]) == ("plan", "workspace")
        limits[rule.get("value")] = each["rate_limit"].get("requests_per_unit", 0)
    shipped = plans.parse(tomllib.loads((manifests.ROOT / "server/openmcp_chain/plans.toml").read_text()))
    known = {name: plan.requests_per_second for name, plan in shipped.items()}
    assert limits == known | {None: plans.smallest(shipped).requests_per_second}


def test_envoy_is_run_as_everywhere() -> None:
    """Compose and Kubernetes start Envoy with the options that the local stack starts it with."""
    (container,) = manifests.pod("envoy")["containers"]
    assert container["args"] == envoy.command(Path("/etc/envoy/envoy.yaml"))[1:]
    service = manifests.compose()["services"]["envoy"]
    assert service["command"] == envoy.command(Path("/run/openmcp/envoy.yaml"))[1:]


def test_envoy_sends_spans_where_the_servers_send_theirs(tmp_path: Path) -> None:
    """With compose's telemetry switched on, Envoy accepts the file, and sends to the collector that it names."""
    config = tmp_path / "envoy.yaml"
    command = manifests.compose()["services"]["envoy-config"]["command"]
    arguments = [argument.replace("/run/openmcp/envoy.yaml", str(config)) for argument in command]
    assert render(arguments, OTEL_EXPORTER_OTLP_ENDPOINT="http://otel-collector:4317") == ""
    validate(config)
    clusters = {one["name"]: one for one in parsed(config.read_text())["static_resources"]["clusters"]}
    assert '{"address": "otel-collector", "port_value": 4317}' in json.dumps(clusters["otlp"]["load_assignment"])


def test_what_is_written_is_closed_to_others(tmp_path: Path) -> None:
    """A header for the collector is a key: whatever the umask, and whatever was there, its owner alone may read it."""
    config = tmp_path / "envoy.yaml"
    config.write_text("an older one")
    config.chmod(0o644)
    tls = ["--server-ca-file=/ca.pem", "--cert-file=/c.pem", "--key-file=/k.pem"]
    arguments = ["envoy-config", "--server=server:50051", f"--output={config}", *tls]
    collector = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel-collector:4317",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=S3CRET",
    }
    before = os.umask(0)
    try:
        assert render(arguments, **collector) == ""
    finally:
        os.umask(before)
    assert "S3CRET" in config.read_text()
    written = list(tmp_path.iterdir())
    assert len(written) > 1
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}


def test_pages_of_other_sites_are_let_in_by_name() -> None:
    """The origins that the environment names, and no others."""
    arguments = ["envoy-config", "--server=server:50051"]
    assert "https://app.example" in render(arguments, OPENMCP_CORS_ORIGINS="https://app.example")
    assert "allow_origin_string_match" not in render(arguments)


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--server=server"], {}, "'server' is not host:port"),
        (["--server=server:0"], {}, "'server:0' is not host:port"),
        (["--server=server:1", "--peers=envoys"], {}, "'envoys' is not host:port"),
        (
            ["--server=server:1", "--cert-file=/c.pem", "--output=/none/e"],
            {},
            "--cert-file, --key-file: both are needed",
        ),
        (
            ["--server=server:1", "--client-key-file=/c.pem"],
            {},
            "--client-cert-file, --client-key-file: both are needed",
        ),
        (["--server=server:1", "--server-name=server"], {}, "--server-ca-file is needed"),
        (["--server=server:1", "--server-ca-file=/ca.pem"], {}, "TLS needs files of its own"),
        (["--server=server:1"], {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}, "must be http://host:port"),
        (["--server=server:1"], {"OPENMCP_PLANS_FILE": "/none"}, "OPENMCP_PLANS_FILE: "),
        (
            ["--server=server:1"],
            {"OPENMCP_CORS_ORIGINS": "app.example"},
            "OPENMCP_CORS_ORIGINS: 'app.example' is no",
        ),
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
