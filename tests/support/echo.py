"""A worker of the tests' own, as a process that can be killed: tasks that take no time, or as long as a test wants.

Task types: `echo` returns its payload, after `seconds` of it if there are such; `fail` fails with the payload's `code`
and `message`; `hold` runs until the file that the payload names as `until` is there.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.stack import StackInfo
from support.workspaces import Credentials

from openmcp_chain.worker import TaskFailed, Worker

_LOOK_SECONDS = 0.02


class EchoWorker:
    """The process; it can be killed and started again."""

    def __init__(self, target: str, log: Path, credentials: Credentials) -> None:
        """`target`: the server's. `log`: where it writes."""
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "OPENMCP_SERVER": target,
            "OPENMCP_SECURE": "false",
            "OPENMCP_WORKSPACE_ID": credentials.workspace_id,
            "OPENMCP_WORKSPACE_SECRET": credentials.workspace_secret,
            "OPENMCP_WORKER_CONCURRENCY": "16",
        }
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert not self._process, "it is running"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, __file__], env=self._environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL)."""
        assert self._process, "it is not running"
        assert self._process.poll() is None, f"it had ended by itself:\n{self._log.read_text()}"
        self._process.kill()
        self._process.wait()
        self._process = None


@contextmanager
def running_echo(stack: StackInfo, credentials: Credentials) -> Iterator[EchoWorker]:
    """A worker that takes the workspace's tasks for the length of the block."""
    log = stack.data_dir.with_name(f"echo-{credentials.workspace_id}.output")
    worker = EchoWorker(stack.grpc_target, log, credentials)
    worker.start()
    try:
        yield worker
    finally:
        worker.kill()


def _work() -> None:
    worker = Worker.from_environment(name=f"echo-{os.getpid()}")

    @worker.task("echo")
    async def echo(payload: dict[str, Any]) -> dict[str, Any]:
        seconds = payload.get("seconds")
        if isinstance(seconds, float | int):
            await asyncio.sleep(seconds)
        return payload

    @worker.task("fail")
    async def fail(payload: dict[str, Any]) -> None:
        raise TaskFailed(payload["code"], payload["message"])

    @worker.task("hold")
    async def hold(payload: dict[str, Any]) -> None:
        until = Path(payload["until"])
        while not await asyncio.to_thread(until.exists):  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(_LOOK_SECONDS)

    worker.run()


if __name__ == "__main__":
    _work()
