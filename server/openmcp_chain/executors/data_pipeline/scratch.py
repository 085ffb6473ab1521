"""The worker's own folder for work in progress, and the sweeping up after workers that died."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


class Scratch:
    """A folder of this process's own inside `workdir`, which several workers may share.

    The folder is locked while its process lives, and the kernel ends the lock with the process. So a folder that can be
    locked belongs to nobody, and goes.
    """

    def __init__(self, workdir: pathlib.Path) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        self._lock, self._own = _claim(workdir)
        for other in workdir.glob("worker-*"):
            if other != self._own:
                _sweep(other)

    @contextlib.contextmanager
    def folder(self) -> Iterator[pathlib.Path]:
        """A new empty folder, removed with all in it afterwards."""
        with tempfile.TemporaryDirectory(dir=self._own, ignore_cleanup_errors=True) as name:
            yield pathlib.Path(name)

    def close(self) -> None:
        """Removes the process's folder."""
        shutil.rmtree(self._own, ignore_errors=True)
        os.close(self._lock)


def _claim(workdir: pathlib.Path) -> tuple[int, pathlib.Path]:
    while True:
        own = pathlib.Path(tempfile.mkdtemp(prefix="worker-", dir=workdir))
        # Another worker that starts in this moment may sweep it before it is locked; then there is another.
        with contextlib.suppress(OSError):
            lock = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if own.exists():
                return lock, own
            os.close(lock)


def _sweep(folder: pathlib.Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
