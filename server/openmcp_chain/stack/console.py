"""What a person sees: coloured and aligned on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterable

from rich.console import Console as Rich
from rich.text import Text

from openmcp_chain.stack.failure import StackError, last_lines

_LABEL = 19
_VALUE = 24


class Console:
    """Prints lines. Long ones are never broken: people paste them."""

    def __init__(self) -> None:
        self._out = Rich(highlight=False, soft_wrap=True)

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
        self._out.print(line)

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
        self._out.print(Text(text, style))


def print_failure(error: StackError) -> None:
    """The failure in one line on stderr; below it the end of the log that explains it, if there is one."""
    print(f"openmcp dev: {error}", file=sys.stderr)  # noqa: T201 - a command says on stderr why it failed
    if error.log is not None:
        for line in last_lines(error.log):
            print(f"  {line}", file=sys.stderr)  # noqa: T201 - a command says on stderr why it failed
