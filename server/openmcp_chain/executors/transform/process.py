"""The worker's side: start the transforming process, wait for its reply, and leave nothing of it behind."""

import asyncio
import contextlib
import os
import pathlib
import sys

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform.job import Done, Job, decode_reply

# What the process gets of the worker's environment: nothing of it is secret.
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")


async def run(job: Job, folder: pathlib.Path, *, seconds: float) -> Done:
    """Does the job in `folder`. A cancelled call kills the process, and returns when it is dead.

    Raises:
        Refused: The job can't be done, or not within `seconds`.
        RuntimeError: A fault of ours.
    """
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        "openmcp_chain.executors.transform",
        cwd=folder,
        env=environment | {"TZ": "UTC"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # it could hold values from the input
        start_new_session=True,  # Ctrl-C in a terminal is the worker's to handle
    )
    assert process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
    assert process.stdout is not None  # noqa: S101 - as above
    try:
        async with asyncio.timeout(seconds):
            # It died at once: its exit status says more. RuntimeError is uvloop's word for a pipe that is closed.
            with contextlib.suppress(ConnectionError, RuntimeError):
                process.stdin.write(job.encode())
                await process.stdin.drain()
            line = await process.stdout.readline()
            if line:
                return decode_reply(line)
            status = await process.wait()
    except TimeoutError:
        raise Refused(Code.LIMIT_EXCEEDED, f"takes longer than {seconds:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())
    raise Refused(
        Code.LIMIT_EXCEEDED,
        f"the transforming process died (status {status}), most likely for want of memory",
        retryable=True,
    )
