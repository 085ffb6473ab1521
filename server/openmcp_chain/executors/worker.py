"""`openmcp worker`: the process that runs the task types that ship with the product."""

import asyncio
import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Each task starts a process. gRPC's fork handlers, which uvloop's fork runs into, crash about one such process in a
# hundred before it has begun (measured, grpcio 1.85.1); nothing here forks to use gRPC. Read when grpc is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import uvloop

from openmcp_chain import __version__, config, logs, telemetry
from openmcp_chain.config import ConfigError
from openmcp_chain.executors.data_pipeline import DataPipeline, Policy, PolicyError, S3Settings
from openmcp_chain.worker import SettingsError, Worker, WorkerRefused, WorkerStuck


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """What `data_pipeline` is told; the rest is what every worker is told (`worker.settings`)."""

    policy: Path | None
    """OPENMCP_PIPELINE_POLICY: what `data_pipeline` may touch for whom."""
    workdir: Path | None
    """OPENMCP_PIPELINE_WORKDIR: a folder for work in progress; by default one in the machine's temporary folder."""
    log_level: str
    """OPENMCP_LOG_LEVEL."""

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Self:
        """The settings. Raises ConfigError naming the variable at fault."""
        policy = variables.get("OPENMCP_PIPELINE_POLICY", "")
        workdir = variables.get("OPENMCP_PIPELINE_WORKDIR", "")
        return cls(
            policy=Path(policy) if policy else None,
            workdir=Path(workdir) if workdir else None,
            log_level=config.log_level(variables),
        )


def _pipeline(settings: PipelineSettings, variables: Mapping[str, str]) -> DataPipeline:
    """The shipped task type. Raises ConfigError for a policy or a folder that can't be used."""
    try:
        policy = Policy.load(settings.policy) if settings.policy else Policy({}, {})
    except (OSError, PolicyError) as error:
        raise ConfigError(f"OPENMCP_PIPELINE_POLICY: {error}") from None
    workdir = settings.workdir or own_folder(Path(tempfile.gettempdir(), f"openmcp-worker-{os.getuid()}"))
    return DataPipeline(policy, workdir, s3=S3Settings.from_environment(variables))


def own_folder(path: Path) -> Path:
    """The folder, made if it is not there. Raises ConfigError for one that others could change what is in.

    In a temporary folder anyone may have made it first, with a name that is easy to guess.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(f"{path} belongs to somebody else, or others may write to it: set OPENMCP_PIPELINE_WORKDIR")
    return path


def _loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    logs.guard(loop)
    return loop


def main() -> None:
    """`openmcp worker`: exit status 0 after a signal, 1 with one line on standard error if it can't work."""
    try:
        worker = Worker.from_environment(os.environ, version=__version__)
        settings = PipelineSettings.from_environment(os.environ)
        pipeline = _pipeline(settings, os.environ)
    except (ConfigError, SettingsError) as error:
        sys.exit(f"openmcp worker: {error}")
    worker.task("data_pipeline")(pipeline)
    logs.configure(settings.log_level)
    telemetry.configure("openmcp-worker")
    try:
        worker.run(loop_factory=_loop)
    except (WorkerRefused, WorkerStuck, SettingsError) as error:
        # The server's words are safe to show: they are from the error table.
        sys.exit(f"openmcp worker: {error}")
    finally:
        pipeline.close()
        telemetry.flush()


if __name__ == "__main__":
    main()
