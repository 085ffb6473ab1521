"""Nothing of a payload is in any log; and the scan that looks for it after the whole run does find what is there."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from security.conftest import People, sign_in
from support import logscan
from support.doors import OK, Door, Grpc, Rest, bearer
from support.logscan import CANARY
from support.stack import StackInfo

from openmcp.chain.v1 import tasks_pb2, workers_pb2

TASKS = "/openmcp.chain.v1.TaskService"
WORKERS = "/openmcp.chain.v1.WorkerService"
SECRETS = {
    "a secret": "omcp_01234567_" + "x" * 43,
    "a token": f"Bearer eyJ{'a' * 20}.eyJ{'b' * 20}.{'c' * 20}",
    "a private key": "-----BEGIN PRIVATE KEY-----",
    "a password": "mongodb://user:S3CRET@db/",
    "a payload": f'{{"payload": "{CANARY}"}}',
}


def test_payloads_are_in_no_log(door: Door, native: Grpc, rest: Rest, stack: StackInfo, people: People) -> None:
    """A task's whole life, its refusals and a failing pipeline: its input, output, words and rows are not logged."""
    owner = people.owner.token
    submit = tasks_pb2.SubmitTaskRequest(type="canary", metadata={"canary": CANARY}, labels={"canary": CANARY})
    submit.payload.update({"canary": CANARY, "nested": [{CANARY: CANARY}]})
    answer = door.call(f"{TASKS}/SubmitTask", submit, headers=bearer(owner))
    assert answer.code == OK
    (task,) = door.ask(f"{WORKERS}/LeaseTasks", owner, worker_name="w", task_types=["canary"]).body["tasks"]
    lease = task["lease"]
    progress = {"fraction": 0.5, "message": CANARY}
    assert door.ask(f"{WORKERS}/HeartbeatTask", owner, lease=lease, log=CANARY, progress=progress).code == OK
    done = workers_pb2.CompleteTaskRequest(lease=workers_pb2.LeaseRef(**lease))
    done.result.update({"canary": CANARY})
    assert door.call(f"{WORKERS}/CompleteTask", done, headers=bearer(owner)).code == OK
    assert CANARY in door.ask(f"{TASKS}/GetTask", owner, task_id=answer.body["task_id"], view="TASK_VIEW_FULL").text
    refused = [
        door.ask(f"{TASKS}/SubmitTask", owner, type=f"{CANARY} {CANARY}"),
        door.ask(f"{TASKS}/SubmitTask", owner, type="canary", request_id=CANARY),
        door.ask(f"{TASKS}/SubmitTask", owner, type="canary", payload={"a": CANARY + "x" * (1 << 20)}),
        door.ask(f"{TASKS}/SubmitTask", owner, type="canary", metadata={"priority": CANARY}),
        door.ask(f"{TASKS}/ListTasks", owner, filter=f'labels.a ~ "{CANARY}"'),
        door.ask(f"{WORKERS}/CompleteTask", owner, lease=lease, result={"a": CANARY}),
        door.ask("/openmcp.chain.v1.AuthService/Authenticate", workspace_id="nobody", workspace_secret=CANARY),
        door.ask(f"{TASKS}/GetTask", CANARY, task_id="x"),
    ]
    assert OK not in [one.code for one in refused[:5]]
    native.send(f"{TASKS}/SubmitTask", [b"\x0a\xff" + CANARY.encode()], bearer(owner))
    rest.http.post("/v1/tasks", content=f'{{"type": "{CANARY}', headers=dict(bearer(owner)))
    # The worker of the stack: rows and SQL that go well, and that do not.
    demo = sign_in(native, stack.workspace_id, stack.workspace_secret)
    for name, rows, sql in (
        ("good", f'[{{"a": "{CANARY}"}}]', "SELECT a, 'X' AS b FROM input".replace("X", CANARY)),
        ("bad", f'[{{"a": "{CANARY}"', "SELECT * FROM input"),
        ("cast", f'[{{"a": "{CANARY}"}}]', "SELECT a::INT FROM input WHERE a = 'X'".replace("X", CANARY)),
    ):
        (stack.files_dir / f"{name}.json").write_text(rows)
        payload = {"input_uri": (stack.files_dir / f"{name}.json").as_uri(), "sql": sql}
        task_id = door.ask(f"{TASKS}/SubmitTask", demo, type="data_pipeline", payload=payload).body["task_id"]
        ended = native.call(f"{TASKS}/WaitTask", tasks_pb2.WaitTaskRequest(task_id=task_id), headers=bearer(demo))
        assert ended.body["status"] == ("TASK_STATUS_SUCCEEDED" if name == "good" else "TASK_STATUS_FAILED")
    files = logscan.logs(stack.data_dir)
    assert {file.name for file in files} >= {"server.log", "envoy.log", "worker.log"}
    mark = f"/v1/tasks/mark-{door.name}"
    rest.http.get(mark, headers=dict(bearer(owner)))
    until_logged(stack.data_dir / "logs/envoy.log", mark)
    assert list(logscan.scan(files)) == []
    assert "call refused" in (stack.data_dir / "logs/server.log").read_text()


def until_logged(log: Path, text: str) -> None:
    """Waits until Envoy has written what it keeps for a second."""
    end = time.monotonic() + 20
    while text not in log.read_text():
        assert time.monotonic() < end, f"not in {log}: {text}"
        time.sleep(0.05)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder outside of this run's own, in which the scan after it would find what is planted here."""
    with tempfile.TemporaryDirectory(prefix="openmcp-logscan-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("kind", SECRETS)
def test_the_scan_finds(elsewhere: Path, kind: str) -> None:
    """Each kind is found in whatever log has it, by line, and is not repeated in what is said of it."""
    for name in ("a/server.log", "b/c/worker.log.1", "dev.output"):
        file = elsewhere / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"all is well\nthen: {SECRETS[kind]} and so on\n")
    finds = list(logscan.scan(logscan.logs(elsewhere)))
    assert [(find.file.name, find.line, find.kind) for find in finds] == [
        ("server.log", 2, kind),
        ("worker.log.1", 2, kind),
        ("dev.output", 2, kind),
    ]
    assert SECRETS[kind] not in "".join(map(str, finds))


def test_what_dev_shows_is_passed_over(elsewhere: Path) -> None:
    """The secret that `openmcp dev` shows to the person at its terminal is no find there; in a log it is."""
    secret = SECRETS["a secret"]
    lines = f'  workspace_secret  {secret}\n  TOKEN=$(curl -d \'{{"workspace_secret": "{secret}"}}\')\n'
    for name in ("dev.output", "dev.log"):
        (elsewhere / name).write_text(lines)
    assert [(find.file.name, find.line) for find in logscan.scan(logscan.logs(elsewhere))] == [
        ("dev.log", 1),
        ("dev.log", 2),
    ]


RUN = """
def test_that_logs(tmp_path_factory):
    (tmp_path_factory.mktemp("stack") / "server.log").write_text({text!r})
"""


def test_a_find_fails_the_run(elsewhere: Path) -> None:
    """A run whose tests all pass fails if one of pytest-xdist's processes has had a secret logged."""
    (elsewhere / "test_it.py").write_text(RUN.format(text=f"x {SECRETS['a secret']}\n"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "xdist.plugin",
        "-p",
        "support.logscan",
        f"--basetemp={elsewhere / 'run'}",
    ]
    command += [f"--rootdir={elsewhere}", "-n", "2", str(elsewhere / "test_it.py")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=elsewhere)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1, done.stdout
    assert "server.log:1: a secret" in done.stdout
    assert SECRETS["a secret"] not in done.stdout
