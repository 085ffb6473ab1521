"""`file://`: reading and writing inside the allowed folders, whatever symbolic links anyone makes there meanwhile.

A path is opened part by part, each relative to the folder opened before and none through a symbolic link (openat(2)
with O_NOFOLLOW). So there is no moment between a check and its use. The allowed folder itself is the operator's word,
and may be a symbolic link. A file with a second name somewhere (a hard link) is not read, since that name may be
outside the folder; written, it loses this name to the new file, and the other name keeps the old one.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import pathlib
import stat
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.data_pipeline.limits import Limits
from openmcp_chain.executors.data_pipeline.policy import Access
from openmcp_chain.executors.data_pipeline.uris import Uri

_CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: to open a pipe would wait for its other end. O_NOCTTY: a terminal would become ours.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LINK = (errno.ELOOP, errno.ENOTDIR)
"""What the kernel says of a symbolic link: the first of a file, the second of a folder, or of a file used as one."""
T = TypeVar("T")


async def interruptible(work: Callable[[threading.Event], T]) -> T:
    """Runs `work` on a thread. If the caller is cancelled, sets the event and waits until the thread has stopped."""
    stop = threading.Event()
    running = asyncio.get_running_loop().run_in_executor(None, work, stop)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        running.exception()  # seen: it stopped because it was told to
        raise


async def fetch(uri: Uri, access: Access, target: pathlib.Path, limits: Limits) -> None:
    """Copies the file to `target`.

    Raises:
        Refused: ACCESS_DENIED, INPUT_NOT_FOUND, INPUT_TOO_LARGE, INPUT_UNAVAILABLE.
    """
    await interruptible(lambda stop: _fetch(uri, access, target, limits, stop))


async def publish(
    artifact: pathlib.Path, uri: Uri, access: Access, *, mark: str, earlier: list[str], replace: bool
) -> str | None:
    """Puts the artifact at its final name, whole or not at all.

    It is written beside it first, as `.<mark>.part`, flushed to the disk and renamed; those of the marks `earlier` are
    left over from attempts that died, and removed. Folders that are missing are made.

    Returns:
        Its SHA-256, in hexadecimal. None only if not `replace`, and something else was there.

    Raises:
        Refused: ACCESS_DENIED, OUTPUT_FAILED.
    """
    return await interruptible(lambda stop: _publish(artifact, uri, access, mark, earlier, replace, stop))


def _fetch(uri: Uri, access: Access, target: pathlib.Path, limits: Limits, stop: threading.Event) -> None:
    with (
        _folder(uri, access, make=False) as (folder, name),
        _opened(uri, folder, name) as source,
        target.open("wb") as copy,
    ):
        too_large = Refused(Code.INPUT_TOO_LARGE, f"{uri}: has more than {limits.input_bytes} bytes")
        if os.fstat(source).st_size > limits.input_bytes:
            raise too_large
        size = 0
        while chunk := _read(source, stop):
            size += len(chunk)
            if size > limits.input_bytes:  # it grows
                raise too_large
            copy.write(chunk)


@contextlib.contextmanager
def _opened(uri: Uri, folder: int, name: str) -> Iterator[int]:
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        raise _unreadable(uri, error) from None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(Code.INPUT_INVALID, f"{uri}: is not a file")
        if found.st_nlink > 1:
            # An artifact that is being put in its place has two names for a moment.
            raise Refused(Code.ACCESS_DENIED, f"{uri}: has another name (a hard link)", retryable=True)
        yield file
    finally:
        os.close(file)


def _read(file: int, stop: threading.Event) -> bytes:
    if stop.is_set():
        raise InterruptedError
    return os.read(file, _CHUNK)


def _publish(
    artifact: pathlib.Path,
    uri: Uri,
    access: Access,
    mark: str,
    earlier: list[str],
    replace: bool,
    stop: threading.Event,
) -> str | None:
    part = f".{mark}.part"
    with _folder(uri, access, make=True) as (folder, name):
        try:
            for old in (*earlier, mark):
                _remove(f".{old}.part", folder)
            try:
                digest = _write(artifact, part, folder, stop)
                done = _place(part, name, folder, replace)
            finally:
                _remove(part, folder)
            os.fsync(folder)
            return digest if done or _digest(name, folder, stop) == digest else None
        except InterruptedError:
            raise
        except OSError as error:
            # A full disk may have room again; a folder in the file's place will not go away.
            again = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOENT)
            raise Refused(Code.OUTPUT_FAILED, f"{uri}: {error.strerror}", retryable=again) from None


def _write(artifact: pathlib.Path, part: str, folder: int, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
    with open(file, "wb") as copy, artifact.open("rb") as source:  # noqa: PTH123 - it has a number, not a path
        while chunk := _read(source.fileno(), stop):
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    return digest.hexdigest()


def _place(part: str, name: str, folder: int, replace: bool) -> bool:
    if replace:
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        return True
    try:
        # Unlike a rename, a link does not replace what is there.
        os.link(part, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    return True


def _digest(name: str, folder: int, stop: threading.Event) -> str | None:
    """The SHA-256 of what is there, if it is a file."""
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        digest = hashlib.sha256()
        while chunk := _read(file, stop):
            digest.update(chunk)
        return digest.hexdigest()
    finally:
        os.close(file)


def _remove(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _folder(uri: Uri, access: Access, *, make: bool) -> Iterator[tuple[int, str]]:
    """The file's folder, opened, and its name in it."""
    root = access.folder_of(uri)
    if root is None:
        raise Refused(Code.ACCESS_DENIED, f"{uri}: this workspace may not touch it")
    *parts, name = pathlib.PurePosixPath(uri.path).relative_to(root).parts
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritable(uri, error) if make else _unreadable(uri, error) from None
    try:
        for part in parts:
            # One descriptor at a time: a path of a thousand parts must not take all that the process may have.
            around, folder = folder, _inside(uri, folder, part, make=make)
            os.close(around)
        yield folder, name
    finally:
        os.close(folder)


def _inside(uri: Uri, folder: int, part: str, *, make: bool) -> int:
    """A folder in the folder, opened."""
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=folder)
        return os.open(part, _FOLDER, dir_fd=folder)
    except OSError as error:
        raise _unwritable(uri, error) if make else _unreadable(uri, error) from None


def _unreadable(uri: Uri, error: OSError) -> Refused:
    if error.errno in _LINK:
        return Refused(Code.ACCESS_DENIED, f"{uri}: goes through a symbolic link or through a file")
    if error.errno == errno.ENXIO:  # a socket can't be opened
        return Refused(Code.INPUT_INVALID, f"{uri}: is not a file")
    if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):  # no file has a longer name
        return Refused(Code.INPUT_NOT_FOUND, f"{uri}: there is no such file")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Refused(Code.ACCESS_DENIED, f"{uri}: the worker may not read it")
    return Refused(Code.INPUT_UNAVAILABLE, f"{uri}: {error.strerror}", retryable=True)


def _unwritable(uri: Uri, error: OSError) -> Refused:
    if error.errno in _LINK:
        return Refused(Code.ACCESS_DENIED, f"{uri}: goes through a symbolic link or through a file")
    return Refused(Code.OUTPUT_FAILED, f"{uri}: {error.strerror}")
