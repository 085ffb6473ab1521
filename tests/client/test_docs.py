"""docs/client.md, followed by the letter: its programs and its commands are run against the service."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.service import PATIENCE, serving
from typer.testing import CliRunner

from openmcp_chain import client
from openmcp_chain.cli.main import app
from openmcp_chain.client import Client

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/client.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

REFUSED = {"cancel": "TASK_ENDED", "retry": "TASK_NOT_RETRYABLE"}


@asynccontextmanager
async def surroundings() -> AsyncIterator[dict[str, str]]:
    """A service with a worker that greets; gives the variables of a workspace's client."""
    async with serving() as service:
        caller = await service.workspace()
        stream = service.work(caller)
        await stream.hello("greet", concurrency=100)

        async def greet() -> None:
            while True:
                lease = (await stream.task()).lease
                await stream.complete(lease, {"text": "Hello Ada!"})

        greeting = asyncio.create_task(greet())
        yield {
            **os.environ,
            "OPENMCP_SERVER": f"127.0.0.1:{service.port}",
            "OPENMCP_WORKSPACE_ID": caller.workspace_id,
            "OPENMCP_WORKSPACE_SECRET": caller.secret,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        greeting.cancel()
        await asyncio.gather(greeting, return_exceptions=True)


async def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    """Runs the command to its end, which is a good one; returns what it printed."""
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("number", "printed"),
    [
        (0, r"Hello Ada!\n"),
        (1, r"1 PENDING\n2 RUNNING\n3 SUCCEEDED\nHello Ada!\n"),
        (2, r"[0-9a-f-]{36} ....-..-.. ..:..:..\.\d+\+00:00\n"),
    ],
)
async def test_programs(number: int, printed: str, tmp_path: Path) -> None:
    """Each program runs as it stands."""
    assert len(PROGRAMS) == 3
    async with surroundings() as environment:
        said = await run([sys.executable, "-W", "error", "-c", PROGRAMS[number]], environment, tmp_path)
    assert re.fullmatch(printed, said)


async def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command does what it says. When the task is to be cancelled or retried, it has ended, and well."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "payload.json").write_text('{"name": "Ada"}')
    commands = [shlex.split(line) for line in COMMANDS[0].splitlines()]
    assert len(commands) == 9
    task = ""
    async with surroundings() as environment:
        for program, *arguments in commands:
            assert program == "openmcp"
            given = [task if argument == "$TASK" else argument for argument in arguments]
            done = await asyncio.to_thread(CliRunner().invoke, app, given, env=environment)
            task = task or done.stdout.strip()
            refusal = REFUSED.get(given[1], "") if given[2] == task else ""
            assert (done.exit_code, refusal in done.stderr) == (1 if refusal else 0, True), done.output


def test_every_method_and_exception_is_told_of() -> None:
    """The page names each public method of the client, and each of its exceptions."""
    methods = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    raised = {
        name
        for name in client.__all__
        if isinstance(getattr(client, name), type) and issubclass(getattr(client, name), client.Error)
    }
    assert {name for name in methods if f"`{name}(" not in TEXT} == set()
    assert {name for name in raised - {"Error"} if f"`{name}`" not in TEXT} == set()


def test_links() -> None:
    """Every link into the repository leads somewhere."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
