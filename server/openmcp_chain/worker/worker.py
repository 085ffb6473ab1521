"""The worker: task functions by type, run for a server until it is told to stop."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.client.connection import Credentials, Server
from openmcp_chain.client.values import Seconds
from openmcp_chain.worker import attempt, functions
from openmcp_chain.worker.connection import Connection
from openmcp_chain.worker.conversation import Conversation
from openmcp_chain.worker.functions import Function
from openmcp_chain.worker.held import Held
from openmcp_chain.worker.settings import Settings
from openmcp_chain.worker.threads import Threads

log = logging.getLogger(__name__)

DRAIN_SECONDS = 20.0
"""How long running tasks may go on after a signal to stop, unless the worker is told another time."""
FAREWELL_SECONDS = 2.0
"""How long those that were stopped then have to be reported."""

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Worker:
    """Runs task functions for a server.

    A function takes the payload, and if it likes a `Context`:

        @worker.task("resize")
        def resize(payload: Resize, context: Context) -> dict[str, Any]: ...

    It may be `async` or plain; plain ones run in threads. The payload comes as the annotation says: a mapping, a
    dataclass or a pydantic model; the result is one of these or None. See `docs/worker.md`.
    """

    def __init__(
        self,
        target: str,
        *,
        workspace_id: str,
        workspace_secret: str,
        secure: bool | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        concurrency: int = 4,
        name: str = "",
        version: str = "",
        drain: Seconds = DRAIN_SECONDS,
        ready_file: Path | None = None,
    ) -> None:
        """A worker that connects when it is run.

        Args:
            target: `host:port`.
            workspace_id: As whom it signs in: a workspace, whose tasks it takes, or an operator.
            workspace_secret: The workspace's secret.
            secure: Whether TLS is used; by default it is, unless the target is this machine.
            ca: A PEM file with the authorities to trust, in place of gRPC's own.
            certificate: A PEM file with the certificate to show to a server that asks for one.
            key: The PEM file with that certificate's key.
            concurrency: How many tasks at a time, from 1 to 1,000.
            name: Shown in the events of each task that it runs; by default host and process id.
            version: Of its code, shown beside the name.
            drain: How long running tasks may go on after it was told to stop,
            ready_file: A file that is there while a server gives it tasks; for probes.
        """
        self._server = Server(target, secure, ca, certificate, key)
        # No more than it needs: whoever gets hold of its token can't submit or read the workspace's other tasks.
        self._credentials = Credentials(workspace_id, workspace_secret, ("worker",))
        self._concurrency = concurrency
        self._name = name or f"{socket.gethostname()[:100]}:{os.getpid()}"
        self._version = version
        self._drain_seconds = drain.total_seconds() if isinstance(drain, timedelta) else drain
        self._ready_file = ready_file
        self._functions: dict[str, Function] = {}
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] = os.environ,
        *,
        name: str = "",
        version: str = "",
        drain: Seconds = DRAIN_SECONDS,
    ) -> Self:
        """A worker by the environment's variables, which `Settings` lists. Raises SettingsError."""
        settings = Settings.from_environment(environment)
        return cls(
            settings.server.target,
            workspace_id=settings.credentials.workspace_id,
            workspace_secret=settings.credentials.workspace_secret,
            secure=settings.server.secure,
            ca=settings.server.ca,
            certificate=settings.server.certificate,
            key=settings.server.key,
            concurrency=settings.concurrency,
            ready_file=settings.ready_file,
            name=name,
            version=version,
            drain=drain,
        )

    def task(self, task_type: str) -> Callable[[_Function], _Function]:
        """Registers the decorated function for this type of task, and leaves it as it is.

        Raises:
            ValueError: It is no name of a type, or has a function.
            TypeError: The function can't be a task function.
        """
        if _TYPE.fullmatch(task_type) is None:
            raise ValueError(f"a task type is 1 to 128 of a-z A-Z 0-9 _ . -, a letter first, not {task_type!r}")
        if task_type in self._functions:
            raise ValueError(f"{task_type} has a function already")

        def register(function: _Function) -> _Function:
            self._functions[task_type] = functions.inspected(function)
            return function

        return register

    def run(self, *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
        """Works until SIGTERM or SIGINT; then drains. A second signal ends the drain.

        Raises:
            WorkerRefused: The server will not have this worker: it may not take one of the types, for instance.
            WorkerStuck: As many functions as may run at a time do not end.
            SettingsError: The file of authorities can't be read.
        """
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(self._serve_until_signal())

    async def serve(self) -> None:
        """Works until `stop`, in a loop of the caller's. Raises as `run` does."""
        if not self._functions:
            raise ValueError("no function is registered: decorate one with @worker.task")
        self._mark(ready=False)  # left by a worker that was killed
        connection = Connection(self._server, self._credentials)
        threads = Threads(self._concurrency)

        def run(held: Held) -> Coroutine[None, None, None]:
            return attempt.run(held, self._functions[held.leased.type], threads)

        hello = workers_pb2.Hello(
            worker_name=self._name,
            worker_version=self._version,
            task_types=sorted(self._functions),
            max_concurrency=self._concurrency,
        )
        conversation = Conversation(connection, hello, run, lambda connected: self._mark(ready=connected))
        talking = asyncio.create_task(conversation.talk())
        draining = asyncio.create_task(self._drain(conversation))
        try:
            await asyncio.wait({talking, draining}, return_when=asyncio.FIRST_COMPLETED)
            if talking.done():
                talking.result()
        finally:
            talking.cancel()
            draining.cancel()
            await asyncio.gather(talking, draining, return_exceptions=True)
            await conversation.close()
            await connection.close()

    def stop(self) -> None:
        """Takes no more tasks; `serve` returns when those at hand have ended, at the latest when the drain is over.

        A second call ends the drain. To be called in the loop's thread.
        """
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def _serve_until_signal(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows: a Ctrl-C cancels this
                loop.add_signal_handler(name, self.stop)
        await self.serve()

    async def _drain(self, conversation: Conversation) -> None:
        """Returns when there is no more waiting for tasks to end; `talk` usually does so before."""
        await self._stopping.wait()
        if not conversation.stop():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                await self._hurrying.wait()
        log.warning("stopping tasks that have not ended", extra={"tasks": conversation.tasks})
        conversation.hand_back()
        await asyncio.sleep(FAREWELL_SECONDS)

    def _mark(self, *, ready: bool) -> None:
        if self._ready_file and ready:
            self._ready_file.touch()
        elif self._ready_file:
            self._ready_file.unlink(missing_ok=True)
