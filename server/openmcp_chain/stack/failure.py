"""How the stack says that it can't go on."""

from collections.abc import Sequence
from pathlib import Path


class StackError(Exception):
    """The stack can't start or go on. Its message is one line for the person who started it."""


def last_lines(log: Path, count: int = 12) -> Sequence[str]:
    """The end of a log, for showing beside a `StackError`; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 16_384))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return ()
