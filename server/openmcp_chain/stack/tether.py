"""Runs a command that dies with the process that started it: `python -I -S tether.py PARENT COMMAND ARGUMENT…`.

Even SIGKILL of the supervisor must leave nothing running. Linux does that by prctl(PR_SET_PDEATHSIG), which
survives exec and has to be asked for by the child itself. A `preexec_fn` would do so too, but is unsafe in a
process with threads, as ours is. Elsewhere the command is run untied: there the supervisor's own orderly end is
what stops it.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - exists everywhere, means something on Linux only

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel knew
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - a list of arguments, no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
