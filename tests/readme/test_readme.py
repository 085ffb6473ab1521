"""The README, followed by the letter: every command in it is run, on other ports and in another folder."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.stack import StackInfo

from openmcp_chain.domain import workspace

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_ELSEWHERE = {
    "make run": "by the continuous integration, and by the fixture below as `openmcp dev`",
    "make test": "by whoever runs this test",
    "make generate\nmake check": "by the continuous integration",
}
"""Blocks that can't be run from inside a test, and where they are run."""

INLINE = sorted(
    set(re.findall(r"`(make [^`]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)))
    - set(RUN_ELSEWHERE)
)
BLOCKS = [(language, text.strip()) for language, text in BLOCK.findall(README)]
SHELL = [text for language, text in BLOCKS if language == "sh" and text not in RUN_ELSEWHERE]
PYTHON = [text for language, text in BLOCKS if language == "python"]


def test_readme_has_the_commands() -> None:
    """The blocks are found at all, and those run elsewhere are still in the README, and are run there (`.ci/run`)."""
    assert len(SHELL) == 7
    assert len(PYTHON) == 2
    texts = [text for _, text in BLOCKS]
    assert all(text in texts for text in RUN_ELSEWHERE)
    ci = (ROOT / ".ci/run").read_text()
    commands = {line for text in RUN_ELSEWHERE for line in text.splitlines()}
    assert [command for command in commands if f"\n{command}" not in ci] == []


@pytest.mark.parametrize("command", INLINE)
def test_commands_in_the_text(command: str) -> None:
    """What the text says in passing that one may call can be called, and explains itself."""
    # The environment is there, and is not to be made anew in the middle of a test.
    make = ["make", "--assume-old=.venv/installed", *shlex.split(command)[1:]]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ("--rest-port" if "--help" in command else "generate") in done.stdout


@pytest.fixture(scope="module")
def shown(stack: StackInfo, request: pytest.FixtureRequest) -> str:
    """What the shell commands print: one shell runs them in order, beside the worker; grpcurl's where there is go."""
    go = shutil.which("go") is not None
    programs = [request.getfixturevalue("grpcurl")] if go else []
    commands = "\n".join(text for text in SHELL if go or not text.startswith("grpcurl"))
    with _working(stack):
        return _run(stack, ["bash", "-euc", commands], *programs)


@pytest.mark.timeout(600)
def test_shell_commands(shown: str) -> None:
    """Tasks succeed, a mistake is named, the CLI answers."""
    assert "Hello Ada!" in shown
    assert "event: status" in shown
    assert shown.count('"status":"SUCCEEDED"') == 2  # its last event, and the task itself
    assert '"artifact_uri":"file://' in shown
    assert '"code":"INVALID_ARGUMENT","message":"type: is required"' in shown
    assert "omcp_" in shown
    assert "ws-demo" in shown
    assert '"pending_tasks":1000' in shown


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("go") is None, reason="needs go, which is not on the PATH, to build grpcurl")
def test_grpcurl_command(shown: str) -> None:
    """After the blocks that it builds on, grpcurl's shows the same task."""
    assert '"status": "TASK_STATUS_SUCCEEDED"' in shown


def test_python_program(stack: StackInfo) -> None:
    """The program follows its task to the end, and prints the checksum."""
    (stack.files_dir / "input.json").write_text('[{"city": "Accra", "c": 31}]')  # which the shell's commands make
    done = _run(stack, [sys.executable, "-c", PYTHON[0]])
    assert done.splitlines()[-2:][0].endswith("TASK_STATUS_SUCCEEDED")
    assert done.splitlines()[-1].startswith("sha256:")


@pytest.mark.slow
@pytest.mark.timeout(400)  # it starts a dozen commands, and each disable waits until every server knows
def test_page_on_workspaces(stack: StackInfo) -> None:
    """Its commands, in one shell and in their order: a workspace's whole life, by REST and on the database itself."""
    blocks = [text for language, text in BLOCK.findall((ROOT / "docs/workspaces.md").read_text()) if language == "sh"]
    assert len(blocks) == 9
    done = _run(stack, ["bash", "-euc", "\n".join(blocks)])
    assert '"error"' not in done
    assert re.findall(r'"state":"(\w+)"', done)[-4:] == ["DISABLED", "ACTIVE", "DELETING", "DELETING"]
    assert '"action":"workspace.delete"' in done
    assert re.search(r'^\S+Z  local:\S+  workspace\.disable  \S+  reason="a test"$', done, re.MULTILINE)
    admin = (stack.data_dir / "admin-secret").read_text().strip()
    assert workspace.secret_id(admin)


def test_links() -> None:
    """Every link into the repository leads somewhere."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@contextmanager
def _working(stack: StackInfo) -> Iterator[None]:
    """Runs the README's worker for the length of the block; it ends as Ctrl-C ends it."""
    worker = subprocess.Popen([sys.executable, "-c", PYTHON[1]], cwd=stack.data_dir.parent)
    try:
        yield
        worker.send_signal(signal.SIGINT)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()


def _here(text: str, stack: StackInfo) -> str:
    """The text with this stack's ports in place of the usual ones."""
    text = text.replace("127.0.0.1:8080", stack.rest_url.removeprefix("http://"))
    return text.replace("127.0.0.1:50051", stack.grpc_target)


def _run(stack: StackInfo, command: list[str], *path: Path) -> str:
    """Runs the command as a newcomer would, in the project's folder; returns all that it prints."""
    programs = [str(Path(sys.executable).parent), *map(str, path), os.environ["PATH"]]
    done = subprocess.run(
        [_here(part, stack) for part in command],
        cwd=stack.data_dir.parent,
        env={**os.environ, "PATH": os.pathsep.join(programs)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
