"""What gRPC is told about connections: it ignores an option that it doesn't know, without a word."""

import importlib.util
from pathlib import Path

import pytest

from openmcp_chain.client import connection
from openmcp_chain.transport import server


@pytest.mark.parametrize("name", sorted({name for name, _ in (*server.OPTIONS, *connection.OPTIONS)}))
def test_every_option_is_one_of_grpcs(name: str) -> None:
    """The name stands in gRPC's core as a text of its own."""
    core = importlib.util.find_spec("grpc._cython.cygrpc")
    assert core
    assert core.origin
    assert name.encode() + b"\0" in Path(core.origin).read_bytes()
