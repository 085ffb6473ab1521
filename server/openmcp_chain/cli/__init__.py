"""The `openmcp` command."""

import io
import itertools
import os
import sys

LARGEST = 2**31 - 1
"""The largest number that the contract has a field for."""


def run() -> None:
    """The command, from its first import on: Ctrl-C ends it without a traceback at any time.

    Nor does standard output bring one about, where it goes nowhere, or has not every letter.
    """
    _check_letters()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from openmcp_chain.cli.main import app  # noqa: PLC0415 - importing it is what takes time

        app(prog_name="openmcp")
    except KeyboardInterrupt:
        sys.exit("openmcp: interrupted")
    except OSError as error:
        from openmcp_chain import logs  # noqa: PLC0415 - see cli.main
        from openmcp_chain.stack.console import give_up_stdout  # noqa: PLC0415 - as above

        if logs.tells_fatal():
            raise
        give_up_stdout()
        sys.exit(f"openmcp: {error}")


def _check_letters() -> None:
    """Ends the command if it is told bytes that are no UTF-8, which neither gRPC nor the database takes.

    A setting is not repeated: it may be secret.
    """
    for before, argument in itertools.pairwise(sys.argv):
        if not _is_utf8(argument):
            of = f"{before}: " if before.startswith("-") else ""
            sys.exit(f"openmcp: {of}{os.fsencode(argument)!r} is not UTF-8")
    for name, value in os.environ.items():
        if name.startswith("OPENMCP_") and not _is_utf8(value):
            sys.exit(f"openmcp: {name} is not UTF-8")


def _is_utf8(text: str) -> bool:
    """Python has surrogates for the bytes that are no characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
