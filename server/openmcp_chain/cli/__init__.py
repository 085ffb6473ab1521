"""The `openmcp` command."""

import io
import sys


def run() -> None:
    """The command, from its first import on: Ctrl-C ends it without a traceback at any time.

    Nor does standard output bring one about, where it goes nowhere, or has not every letter.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from openmcp_chain.cli.main import app  # noqa: PLC0415 - importing it is what takes time

        app(prog_name="openmcp")
    except KeyboardInterrupt:
        sys.exit("openmcp: interrupted")
    except OSError as error:
        from openmcp_chain.stack.console import give_up_stdout  # noqa: PLC0415 - see cli.main

        give_up_stdout()
        sys.exit(f"openmcp: {error}")
