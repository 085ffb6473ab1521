"""The `openmcp` command itself: what it says of itself, and how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import openmcp_chain
from openmcp_chain.cli.main import app

COMMANDS = (
    "dev",
    "server",
    "worker",
    "tasks",
    "envoy-config",
    "workspaces",
    "operators",
    "admins",
    "secrets",
    "keys",
    "audit",
)
OPENMCP = str(Path(sys.executable).with_name("openmcp"))


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def test_version(runner: CliRunner) -> None:
    """`--version` says which version this is."""
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"openmcp {openmcp_chain.__version__}\n")


def test_help_names_every_command(runner: CliRunner) -> None:
    """`--help` lists all commands, each with a line on what it does."""
    lines = [line.split(maxsplit=1) for line in runner.invoke(app, ["--help"]).output.splitlines()]
    told = {line[0]: line[1] for line in lines if len(line) == 2}
    assert all(told.get(command) for command in COMMANDS)


def test_help_of_dev_names_every_flag(runner: CliRunner) -> None:
    """`openmcp dev --help` explains each flag and its default."""
    shown = runner.invoke(app, ["dev", "--help"]).output
    for flag in ("--rest-port", "--grpc-port", "--data-dir", "--mongodb-uri", "--no-worker", "--no-sample", "--once"):
        assert flag in shown
    assert "--plan" in shown
    assert ".openmcp" in shown


def test_no_command_shows_the_help(runner: CliRunner) -> None:
    """Without a command, the help is shown."""
    assert "Commands:" in runner.invoke(app, []).output


@pytest.mark.parametrize("flag", ["--no-worker", "--no-sample"])
def test_once_needs_the_sample(runner: CliRunner, flag: str) -> None:
    """`--once` ends with the sample's success, so it can't go without the sample or its worker."""
    result = runner.invoke(app, ["dev", "--once", flag])
    assert result.exit_code == 2
    assert "it needs the sample and the worker" in result.output


def test_a_port_has_a_range(runner: CliRunner) -> None:
    """A port beyond 65535 is refused by the flag's name."""
    result = runner.invoke(app, ["dev", "--rest-port", "65536"])
    assert result.exit_code == 2
    assert "--rest-port" in result.output


def test_no_stack_is_up(runner: CliRunner, tmp_path: Path) -> None:
    """Workspaces can't be made in a data folder on which no stack is up: one line says what to do, status 1."""
    result = runner.invoke(
        app, ["workspaces", "create", "--plan", "free", "--data-dir", str(tmp_path)], env={"OPENMCP_MONGODB_URI": None}
    )
    assert result.exit_code == 1
    assert result.output == (
        f"openmcp: no stack is up on {tmp_path}: start `openmcp dev`, or give --mongodb-uri and --master-key-file\n"
    )


def test_a_database_needs_its_master_key(runner: CliRunner) -> None:
    """A database without the deployment's master key is refused by the name of what is missing."""
    result = runner.invoke(
        app,
        ["workspaces", "list", "--mongodb-uri", "mongodb://127.0.0.1:1"],
        env={"OPENMCP_MASTER_KEY": None, "OPENMCP_MASTER_KEY_FILE": None},
    )
    assert result.exit_code == 1
    assert "OPENMCP_MASTER_KEY must be set" in result.output


def test_the_command_starts_lightly() -> None:
    """The command's own modules import none of the libraries that a subcommand may need."""
    script = "import sys, openmcp_chain.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"grpc", "pymongo", "motor", "httpx", "jwt", "duckdb", "opentelemetry"} & set(loaded)


def test_ctrl_c_while_it_is_imported() -> None:
    """Ctrl-C before there is a command to take it: one line and no traceback."""
    script = """
import sys
class CtrlC:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, CtrlC())
from openmcp_chain.cli import run
run()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "openmcp: interrupted\n")


def test_output_that_goes_nowhere() -> None:
    """A full disk behind standard output: one line and no traceback, status 1."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [OPENMCP, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "openmcp: [Errno 28] No space left on device\n")


def test_what_ends_a_server_is_logged_without_its_text() -> None:
    """An error of the system that nobody foresaw: one line of JSON, with its type and the places it passed."""
    script = """
from openmcp_chain import app
from openmcp_chain.cli import run
async def fails(_):
    raise OSError(5, "S3CRET mongodb://u:p@db")
app.serve = fails
run()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "server"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "OPENMCP_MASTER_KEY": "A" * 43 + "=", "OPENMCP_MONGODB_URI": "mongodb://127.0.0.1:1"},
    )
    assert "S3CRET" not in done.stderr
    logged = json.loads(done.stderr)
    assert (done.returncode, logged["level"], logged["exception"][0]["type"]) == (1, "CRITICAL", "builtins.OSError")
    assert any(place.endswith(" fails") for place in logged["exception"][0]["at"])


def test_a_reader_that_ends() -> None:
    """As in `openmcp … | head`: status 1 and not a word."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [OPENMCP, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_letters_that_the_output_lacks() -> None:
    """They are written out, whatever command prints them."""
    script = "from openmcp_chain.cli import main, run; main.app = lambda **_: print('Ending …'); run()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Ending \\u2026\n", "")


@pytest.mark.parametrize(
    "command",
    [
        ("workspaces", "create", "--plan", "free", "--pending-tasks", "2147483648"),
        ("workspaces", "create", "--plan", "free", "--streams", "99999999999999999999"),
        ("workspaces", "update", "ws-demo", "--pending-tasks", "99999999999999999999"),
        ("secrets", "rotate", "ws-demo", "--overlap", "nan"),
        ("envoy-config", "--server", "127.0.0.1:1", "--trusted-hops", "4294967296"),
        ("envoy-config", "--server", "127.0.0.1:1", "--sign-ins-per-second", "4294967296"),
        ("envoy-config", "--server", "127.0.0.1:1", "--sign-in-burst", "4294967296"),
    ],
)
def test_a_number_that_does_not_fit(runner: CliRunner, command: tuple[str, ...]) -> None:
    """It is refused by its option's name, before anything is done."""
    result = runner.invoke(app, command)
    assert result.exit_code == 2
    assert f"Invalid value for '{command[-2]}'" in result.stderr


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("tasks", "submit", "echo", "--label", "k=\udcff"), "--label: b'k=\\xff'"),
        (("tasks", "submit", "x\udcff"), "b'x\\xff'"),
        (("tasks", "retry", "--filter=\udcff"), "b'--filter=\\xff'"),
        (("workspaces", "disable", "ws", "--reason", "\udcff"), "--reason: b'\\xff'"),
    ],
)
def test_an_argument_that_is_not_utf8(command: tuple[str, ...], told: str) -> None:
    """One line names it and its option, status 1."""
    done = subprocess.run([OPENMCP, *command], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"openmcp: {told} is not UTF-8\n")


def test_a_setting_that_is_not_utf8() -> None:
    """One line names the variable, and does not repeat it: it may be secret."""
    environment = {**os.environ, "OPENMCP_WORKSPACE_SECRET": "omcp_\udcff"}
    done = subprocess.run(
        [OPENMCP, "tasks", "list"], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert (done.returncode, done.stderr) == (1, "openmcp: OPENMCP_WORKSPACE_SECRET is not UTF-8\n")


@pytest.mark.parametrize("content", ["{", "{}", "[1]"])
@pytest.mark.parametrize("command", [("tasks", "list"), ("workspaces", "list")])
def test_a_dev_json_that_is_none(runner: CliRunner, tmp_path: Path, content: str, command: tuple[str, ...]) -> None:
    """What is no stack's `dev.json` tells of no stack."""
    (tmp_path / "dev.json").write_text(content)
    unset = dict.fromkeys(name for name in os.environ if name.startswith("OPENMCP_"))
    result = runner.invoke(app, [*command, "--data-dir", str(tmp_path)], env=unset)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"openmcp: no stack is up on {tmp_path}")
