"""`openmcp tasks` against the service itself: what it prints, and what it ends with."""

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.service import PATIENCE, Service, WorkStream, serving
from typer.testing import CliRunner, Result

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain.cli.main import app

COMMANDS = ("submit", "get", "list", "watch", "wait", "cancel", "retry")
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
UNSET = {name: None for name in os.environ if name.startswith("OPENMCP_")}


@dataclass(frozen=True, slots=True)
class Terminal:
    """Somebody who types commands, in a folder with a stack's `dev.json`."""

    service: Service
    worker: WorkStream
    folder: Path
    told: dict[str, str]
    """What `dev.json` says."""

    async def run(
        self, *arguments: str, stdin: str = "", status: int = 0, environment: Mapping[str, str] | None = None
    ) -> Result:
        """`openmcp tasks` with these arguments; on a thread, so that the server in this process can answer."""
        runner = CliRunner()
        command = ["tasks", *arguments]
        if environment is None:
            command += ["--data-dir", str(self.folder)]
        done = await asyncio.to_thread(runner.invoke, app, command, input=stdin, env={**UNSET, **(environment or {})})
        assert done.exit_code == status, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done

    async def submit(self, *arguments: str) -> str:
        """Submits a task; returns its id."""
        done = await self.run("submit", "echo", *arguments)
        assert UUID.fullmatch(done.stdout.strip())
        return done.stdout.strip()

    async def json(self, *arguments: str, status: int = 0) -> Any:
        """What the command prints with `--json`."""
        return json.loads((await self.run(*arguments, "--json", status=status)).stdout)


@asynccontextmanager
async def terminal(folder: Path) -> AsyncIterator[Terminal]:
    """A terminal, a service, and a worker of its workspace that has been greeted and takes `echo` tasks."""
    async with serving() as service:
        caller = await service.workspace()
        told = {
            "grpc_target": f"127.0.0.1:{service.port}",
            "workspace_id": caller.workspace_id,
            "workspace_secret": caller.secret,
        }
        (folder / "dev.json").write_text(json.dumps(told))
        worker = service.work(caller)
        await worker.hello()
        yield Terminal(service, worker, folder, told)


async def test_submit_and_get(tmp_path: Path) -> None:
    """`submit` prints the task's id alone; `get` shows what was said of the task, and its payload if asked."""
    async with terminal(tmp_path) as shell:
        task_id = await shell.submit(
            *("--payload", '{"n": 1, "text": "ü\\u001b[31m"}', "--label", "team=search", "--metadata", "a=b=c"),
            *("--priority", "2", "--dedupe-key", "nightly", "--schedule-time", "+1h", "--retention", "7d"),
            *("--maximum-attempts", "3", "--start-to-close-timeout", "90s", "--schedule-to-close-timeout", "1.5h"),
        )
        shown = (await shell.run("get", task_id, "--payload")).stdout
        seen = await shell.json("get", task_id, "--payload")
        unseen = await shell.json("get", task_id)
    for line in (
        "status           PENDING",
        "labels           team=search",
        "metadata         a=b=c",
        "priority         2",
    ):
        assert f"{line}\n" in shown
    assert '"text": "ü\\u001b[31m"' in shown
    assert "\x1b" not in shown
    assert seen.keys() == set(tasks_pb2.TaskDetail.DESCRIPTOR.fields_by_name)
    assert (seen["payload"], seen["metadata"], seen["dedupe_key"]) == (
        {"n": 1, "text": "ü\x1b[31m"},
        {"a": "b=c"},
        "nightly",
    )
    assert unseen == {name: value for name, value in seen.items() if name != "payload"}
    assert re.fullmatch(r"....-..-..T..:..:..\....Z", seen["submitted_at"])


@pytest.mark.parametrize("way", ["file", "stdin"])
async def test_payload_from_elsewhere(tmp_path: Path, way: str) -> None:
    """A payload comes from a file by `@`, or from standard input by `-`."""
    (tmp_path / "payload.json").write_text('{"n": 2}')
    async with terminal(tmp_path) as shell:
        source = f"@{tmp_path / 'payload.json'}" if way == "file" else "-"
        done = await shell.run("submit", "echo", "--payload", source, "--json", stdin='{"n": 2}')
        submitted = json.loads(done.stdout)
        assert submitted.keys() == {"task_id", "status", "submitted_at", "request_id"}
        assert (await shell.json("get", submitted["task_id"], "--payload"))["payload"] == {"n": 2}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--payload", "{"], "--payload: is not JSON: "),
        (["--payload", "[1]"], "--payload: must be a JSON object"),
        (["--payload", "@/no/such/file"], "--payload: cannot read /no/such/file: No such file"),
        (["--payload", '{"n": 9007199254740993}'], "payload.n: is an integer that a double can't hold"),
        (["--label", "team"], "--label: 'team' is not KEY=VALUE"),
        (["--priority", "9"], "INVALID_ARGUMENT: priority: "),
        (["--request-id", "1"], "INVALID_ARGUMENT: request_id: "),
    ],
)
async def test_what_can_not_be_submitted(tmp_path: Path, arguments: list[str], told: str) -> None:
    """What is wrong is told in one line, with status 1."""
    async with terminal(tmp_path) as shell:
        done = await shell.run("submit", "echo", *arguments, status=1)
    assert done.stdout == ""
    assert done.stderr.startswith(f"openmcp: {told}")
    assert done.stderr.count("\n") == 1


async def test_list(tmp_path: Path) -> None:
    """`list` has a line for each task, the newest first, with a note where there is something to note."""
    async with terminal(tmp_path) as shell:
        assert (await shell.run("list")).stderr == "There are no tasks.\n"
        failed = await shell.submit("--maximum-attempts", "1", "--label", "n=1")
        await shell.worker.fail((await shell.worker.task()).lease)
        running = await shell.submit()
        lease = (await shell.worker.task()).lease
        heartbeat = workers_pb2.Heartbeat(lease=lease)
        heartbeat.progress.fraction, heartbeat.progress.message = 0.5, "half"
        await shell.worker.say(heartbeat=heartbeat)
        await shell.worker.ack()
        waiting = await shell.submit("--schedule-time", "+90m", "--label", "n=3")
        all_lines = (await shell.run("list")).stdout.splitlines()
        listed = await shell.json("list")
        some = await shell.run("list", "--filter", "labels.n = 1 OR labels.n = 3", "--limit", "1")
        none = await shell.run("list", "--filter", "status = CANCELLED")
    rows = {line.split()[0]: line.split(maxsplit=5)[1:] for line in all_lines}
    assert rows["TASK"] == ["TYPE", "STATUS", "TRY", "AGE", "NOTE"]
    assert rows[failed][:3] == ["echo", "FAILED", "1"]
    assert rows[failed][4] == "BROKEN: it broke"
    assert (rows[running][1], rows[running][4]) == ("RUNNING", "50% half")
    assert (rows[waiting][1], rows[waiting][4]) == ("PENDING", "in 1h")
    assert not [task for task in listed if "result" in task or "payload" in task], "they were not read"
    assert [task["task_id"] for task in listed] == [line.split()[0] for line in all_lines[1:]]
    assert [task["submitted_at"] for task in listed] == sorted((t["submitted_at"] for t in listed), reverse=True)
    assert len(some.stdout.splitlines()) == 2
    assert some.stderr == "There are more than these 1: see --limit and --filter.\n"
    assert (none.stdout, none.stderr) == ("", "There are no such tasks.\n")


async def test_wait_ends_as_the_task_does(tmp_path: Path) -> None:
    """`wait` shows the task: status 0 if it succeeded, 2 if it failed, and 1 if it has not ended in time."""
    async with terminal(tmp_path) as shell:
        good = await shell.submit()
        late = await shell.run("wait", good, "--timeout", "100ms", status=1)
        assert late.stderr.startswith(f"openmcp: task {good} has not ended in time: it is ")
        waiting = asyncio.ensure_future(shell.run("wait", good))
        await shell.worker.complete((await shell.worker.task()).lease, {"rows": 3})
        shown = (await waiting).stdout
        bad = asyncio.ensure_future(shell.run("submit", "echo", "--maximum-attempts", "1", "--wait", status=2))
        await shell.worker.fail((await shell.worker.task()).lease)
        refused = (await bad).stdout
    assert "status           SUCCEEDED\n" in shown
    assert 'result           {\n                   "rows": 3\n                 }\n' in shown
    assert "error            BROKEN: it broke\n" in refused


async def test_watch(tmp_path: Path) -> None:
    """`watch` has a line for each event, progress and log lines among them, then the result; as JSON, a line each."""
    async with terminal(tmp_path) as shell:
        task_id = await shell.submit()
        lease = (await shell.worker.task()).lease
        heartbeat = workers_pb2.Heartbeat(lease=lease)
        heartbeat.progress.fraction, heartbeat.progress.message = 0.25, "a quarter"
        await shell.worker.say(heartbeat=heartbeat)
        await shell.worker.ack()
        await shell.worker.say(log=workers_pb2.Log(lease=lease, message="look\x1b[31m"))
        await shell.worker.ack()
        await shell.worker.complete(lease, {"rows": 3})
        lines = (await shell.run("watch", task_id)).stdout.splitlines()
        events = [json.loads(line) for line in (await shell.run("watch", task_id, "--json")).stdout.splitlines()]
        rest = (await shell.run("watch", task_id, "--after", "4", "--json")).stdout.splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in lines[:5]] == [
        "PENDING",
        "RUNNING    attempt 1, worker worker",
        "RUNNING    25% a quarter",
        "RUNNING    look\\x1b[31m",
        "SUCCEEDED  attempt 1",
    ]
    assert json.loads("\n".join(lines[5:])) == {"rows": 3}
    assert [event["sequence"] for event in events] == [1, 2, 3, 4, 5]
    assert events[0].keys() == set(tasks_pb2.TaskEvent.DESCRIPTOR.fields_by_name)
    assert [json.loads(line) for line in rest] == events[4:]


async def test_cancel_and_retry(tmp_path: Path) -> None:
    """`cancel` and `retry` say what has become of the task; what is watched and was cancelled ends with 2."""
    async with terminal(tmp_path) as shell:
        task_id = await shell.submit("--schedule-time", "+1h")
        assert (await shell.run("cancel", task_id, "--reason", "not wanted")).stdout == f"{task_id} CANCELLED\n"
        assert "reason not wanted" in (await shell.run("watch", task_id, status=2)).stdout
        await shell.run("watch", task_id, "--json", status=2)
        assert (await shell.json("retry", task_id))["status"] == "PENDING"
        assert (await shell.run("retry", task_id, status=1)).stderr.startswith("openmcp: TASK_NOT_RETRYABLE: ")
        await shell.worker.task()
        running = await shell.run("cancel", task_id)
        assert running.stdout == f"{task_id} RUNNING, cancel requested\n"


async def test_retry_by_filter(tmp_path: Path) -> None:
    """`retry --filter` prints the ids of what it has set going, and says so if there is more, or nothing."""
    async with terminal(tmp_path) as shell:
        ids = [await shell.submit("--schedule-time", "+1h") for _ in range(2)]
        for task_id in ids:
            await shell.run("cancel", task_id)
        first = await shell.run("retry", "--filter", "status = CANCELLED", "--limit", "1")
        assert first.stderr == "There are more: repeat the command.\n"
        second = await shell.json("retry", "--filter", "")
        assert sorted([first.stdout.strip(), *second["task_ids"]]) == sorted(ids)
        nothing = await shell.run("retry", "--filter", "status = CANCELLED AND type = none")
        assert (nothing.stdout, nothing.stderr) == ("", "There are no such tasks that failed or were cancelled.\n")
        for arguments in ([], [ids[0], "--filter", ""]):
            assert "give a TASK_ID, or else --filter" in (await shell.run("retry", *arguments, status=1)).stderr


async def test_credentials_of_the_environment(tmp_path: Path) -> None:
    """The environment's server and workspace are used, with a secret or its file; `--data-dir` comes before them."""
    async with terminal(tmp_path) as shell:
        secret = tmp_path / "secret"
        secret.write_text(shell.told["workspace_secret"])
        who = {"OPENMCP_SERVER": shell.told["grpc_target"], "OPENMCP_WORKSPACE_ID": shell.told["workspace_id"]}
        for more in (
            {"OPENMCP_WORKSPACE_SECRET": shell.told["workspace_secret"]},
            {"OPENMCP_WORKSPACE_SECRET_FILE": str(secret)},
        ):
            assert (await shell.run("list", environment=who | more)).stderr == "There are no tasks.\n"
        given = ["--server", who["OPENMCP_SERVER"], "--workspace-id", who["OPENMCP_WORKSPACE_ID"]]
        wrong = {"OPENMCP_SERVER": "127.0.0.1:1", "OPENMCP_WORKSPACE_ID": "ws-other"}
        await shell.run("list", *given, "--secret-file", str(secret), environment=wrong)
        await shell.run("list", "--data-dir", str(tmp_path), environment=wrong)
        missing = await shell.run("list", status=1, environment=who)
        assert missing.stderr == "openmcp: OPENMCP_WORKSPACE_SECRET: must be set\n"
        refused = await shell.run("list", status=1, environment=who | {"OPENMCP_WORKSPACE_SECRET": "no"})
        assert refused.stderr == "openmcp: CREDENTIALS_INVALID: workspace_id and workspace_secret do not match.\n"


def test_nothing_to_connect_to(tmp_path: Path) -> None:
    """Without a server and without a stack, one line says what there is to do."""
    done = CliRunner().invoke(app, ["tasks", "list", "--data-dir", str(tmp_path)], env=UNSET)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"openmcp: no stack is up on {tmp_path}: start `openmcp dev`, or set OPENMCP_SERVER")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_connect(command: str) -> None:
    """Each command has the options that say where and as whom; none of them takes a secret itself."""
    shown = CliRunner().invoke(app, ["tasks", command, "--help"]).output
    for option in ("--server", "--workspace-id", "--secret-file", "--ca-file", "--plaintext", "--data-dir", "--json"):
        assert option in shown
    assert not re.search(r"--[a-z-]*secret(?!-file)", shown)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["submit"], "Missing argument 'TYPE'"),
        (["bogus"], "No such command 'bogus'"),
        (["wait", "x", "--timeout", "soon"], "'soon' is not a length of time"),
        (["submit", "echo", "--schedule-time", "soon"], "'soon' is neither a time"),
        (["submit", "echo", "--schedule-time", "0001-01-01T00:00:00+14:00"], "is not in the years 1 to 9999"),
        (["submit", "echo", "--schedule-time", "+99999999999d"], "'99999999999d' is longer than 3650d"),
        (["submit", "echo", "--retention", "9" * 400], "is longer than 3650d"),
        (["wait", "x", "--timeout", "3651d"], "'3651d' is longer than 3650d"),
        (["submit", "echo", "--priority", "3000000000"], "Invalid value for '--priority'"),
        (["submit", "echo", "--maximum-attempts", "3000000000"], "Invalid value for '--maximum-attempts'"),
        (["watch", "x", "--after", "3000000000"], "Invalid value for '--after'"),
        (["list", "--limit", "0"], "--limit"),
    ],
)
def test_a_mistake_in_the_command_line(arguments: list[str], told: str) -> None:
    """A mistake ends with 1, since 2 means that a task failed."""
    done = CliRunner().invoke(app, ["tasks", *arguments])
    assert done.exit_code == 1
    assert told in done.stderr


async def on_a_terminal(shell: Terminal, *arguments: str) -> str:
    """What the command writes to a terminal that is 70 columns wide."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    process = subprocess.Popen(  # noqa: ASYNC220 - it only starts it
        [sys.executable, "-m", "openmcp_chain.cli", "tasks", *arguments, "--data-dir", str(shell.folder)],
        env={**environment, "COLUMNS": "70", "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = bytearray()

    def read() -> None:
        while True:
            try:
                if not (data := os.read(ours, 65536)):
                    return
            except OSError:  # how Linux says that nobody holds the other end any more
                return
            written.extend(data)

    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.to_thread(read)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0, written.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return written.decode()


def unstyled(text: str) -> list[str]:
    """Lines as they are read, each with all its versions."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))


async def test_a_table_fits_the_terminal(tmp_path: Path) -> None:
    """On a terminal, statuses are coloured, and a long note is cut at the edge."""
    async with terminal(tmp_path) as shell:
        task_id = await shell.submit("--maximum-attempts", "1")
        lease = (await shell.worker.task()).lease
        failure = workers_pb2.Fail(lease=lease, code="BROKEN", message="it broke " * 20)
        await shell.worker.say(fail=failure)
        await shell.worker.ack()
        written = await on_a_terminal(shell, "list")
    assert "\x1b[31mFAILED" in written
    row = next(line for line in unstyled(written) if line.startswith(task_id))
    assert len(row) == 70
    assert row.endswith("…")


async def test_watch_has_a_bar(tmp_path: Path) -> None:
    """On a terminal, progress moves a bar instead of making lines, and the bar is gone in the end."""
    async with terminal(tmp_path) as shell:
        task_id = await shell.submit()
        watching = asyncio.ensure_future(on_a_terminal(shell, "watch", task_id))
        lease = (await shell.worker.task()).lease
        heartbeat = workers_pb2.Heartbeat(lease=lease)
        heartbeat.progress.fraction, heartbeat.progress.message = 0.25, "a quarter"
        await shell.worker.say(heartbeat=heartbeat)
        await shell.worker.ack()
        async with asyncio.timeout(PATIENCE):
            while not shell.service.app.events.open:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
        await shell.worker.complete(lease, {"rows": 3})
        written = await watching
    lines = unstyled(written)
    assert any(re.search(r"RUNNING ━.* 25% .*a quarter", line) for line in lines)
    assert not any(re.match(r"\d\d:\d\d:\d\d  RUNNING    25%", line) for line in lines)
    assert any(line.endswith("SUCCEEDED  attempt 1") for line in lines)
    assert written.rstrip().endswith("}")
    assert "\x1b[?25h" in written  # the cursor is back
