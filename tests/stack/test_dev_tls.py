"""`openmcp dev --tls`: HTTPS outside, mutual TLS inside, and every line that it prints works."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from support.stack import StackInfo, running_stack

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc
from openmcp_chain.client import Client
from openmcp_chain.stack.authority import LIFE, Authority

OPENMCP = str(Path(sys.executable).with_name("openmcp"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackInfo]:
    """A start on a folder that has certificates of an earlier one."""
    data_dir = tmp_path_factory.mktemp("tls") / "data"
    folder = data_dir / "tls"
    folder.mkdir(parents=True)
    Authority.opened(folder).issue("server")
    for name in ("ca", "server"):
        (folder / f"{name}.first").write_bytes((folder / f"{name}.pem").read_bytes())
    with running_stack(data_dir, "--tls") as info:
        yield info


def test_dev_json_says_whom_to_trust(running: StackInfo) -> None:
    """dev.json has an https URL and the files to trust and to show; the keys are their owner's alone."""
    assert running.rest_url.startswith("https://")
    folder = running.data_dir / "tls"
    files = (running.ca_file, running.cert_file, running.key_file)
    assert files == tuple(str(folder / name) for name in ("ca.pem", "client.pem", "client.key"))
    keys = sorted(folder.glob("*.key"))
    assert [key.stem for key in keys] == ["ca", "client", "envoy", "server"]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_certificates_are_new_at_each_start(running: StackInfo) -> None:
    """The authority stays, so that who trusts it still does; what it issues is new, and lives for days."""
    folder = running.data_dir / "tls"
    assert (folder / "ca.pem").read_bytes() == (folder / "ca.first").read_bytes()
    assert (folder / "server.pem").read_bytes() != (folder / "server.first").read_bytes()
    server = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    assert server.not_valid_after_utc - server.not_valid_before_utc <= LIFE * 1.01


def test_the_pasted_commands_work(running: StackInfo) -> None:
    """The curl lines do what they say when they are pasted into a shell as they stand."""
    shown = running.until_shown("Ctrl-C ends everything.")
    lines = [line.strip() for line in shown[shown.index("paste these") :].splitlines()]
    curls = [line for line in lines if line.startswith(("TOKEN=", "curl"))]
    assert len(curls) == 4
    printed = subprocess.run(
        ["sh", "-ec", "\necho;\n".join(curls)], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    _, submitted, task, events = printed.split("\n", 3)
    assert json.loads(submitted)["status"] == "PENDING"
    assert json.loads(task)["status"] == "SUCCEEDED"
    assert events.count("event: status") == 3
    grpcurls = [line for line in lines if line.startswith("grpcurl")]
    assert len(grpcurls) == 2
    options = f"-cacert {running.ca_file} -cert {running.cert_file} -key {running.key_file}"
    assert all(line.startswith(f"grpcurl {options} -H ") for line in grpcurls)


def test_the_servers_own_port_wants_a_certificate(running: StackInfo) -> None:
    """Without the client's certificate nobody gets to the server, trust it as he may; with it, the SDK does."""
    ca = Path(running.ca_file or "").read_bytes()
    with grpc.secure_channel(running.grpc_target, grpc.ssl_channel_credentials(ca)) as channel:
        stub: tasks_pb2_grpc.TaskServiceStub = tasks_pb2_grpc.TaskServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListTasks(tasks_pb2.ListTasksRequest(), timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    who: dict[str, Any] = {"workspace_id": running.workspace_id, "workspace_secret": running.workspace_secret}
    shown: dict[str, Any] = {"certificate": running.cert_file, "key": running.key_file}
    with Client(running.grpc_target, ca=running.ca_file, **who, **shown) as client:
        assert [*client.list(limit=1)]
    with Client(running.envoy_grpc_target, ca=running.ca_file, **who) as client:  # Envoy asks for none
        assert [*client.list(limit=1)]


def test_who_does_not_trust_it_sends_nothing(running: StackInfo) -> None:
    """An HTTPS client that knows only the public authorities goes no further than the handshake."""
    with httpx.Client(trust_env=False) as client, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        client.get(f"{running.rest_url}/healthz")


def test_the_command_line_finds_its_way(running: StackInfo) -> None:
    """`openmcp tasks` reads in dev.json what to trust and to show; or is told by the environment."""
    at = ["--data-dir", str(running.data_dir)]
    who = {
        "OPENMCP_SERVER": running.grpc_target,
        "OPENMCP_WORKSPACE_ID": running.workspace_id,
        "OPENMCP_WORKSPACE_SECRET": running.workspace_secret,
        "OPENMCP_CA_FILE": str(running.ca_file),
        "OPENMCP_CERT_FILE": str(running.cert_file),
        "OPENMCP_KEY_FILE": str(running.key_file),
    }
    for arguments, environment in ((at, {}), ([], who)):
        listed = subprocess.run(
            [OPENMCP, "tasks", "list", "--json", *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert listed.returncode == 0, listed.stderr
        assert json.loads(listed.stdout)


@pytest.mark.slow
def test_certificates_are_replaced_under_calls(running: StackInfo) -> None:
    """All certificates are replaced while calls run, by REST and by gRPC to the server itself: none of them fails."""
    folder = running.data_dir / "tls"
    authority, log = Authority.opened(folder), running.data_dir / "logs" / "server.log"
    who: dict[str, Any] = {"workspace_id": running.workspace_id, "workspace_secret": running.workspace_secret}
    shown: dict[str, Any] = {"certificate": running.cert_file, "key": running.key_file}
    trust = ssl.create_default_context(cafile=running.ca_file)
    ended = threading.Event()

    def by_rest() -> int:
        with httpx.Client(base_url=running.rest_url, verify=trust, trust_env=False) as client:
            token = client.post("/v1/auth/token", json=who).raise_for_status().json()["access_token"]
        calls = 0
        while not ended.is_set():
            with httpx.Client(base_url=running.rest_url, verify=trust, trust_env=False, timeout=30) as fresh:
                fresh.get("/v1/tasks", headers={"authorization": f"Bearer {token}"}).raise_for_status()
            calls += 1
        return calls

    def by_grpc() -> int:
        calls = 0
        with Client(running.grpc_target, ca=running.ca_file, **who, **shown) as client:
            while not ended.is_set():
                client.count()
                calls += 1
        return calls

    with ThreadPoolExecutor(2) as pool:
        load = [pool.submit(one) for one in (by_rest, by_grpc)]
        try:
            for replaced in range(1, 4):
                for part in ("server", "envoy", "client"):
                    authority.issue(part)
                new = x509.load_pem_x509_certificate((folder / "envoy.pem").read_bytes()).serial_number
                until(lambda new=new: presented(running, trust) == new)  # type: ignore[misc]
                with Client(running.grpc_target, ca=running.ca_file, **who, **shown) as client:
                    client.count()
                until(lambda replaced=replaced: log.read_text().count("certificates replaced") >= replaced)  # type: ignore[misc]
        finally:
            ended.set()
        assert all(one.result() for one in load)
    # What is no TLS, or comes without a certificate, is no reason to write anything but JSON.
    with socket.create_connection(("127.0.0.1", int(running.grpc_target.rpartition(":")[2]))) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        plain.recv(1)
    assert all(line.startswith("{") for line in log.read_text().splitlines())


def presented(running: StackInfo, trust: ssl.SSLContext) -> int:
    """The serial number of the certificate that Envoy shows a new connection."""
    address = ("127.0.0.1", int(running.rest_url.rpartition(":")[2]))
    with (
        socket.create_connection(address) as plain,
        trust.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
        assert shown
        return x509.load_der_x509_certificate(shown).serial_number


def until(passes: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not passes():
        assert time.monotonic() < end
        time.sleep(0.05)
