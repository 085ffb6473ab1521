"""Settings: every bad value is told by its variable, and no secret is ever repeated."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openmcp_chain import config
from openmcp_chain.config import ConfigError, Tls

KEY = base64.b64encode(b"k" * 32).decode()
GOOD = {"OPENMCP_MONGODB_URI": "mongodb://user:S3CRET@db", "OPENMCP_MASTER_KEY": KEY}


def test_defaults() -> None:
    """Two variables are needed; all others have defaults."""
    settings = config.from_environment(GOOD)
    assert (settings.listen, settings.mongodb_database, settings.mongodb_driver) == (
        "127.0.0.1:50051",
        "openmcp",
        "pymongo",
    )
    assert (settings.lease_duration.total_seconds(), settings.drain, settings.log_level) == (15, 10, "INFO")
    assert set(settings.plans) >= {"free", "standard", "unlimited"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENMCP_MONGODB_URI", ""),
        ("OPENMCP_MONGODB_DATABASE", ""),
        ("OPENMCP_MONGODB_DATABASE", "a b"),
        ("OPENMCP_MONGODB_DATABASE", "a.b"),
        ("OPENMCP_MONGODB_DATABASE", "$cmd"),
        ("OPENMCP_MONGODB_DATABASE", "x" * 64),
        ("OPENMCP_MONGODB_DRIVER", "beanie"),
        ("OPENMCP_GRPC_LISTEN", ""),
        ("OPENMCP_GRPC_LISTEN", "50051"),
        ("OPENMCP_GRPC_LISTEN", ":50051"),
        ("OPENMCP_GRPC_LISTEN", "localhost:"),
        ("OPENMCP_GRPC_LISTEN", "localhost:65536"),
        ("OPENMCP_GRPC_LISTEN", "localhost:-1"),
        ("OPENMCP_GRPC_LISTEN", "localhost:٣"),
        ("OPENMCP_GRPC_LISTEN", "localhost:" + "1" * 5000),
        ("OPENMCP_HEALTH_LISTEN", "50052"),
        ("OPENMCP_MASTER_KEY", ""),
        ("OPENMCP_MASTER_KEY", "S3CRET"),
        ("OPENMCP_MASTER_KEY", "S3CRETé"),
        ("OPENMCP_MASTER_KEY", base64.b64encode(b"S3CRET").decode()),
        ("OPENMCP_MASTER_KEY_FILE", "/nowhere/at/all"),
        ("OPENMCP_MASTER_KEY_FILE", "/"),
        ("OPENMCP_MASTER_KEY_FILE", "a\0b"),
        ("OPENMCP_ADMIN_SECRET", "S3CRET"),
        ("OPENMCP_ADMIN_SECRET", f"omcp_0123abcd_S3CRET{'x' * 36}"),
        ("OPENMCP_ADMIN_SECRET_FILE", "/nowhere/at/all"),
        ("OPENMCP_PLANS_FILE", "/nowhere/at/all"),
        ("OPENMCP_LEASE_DURATION", "0"),
        ("OPENMCP_LEASE_DURATION", "-1"),
        ("OPENMCP_LEASE_DURATION", "nan"),
        ("OPENMCP_LEASE_DURATION", "inf"),
        ("OPENMCP_LEASE_DURATION", "1e300"),
        ("OPENMCP_LEASE_DURATION", "15s"),
        ("OPENMCP_LEASE_DURATION", ""),
        ("OPENMCP_RETENTION", "0"),
        ("OPENMCP_DRAIN_SECONDS", "-1"),
        ("OPENMCP_LOG_LEVEL", "LOUD"),
    ],
)
def test_bad_value_is_told_by_its_variable(name: str, value: str) -> None:
    """One sentence that begins with the variable's name, on one line, without any secret."""
    with pytest.raises(ConfigError) as caught:
        config.from_environment(GOOD | {name: value})
    told = str(caught.value)
    assert told.startswith(name.removesuffix("_FILE"))
    assert "\n" not in told
    assert "S3CRET" not in told
    assert KEY not in told


@pytest.mark.parametrize("missing", ["OPENMCP_TLS_CERT_FILE", "OPENMCP_TLS_KEY_FILE"])
def test_half_of_tls_is_none(missing: str) -> None:
    """A certificate needs its key, and an authority for clients both: what is missing is named."""
    tls = {f"OPENMCP_TLS_{name}_FILE": "/s.pem" for name in ("CERT", "KEY", "CLIENT_CA")}
    assert config.from_environment(GOOD | tls).tls == Tls(Path("/s.pem"), Path("/s.pem"), Path("/s.pem"))
    assert config.from_environment(GOOD).tls is None
    with pytest.raises(ConfigError, match=f"^{missing} must be set too"):
        config.from_environment(GOOD | tls | {missing: ""})


def test_missing_variables_are_named() -> None:
    """Without them, the two that are needed are named."""
    for name in GOOD:
        with pytest.raises(ConfigError, match=name):
            config.from_environment({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "free = 3",
        "[free]",
        "[free]\nrequests_per_second = 1\nburst = 1\nstreams = 'x'",
        "[free]\nrequests_per_second = 1\nburst = 1.5\nstreams = 1",
        "[free]\nrequests_per_second = -1\nburst = 1\nstreams = 1",
        "[free]\nrequests_per_second = 2\nburst = 1\nstreams = 1",
        "[free]\nrequests_per_second = 1\nburst = 1\nstreams = 0",
        "[free]\nrequests_per_second = 1\nburst = 1\nstreams = 1\nmore = 1",
        "[free",
        "\ud800",
    ],
)
def test_bad_plans_are_told_by_their_variable(text: str, tmp_path: Path) -> None:
    """Whatever is wrong with the plans file, the variable is named, and there is no traceback."""
    file = tmp_path / "plans.toml"
    file.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ConfigError, match="OPENMCP_PLANS_FILE"):
        config.from_environment(GOOD | {"OPENMCP_PLANS_FILE": str(file)})


def test_secret_comes_from_a_file(tmp_path: Path) -> None:
    """A file's contents count, without the end of line; an empty file is refused by the variable that names it."""
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    without = {"OPENMCP_MONGODB_URI": "mongodb://db", "OPENMCP_MASTER_KEY_FILE": str(file)}
    assert config.from_environment(without).master.pepper == config.from_environment(GOOD).master.pepper
    file.write_text(" \n")
    with pytest.raises(ConfigError, match="OPENMCP_MASTER_KEY_FILE"):
        config.from_environment(without)


def test_the_first_administrators_secret(tmp_path: Path) -> None:
    """None, from its variable, or from its file, which counts if there are both."""
    secret, other = (f"omcp_0123abcd_{letter * 43}" for letter in "sf")
    file = tmp_path / "secret"
    file.write_text(other + "\n")
    told = {"OPENMCP_ADMIN_SECRET": secret}
    both = told | {"OPENMCP_ADMIN_SECRET_FILE": str(file)}
    assert [config.from_environment(GOOD | more).admin_secret for more in ({}, told, both)] == ["", secret, other]
    assert secret not in repr(config.from_environment(GOOD | told))


@pytest.mark.parametrize(
    ("name", "value"),
    [("OPENMCP_MONGODB_URI", "mongodb://user:S3CRET@127.0.0.1:notaport/"), ("OPENMCP_GRPC_LISTEN", "nowhere")],
)
def test_a_server_that_cannot_start_says_why(name: str, value: str) -> None:
    """One line on standard error that begins with the variable's name, no stack, no secret; exit status 1."""
    environment = {**os.environ, **GOOD, "OPENMCP_GRPC_LISTEN": "127.0.0.1:0", name: value}
    command = [sys.executable, "-m", "openmcp_chain.cli", "server"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"openmcp server: {name}")
    assert ended.stderr.count("\n") == 1
    assert "S3CRET" not in ended.stderr
