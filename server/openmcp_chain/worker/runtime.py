"""`openmcp worker`: the process that runs the task types that ship with the product."""

import asyncio
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Each task starts a process. gRPC's fork handlers, which uvloop's fork runs into, crash about one such process in a
# hundred before it has begun (measured, grpcio 1.85.1); nothing here forks to use gRPC. Read when grpc is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import grpc
import uvloop

from openmcp_chain import __version__, config, logs, telemetry
from openmcp_chain.config import ConfigError
from openmcp_chain.executors.data_pipeline import DataPipeline, Policy, PolicyError, S3Settings
from openmcp_chain.worker.connection import Connection
from openmcp_chain.worker.task import TaskFunction
from openmcp_chain.worker.worker import Worker


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker process is told."""

    server: str
    """OPENMCP_SERVER: the gRPC target."""
    workspace_id: str
    """OPENMCP_WORKSPACE_ID: the operator, or a workspace."""
    workspace_secret: str
    """OPENMCP_WORKSPACE_SECRET, or the file that OPENMCP_WORKSPACE_SECRET_FILE names."""
    concurrency: int
    """OPENMCP_WORKER_CONCURRENCY: how many tasks at a time."""
    policy: Path | None
    """OPENMCP_PIPELINE_POLICY: what `data_pipeline` may touch for whom."""
    workdir: Path
    """OPENMCP_PIPELINE_WORKDIR: a folder for work in progress; by default one in the machine's temporary folder."""
    ready_file: Path | None
    """OPENMCP_WORKER_READY_FILE: a file that is there while a server gives this worker tasks; for probes."""
    log_level: str


def from_environment(environment: Mapping[str, str] = os.environ) -> WorkerConfig:
    """The settings. Raises ConfigError naming the variable at fault."""
    server, workspace_id = environment.get("OPENMCP_SERVER", ""), environment.get("OPENMCP_WORKSPACE_ID", "")
    for name, value in (("OPENMCP_SERVER", server), ("OPENMCP_WORKSPACE_ID", workspace_id)):
        if not value:
            raise ConfigError(f"{name} must be set")
    concurrency = environment.get("OPENMCP_WORKER_CONCURRENCY", "4")
    if re.fullmatch("[1-9][0-9]{0,2}|1000", concurrency) is None:
        raise ConfigError(f"OPENMCP_WORKER_CONCURRENCY must be from 1 to 1000, not {concurrency!r}")
    policy = environment.get("OPENMCP_PIPELINE_POLICY", "")
    return WorkerConfig(
        server=server,
        workspace_id=workspace_id,
        workspace_secret=config.secret(environment, "OPENMCP_WORKSPACE_SECRET"),
        concurrency=int(concurrency),
        policy=Path(policy) if policy else None,
        workdir=Path(
            environment.get("OPENMCP_PIPELINE_WORKDIR") or Path(tempfile.gettempdir(), f"openmcp-worker-{os.getuid()}")
        ),
        ready_file=Path(environment["OPENMCP_WORKER_READY_FILE"])
        if environment.get("OPENMCP_WORKER_READY_FILE")
        else None,
        log_level=config.log_level(environment),
    )


def _pipeline(settings: WorkerConfig, environment: Mapping[str, str] = os.environ) -> DataPipeline:
    """The shipped task type. Raises ConfigError for a policy that can't be used."""
    try:
        policy = Policy.load(settings.policy) if settings.policy else Policy({}, {})
    except (OSError, PolicyError) as error:
        raise ConfigError(f"OPENMCP_PIPELINE_POLICY: {error}") from None
    return DataPipeline(policy, settings.workdir, s3=S3Settings.from_environment(environment))


async def _work(settings: WorkerConfig, functions: Mapping[str, TaskFunction]) -> None:
    """Runs a worker until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    logs.guard(loop)
    worker = Worker(
        Connection(settings.server, settings.workspace_id, settings.workspace_secret),
        functions,
        name=f"{socket.gethostname()[:100]}:{os.getpid()}",
        version=__version__,
        concurrency=settings.concurrency,
        on_connection=lambda connected: _mark(settings.ready_file, connected),
    )
    _mark(settings.ready_file, False)  # left by a worker that was killed
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, worker.stop)
    await worker.run()


def _mark(ready_file: Path | None, ready: bool) -> None:
    if ready_file and ready:
        ready_file.touch()
    elif ready_file:
        ready_file.unlink(missing_ok=True)


def main() -> None:
    """`openmcp worker`: exit status 0 after a signal, 1 with one line on standard error if it can't work."""
    try:
        settings = from_environment()
        pipeline = _pipeline(settings)
    except ConfigError as error:
        sys.exit(f"openmcp worker: {error}")
    logs.configure(settings.log_level)
    telemetry.configure("openmcp-worker")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_work(settings, {"data_pipeline": pipeline}))
    except grpc.aio.AioRpcError as error:
        # The server will not have this worker at all; its words are safe to show, they are from the error table.
        sys.exit(f"openmcp worker: {error.details()}")
    finally:
        pipeline.close()
        telemetry.flush()
