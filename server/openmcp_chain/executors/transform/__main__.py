"""`python -m openmcp_chain.executors.transform`: runs the job on standard input in the current folder, then ends."""

import os
import resource
import sys
import threading
import traceback

import duckdb

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform import query
from openmcp_chain.executors.transform.job import Done, Job, encode_reply

_OVERHEAD = 1 << 30
"""Address space, in bytes, that is not DuckDB's to manage: the interpreter, the library, stacks, malloc's arenas."""


def main() -> None:
    job = Job.decode(sys.stdin.buffer.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _limit(job)
    sys.stdout.buffer.write(encode_reply(_run(job)))
    sys.stdout.buffer.flush()


def _run(job: Job) -> Done | Refused | str:
    try:
        return query.run(job)
    except Refused as refused:
        return refused
    except (duckdb.OutOfMemoryException, MemoryError):
        return Refused(
            Code.LIMIT_EXCEEDED,
            f"needs more than {job.memory_bytes >> 20} MiB of memory and {job.spill_bytes >> 20} MiB on disk",
        )
    except Exception as fault:  # noqa: BLE001 - the last line: whatever it is goes to the worker, without values
        return f"{type(fault).__name__}\n{''.join(traceback.format_tb(fault.__traceback__))}"


def _die_with_parent() -> None:
    """Ends the process when the worker's end of standard input closes: nothing outlives a worker that was killed."""
    sys.stdin.buffer.read()
    os._exit(1)


def _limit(job: Job) -> None:
    """The kernel's limits, for what slips past DuckDB's own."""
    file_bytes = max(job.output_bytes, job.spill_bytes) + 1
    for what, limit in (
        (resource.RLIMIT_AS, 2 * job.memory_bytes + _OVERHEAD),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)  # noqa: PLW2901 - the same limit, within bounds
        resource.setrlimit(what, (limit, limit))


if __name__ == "__main__":
    main()
