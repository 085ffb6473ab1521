"""Ports are found out by binding them."""

import os
import socket
import sys

import pytest

from openmcp_chain.stack import ports, probes
from openmcp_chain.stack.failure import StackError


def test_free_ports_are_distinct_and_below_the_ephemeral_range() -> None:
    """Free ports differ from each other and from those that outgoing connections are given."""
    chosen = ports.choose({f"--port-{n}": 0 for n in range(20)})
    assert len(set(chosen)) == 20
    assert all(20_000 <= port < 32_768 for port in chosen)


def test_a_port_with_a_listener_is_refused() -> None:
    """A port that somebody listens on is named, with the flag that asked for it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"^port {port} is in use; choose another with --rest-port"):
            ports.choose({"--rest-port": port, "--grpc-port": 0})


def test_a_listener_on_all_addresses_counts() -> None:
    """Whoever listens on all addresses has the port on ours as well."""
    with socket.create_server(("0.0.0.0", 0)) as taken, pytest.raises(StackError, match="is in use"):  # noqa: S104
        ports.choose({"--rest-port": taken.getsockname()[1]})


def test_a_port_whose_connections_linger_is_free() -> None:
    """Connections that a listener left in TIME_WAIT don't keep its port from being used again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = listener.accept()
            served.close()  # the side that closes first keeps TIME_WAIT
            assert client.recv(1) == b""
    assert ports.choose({"--rest-port": port}) == [port]


def test_one_port_for_two_is_refused() -> None:
    """Two flags can't have the same port."""
    (port,) = ports.choose({"--rest-port": 0})
    with pytest.raises(StackError, match=f"port {port} is in use; choose another with --grpc-port"):
        ports.choose({"--rest-port": port, "--grpc-port": port})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who listens")
def test_who_listens() -> None:
    """Of two processes the one that listens on a port is told from the other, and from one that is no more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert probes.listens(os.getpid, port)
        assert not probes.listens(os.getppid, port)
        assert not probes.listens(lambda: 2**22 + 1, port)
    assert not probes.listens(os.getpid, port)
