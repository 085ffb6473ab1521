"""What the stack keeps in its data folder, and the lock that makes one stack its only user."""

import base64
import errno
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from openmcp_chain.stack.failure import StackError


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What a program needs to know to use a running stack: the contents of `dev.json`."""

    rest_url: str
    grpc_target: str
    """The server itself."""
    envoy_grpc_target: str
    mongodb_uri: str
    workspace_id: str
    workspace_secret: str = field(repr=False)
    files_dir: str
    """The folder that the demo workspace's `file://` may touch."""
    pids: Mapping[str, int]
    """The children's, by name; kept up to date when one is started again."""
    ca_file: str | None = None
    """With TLS, the authority to trust. It and the next two are not in `dev.json` otherwise."""
    cert_file: str | None = None
    """With TLS, what a caller shows the server itself."""
    key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the stack remembers from one run to the next."""

    workspace_secret: str = field(default="", repr=False)
    operator_secret: str = field(default="", repr=False)
    last_task: str = ""
    """The id of the latest sample task that succeeded."""


class DataFolder:
    """The data folder: this process's alone from construction until `close`, or until the process ends."""

    def __init__(self, path: Path) -> None:
        """Makes the folder if need be. Raises StackError if it can't be used, or if another stack uses it."""
        self.path = path.resolve()  # what a task may touch is decided without following links
        self.logs = self.path / "logs"
        self.database = self.path / "database"
        self.envoy = self.path / "envoy"
        self.files = self.path / "files"
        self.tls = self.path / "tls"
        self.dev_json = self.path / "dev.json"
        self.master_key = self.path / "master.key"
        self.policy = self.path / "pipeline.toml"
        self._memory = self.path / "memory.json"
        try:
            os.fsencode(self.path).decode()
        except UnicodeDecodeError:
            raise StackError(f"data folder {str(path)!a} can't be used: its name is not UTF-8") from None
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            self._take_lock()
            for folder in (self.logs, self.database, self.envoy, self.files, self.tls):
                folder.mkdir(mode=0o700, exist_ok=True)
            self.dev_json.unlink(missing_ok=True)  # left by a stack that was killed
            if not self.master_key.exists():
                write_private(self.master_key, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
        except OSError as error:
            raise StackError(f"data folder {path} can't be used: {error.strerror} ({error.filename})") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes `dev.json` away and lets go of the folder."""
        self.dev_json.unlink(missing_ok=True)
        os.close(self._lock)

    def publish(self, info: Info) -> None:
        """Writes `dev.json`: who finds it finds a stack that is ready."""
        told = {name: value for name, value in asdict(info).items() if value is not None}
        write_private(self.dev_json, json.dumps(told, indent=2) + "\n")

    def recall(self) -> Memory:
        """What was remembered last; nothing, if that can't be read."""
        with suppress(OSError, ValueError, TypeError):
            return Memory(**json.loads(self._memory.read_text()))
        return Memory()

    def remember(self, memory: Memory) -> None:
        write_private(self._memory, json.dumps(asdict(memory), indent=2) + "\n")

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise StackError(
                f"data folder {self.path} is in use by process {holder or '(unknown)'}; "
                "stop it, or choose another with --data-dir"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner may read (mode 0600), all of it or none of it, whatever happens meanwhile.

    Raises OSError; also for what is there and is no file, such as /dev/stdout, which it would take the place of.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "is there, and is no file", str(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
