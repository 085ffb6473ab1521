"""What `openmcp dev` prints, where it can't be printed."""

import io
import os
from pathlib import Path

import pytest

from openmcp_chain.stack.console import Console


@pytest.mark.parametrize("way", ["no room", "no reader", "no letter"])
def test_what_can_not_be_printed_is_dropped(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, a pipe without a reader and an encoding without the letter are no errors; nor is anything left."""
    if way == "no reader":
        reader, writer = os.pipe()
        os.close(reader)
        out = os.fdopen(writer, "w")
    elif way == "no room":
        out = Path("/dev/full").open("w")  # noqa: SIM115 - closed below
    else:
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    console = Console()
    console.heading("Ending …")
    console.row("label", "value", "note")
    console.warning("server was killed by SIGKILL")
    out.close()
