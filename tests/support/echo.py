"""A worker of the tests' own, as a process that can be killed: tasks that take no time, or as long as a test wants.

Task types: `echo` returns its payload, after `seconds` of it if there are such; `fail` fails with the payload's `code`
and `message`; `hold` runs until the file that the payload names as `until` is there.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.stack import StackInfo
from support.workspaces import Credentials

from openmcp_chain.worker import Task, TaskFailed
from openmcp_chain.worker.connection import Connection
from openmcp_chain.worker.worker import Worker

_LOOK_SECONDS = 0.02


class EchoWorker:
    """The process; it can be killed and started again."""

    def __init__(self, stack: StackInfo, credentials: Credentials) -> None:
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "OPENMCP_SERVER": stack.grpc_target,
            "OPENMCP_WORKSPACE_ID": credentials.workspace_id,
            "OPENMCP_WORKSPACE_SECRET": credentials.workspace_secret,
        }
        self._log = stack.data_dir.with_name(f"echo-{credentials.workspace_id}.output")
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
    worker = EchoWorker(stack, credentials)
    worker.start()
    try:
        yield worker
    finally:
        worker.kill()


async def _echo(task: Task) -> Mapping[str, Any]:
    seconds = task.payload.get("seconds")
    if isinstance(seconds, float | int):
        await asyncio.sleep(seconds)
    return task.payload


async def _fail(task: Task) -> Mapping[str, Any]:
    raise TaskFailed(task.payload["code"], task.payload["message"])


async def _hold(task: Task) -> Mapping[str, Any]:
    until = Path(task.payload["until"])
    while not await asyncio.to_thread(until.exists):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(_LOOK_SECONDS)
    return {}


async def _main() -> None:
    environment = os.environ
    connection = Connection(
        environment["OPENMCP_SERVER"], environment["OPENMCP_WORKSPACE_ID"], environment["OPENMCP_WORKSPACE_SECRET"]
    )
    functions = {"echo": _echo, "fail": _fail, "hold": _hold}
    worker = Worker(connection, functions, name=f"echo-{os.getpid()}", concurrency=16)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(_main())
