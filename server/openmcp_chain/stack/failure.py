"""How the stack says that it can't go on."""

from collections.abc import Sequence
from pathlib import Path

_LINES = 12
_BYTES = 16_384


class StackError(Exception):
    """The stack can't start or go on. Its message is one line for the person who started it."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        """`log` is the file whose end explains it."""
        super().__init__(f"{message}; its log is {log}" if log else message)
        self.log = log


class ChildDied(StackError):
    """A child ended before it was ready."""


def last_lines(log: Path) -> Sequence[str]:
    """The end of a log; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _BYTES))
            return file.read().decode(errors="replace").splitlines()[-_LINES:]
    except OSError:
        return ()
