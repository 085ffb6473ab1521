"""What a person sees: coloured and aligned on a terminal, plain lines elsewhere.

Standard output can go at any time: its reader ends, its terminal is closed, its disk is full. That is no reason for a
stack to end, nor to end in disorder.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress

from rich.console import Console as Rich
from rich.text import Text

from openmcp_chain.stack.failure import StackError, last_lines

_LABEL = 19
_VALUE = 24


class _Out(Rich):
    def on_broken_pipe(self) -> None:
        """Rich would end the process."""
        raise BrokenPipeError


class Console:
    """Prints lines. Long ones are never broken: people paste them. Never raises: what can't be printed is dropped."""

    def __init__(self) -> None:
        self._out = _Out(highlight=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        self._print("")
        self._print(text, "bold")

    def row(self, label: str, value: str, note: str = "") -> None:
        """A label and its value, in columns; the note is an aside."""
        line = Text("  ")
        line.append(f"{label:<{_LABEL}}", "cyan")
        line.append(f"{value:<{_VALUE}}" if note else value)
        if note:
            line.append(f"  {note}", "dim")
        self._line(line)

    def paste(self, comment: str, commands: Iterable[str]) -> None:
        """Commands that work when they are pasted into a shell, as they stand."""
        self._print(f"  # {comment}", "dim")
        for command in commands:
            self._print(f"  {command}")

    def note(self, text: str) -> None:
        self._print(text, "dim")

    def good(self, text: str) -> None:
        self._print(text, "green")

    def warning(self, text: str) -> None:
        self._print(text, "yellow")

    def _print(self, text: str, style: str = "") -> None:
        self._line(Text(text, style))

    def _line(self, line: Text) -> None:
        try:
            self._out.print(line)
        except (OSError, ValueError):
            self._out.quiet = True
            give_up_stdout()


def give_up_stdout() -> None:
    """Drops what standard output has not taken and will not: at the process's end it would be tried once more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_failure(error: StackError) -> None:
    """The failure in one line on stderr; below it the end of the log that explains it, if there is one."""
    print(f"openmcp dev: {error}", file=sys.stderr)  # noqa: T201 - a command says on stderr why it failed
    if error.log is not None:
        for line in last_lines(error.log):
            print(f"  {line}", file=sys.stderr)  # noqa: T201 - a command says on stderr why it failed
