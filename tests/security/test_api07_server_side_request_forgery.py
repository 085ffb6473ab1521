"""API7:2023 Server Side Request Forgery: a submitted task makes no worker ask what its tenant could not ask itself.

All the way through: by either door, to the real worker, with the policy that the stack has. What a policy may allow,
and redirects, rebinding, TLS and the rest, is in tests/executors.
"""

import socket
import threading
from collections.abc import Iterator
from typing import Self

import pytest
from security.conftest import sign_in
from support.doors import OK, Door, bearer
from support.stack import StackInfo

from openmcp.chain.v1 import tasks_pb2

TASKS = "/openmcp.chain.v1.TaskService"


@pytest.fixture(scope="module")
def inside() -> Iterator["Inside"]:
    """A service of this machine, which no task may reach; it notes who comes."""
    with Inside() as listening:
        yield listening


class Inside:
    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.visits = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._socket.accept()[0].close()
            except OSError:
                return
            self.visits += 1


ATTEMPTS = {
    "https://169.254.169.254/latest/meta-data/a.json": "ACCESS_DENIED",
    "https://[fd00:ec2::254]/latest/meta-data/a.json": "ACCESS_DENIED",
    "https://100.100.100.200/a.json": "ACCESS_DENIED",
    "https://192.0.0.192/opc/v2/a.json": "ACCESS_DENIED",
    "https://168.63.129.16/a.json": "ACCESS_DENIED",
    "https://127.0.0.1:{port}/a.json": "ACCESS_DENIED",
    "https://localhost:{port}/a.json": "ACCESS_DENIED",
    "https://[::1]:{port}/a.json": "ACCESS_DENIED",
    "https://[::ffff:127.0.0.1]:{port}/a.json": "ACCESS_DENIED",
    "https://[64:ff9b::127.0.0.1]:{port}/a.json": "ACCESS_DENIED",
    "https://0.0.0.0:{port}/a.json": "ACCESS_DENIED",
    "https://2130706433:{port}/a.json": "ACCESS_DENIED",
    "https://017700000001:{port}/a.json": "ACCESS_DENIED",
    "https://0x7f.1:{port}/a.json": "ACCESS_DENIED",
    "https://10.0.0.1/a.json": "ACCESS_DENIED",
    "https://100.64.0.1/a.json": "ACCESS_DENIED",
    "https://93.184.215.14:25/a.json": "ACCESS_DENIED",
    "http://93.184.215.14/a.json": "ACCESS_DENIED",
    "https://user:secret@127.0.0.1:{port}/a.json": "PAYLOAD_INVALID",
    "gopher://127.0.0.1:{port}/a.json": "PAYLOAD_INVALID",
    "ftp://127.0.0.1:{port}/a.json": "PAYLOAD_INVALID",
    "file:///etc/passwd": "ACCESS_DENIED",
    "file://127.0.0.1/etc/passwd": "PAYLOAD_INVALID",
    "file:///proc/self/environ": "ACCESS_DENIED",
    "file://{files}/../master.key": "PAYLOAD_INVALID",
    "file://{files}/%2e%2e/master.key": "PAYLOAD_INVALID",
    "file://{files}/link/master.key": "ACCESS_DENIED",
    "s3://anybody/a.json": "ACCESS_DENIED",
}
SQL = {
    "SELECT * FROM read_text('/etc/passwd')": "SQL_INVALID",
    "SELECT * FROM read_csv('https://127.0.0.1:{port}/')": "SQL_INVALID",
    "SELECT getenv('HOME')": "SQL_INVALID",
    "INSTALL httpfs": "SQL_INVALID",
    "ATTACH 'https://127.0.0.1:{port}/x.db'": "SQL_INVALID",
}


def test_no_task_reaches_inside(door: Door, stack: StackInfo, inside: Inside) -> None:
    """Each task ends FAILED and says why; nothing inside is connected to, and no error tells what is there.

    Tried are metadata services, loopback in every spelling, private networks, other schemes, files, and SQL. What comes
    in by gRPC goes the same way from there, so a few will do.
    """
    link = stack.files_dir / "link"
    if not link.exists():
        link.symlink_to(stack.data_dir)
    (stack.files_dir / "rows.json").write_text('[{"a": 1}]')
    places = {"port": str(inside.port), "files": str(stack.files_dir)}
    output = (stack.files_dir / "out.json").as_uri()
    source = (stack.files_dir / "rows.json").as_uri()
    payloads = [({"input_uri": uri.format(**places), "input_format": "json"}, code) for uri, code in ATTEMPTS.items()]
    payloads += [({"input_uri": source, "sql": sql.format(**places)}, code) for sql, code in SQL.items()]
    if door.name == "native":
        payloads = payloads[::6]
    batch = tasks_pb2.BatchSubmitTasksRequest()
    for fields, _ in payloads:
        one = batch.requests.add(type="data_pipeline")
        one.payload.update({"output_uri": output, **fields})
    headers = bearer(sign_in(door, stack.workspace_id, stack.workspace_secret))
    answer = door.call(f"{TASKS}/BatchSubmitTasks", batch, headers=headers)
    assert answer.code == OK
    for (fields, code), result in zip(payloads, answer.body["results"], strict=True):
        wait = tasks_pb2.WaitTaskRequest(task_id=result["task"]["task_id"])
        task = door.call(f"{TASKS}/WaitTask", wait, headers=headers).body
        assert task["status"].endswith("FAILED"), fields
        assert task["error"].startswith(f"{code}: "), (fields, task["error"])
        assert "root:" not in task["error"]
    assert inside.visits == 0
    assert not (stack.files_dir / "out.json").exists()
