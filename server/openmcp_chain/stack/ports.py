"""Finding out which ports are free, by really binding them.

A free port is looked for below the range from which systems take the local ports of outgoing connections (32768 and
up on Linux, 49152 elsewhere). In that range a child that is down for a moment could lose its port to anybody's
outgoing connection, or to a client that keeps trying the port and at last connects to itself.
"""

import contextlib
import errno
import random
import socket
from collections.abc import Mapping, Sequence

from openmcp_chain.stack.failure import StackError

HOST = "127.0.0.1"
_FREE = range(20_000, 32_768)
_TRIES = 200


def choose(wanted: Mapping[str, int]) -> Sequence[int]:
    """The ports to use, by the flags that ask for them; 0 asks for a free one.

    Raises StackError, naming the flag, if one can't be listened on.
    """
    with contextlib.ExitStack() as held:  # all held until the end, so that no two are the same
        chosen = []
        for flag, port in wanted.items():
            try:
                listener = held.enter_context(_bind(port) if port else _bind_free())
            except OSError as error:
                why = "is in use" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror})"
                raise StackError(f"port {port} {why}; choose another with {flag}, or 0 for a free one") from None
            chosen.append(int(listener.getsockname()[1]))
        return chosen


def _bind_free() -> socket.socket:
    for _ in range(_TRIES):
        with contextlib.suppress(OSError):
            return _bind(random.choice(_FREE))  # noqa: S311 - spreads, hides nothing
    raise StackError(f"found no free port between {_FREE.start} and {_FREE.stop - 1}")


def _bind(port: int) -> socket.socket:
    """Listens as our children will: past connections in TIME_WAIT don't matter, another listener does."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener
