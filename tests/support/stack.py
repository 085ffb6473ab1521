"""The whole stack to test against: `openmcp dev` as a process, with its real Envoy, database, server and worker."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 60.0
END_SECONDS = 40.0
_PAUSE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StackInfo:
    """A running stack: what its `dev.json` said when it was ready."""

    rest_url: str
    grpc_target: str
    envoy_grpc_target: str
    mongodb_uri: str
    workspace_id: str
    workspace_secret: str
    files_dir: Path
    data_dir: Path
    ca_file: str | None = None
    """With TLS; so are the next two."""
    cert_file: str | None = None
    key_file: str | None = None
    process: "subprocess.Popen[bytes]"
    """The supervisor, `openmcp dev`."""

    @property
    def pids(self) -> Mapping[str, int]:
        """The children's, as `dev.json` has them now: a restart changes them."""
        pids: Mapping[str, int] = json.loads((self.data_dir / "dev.json").read_text())["pids"]
        return pids

    @property
    def output(self) -> str:
        """All that the supervisor has printed so far."""
        return _output(self.data_dir).read_text()

    def until_shown(self, text: str, seconds: float = 60.0) -> str:
        """Waits until the supervisor has printed this, and returns all that it has printed."""
        end = time.monotonic() + seconds
        while text not in self.output:
            assert self.process.poll() is None, f"openmcp dev ended:\n{self.output}"
            assert time.monotonic() < end, f"not shown: {text}\n{self.output}"
            time.sleep(_PAUSE)
        return self.output

    def until_restarted(self, name: str, pid: int, seconds: float = 30.0) -> int:
        """Waits until a child runs under another pid than this one, and returns it."""
        end = time.monotonic() + seconds
        while (current := self.pids[name]) == pid:
            assert time.monotonic() < end, f"{name} was not started again:\n{self.output}"
            time.sleep(_PAUSE)
        return current


@contextmanager
def running_stack(
    data_dir: Path, *arguments: str, environment: Mapping[str, str] | None = None, stdout: int | None = None
) -> Iterator[StackInfo]:
    """Starts `openmcp dev` on free ports and this folder; gives it when it is ready; ends it and all its children.

    `arguments` are further flags, such as `--no-sample`. `environment` is added to our own. `stdout` is where it
    prints, instead of where `output` looks.
    """
    (data_dir / "dev.json").unlink(missing_ok=True)  # that of a stack that was killed
    process = start(data_dir, *arguments, environment=environment, stdout=stdout)
    try:
        _until_ready(process, data_dir)
        told = json.loads((data_dir / "dev.json").read_text())
        del told["pids"]
        yield StackInfo(**told | {"files_dir": Path(told["files_dir"])}, data_dir=data_dir, process=process)
    finally:
        end(process)


def start(
    data_dir: Path, *arguments: str, environment: Mapping[str, str] | None = None, stdout: int | None = None
) -> "subprocess.Popen[bytes]":
    """Starts `openmcp dev` without waiting for it. What it prints goes to `output` in the folder beside the data."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).with_name("openmcp")), "dev", "--data-dir", str(data_dir)]
    with _output(data_dir).open("ab") as output:
        return subprocess.Popen(
            [*command, "--rest-port", "0", "--grpc-port", "0", *arguments],
            env={**os.environ, **(environment or {})},
            stdout=output if stdout is None else stdout,
            stderr=output,
        )


def end(process: "subprocess.Popen[bytes]") -> int:
    """Ends it as a service manager would, and returns its status. Its children die with it, even if it is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def _output(data_dir: Path) -> Path:
    return data_dir.with_name(f"{data_dir.name}.output")


def _until_ready(process: "subprocess.Popen[bytes]", data_dir: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not (data_dir / "dev.json").exists():
        assert process.poll() is None, f"openmcp dev ended:\n{_output(data_dir).read_text()}"
        assert time.monotonic() < deadline, f"openmcp dev is not ready:\n{_output(data_dir).read_text()}"
        time.sleep(_PAUSE)
