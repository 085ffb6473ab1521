"""The `openmcp` command."""

import sys


def run() -> None:
    """The command, from its first import on: Ctrl-C ends it without a traceback at any time."""
    try:
        from openmcp_chain.cli.main import app  # noqa: PLC0415 - importing it is what takes time

        app(prog_name="openmcp")
    except KeyboardInterrupt:
        sys.exit("openmcp: interrupted")
