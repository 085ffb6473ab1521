"""Which methods need a token, which of them wait for something, and a good request for each."""

from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from support.methods import METHODS
from support.service import NOBODYS

from openmcp.chain.v1 import workers_pb2
from openmcp_chain.transport.server import ACCESS

WORK = "/openmcp.chain.v1.WorkerService/Work"
SIGNED = sorted(path for path, access in ACCESS.items() if access.scope is not None)
"""Every method that needs a token."""
WAITING = [
    path
    for path in SIGNED
    if METHODS[path].server_streaming or {"wait", "timeout"} & set(METHODS[path].input_type.fields_by_name)
]
"""Those that wait for something to happen: they stream, or are told for how long."""
FOLLOWING = [path for path in WAITING if "task_id" in METHODS[path].input_type.fields_by_name]
"""Of these, those that wait for a task."""

_GIVEN: dict[str, Any] = {
    "task_id": "01900000-0000-7000-8000-000000000000",
    "task_ids": ["01900000-0000-7000-8000-000000000000"],
    "requests": [{"type": "echo"}],
    "type": "echo",
    "task_types": ["echo"],
    "worker_name": "w",
    "lease": NOBODYS,
    "plan": "free",
    "workspace_id": "somebody",
    "secret_id": "01234567",
    "wait": Duration(seconds=25),
    "timeout": Duration(seconds=25),
    "request_id": "019a0000-0000-7000-8000-000000000000",
    "hello": workers_pb2.Hello(worker_name="w", task_types=["echo"], max_concurrency=20),
}
_WITHOUT = {"SubmitTask": "workspace_id"}


def request(path: str, task_id: str = "") -> Any:
    """A good request, which waits for as long as it may; for this task, if it is about one."""
    message = GetMessageClass(METHODS[path].input_type)
    without = _WITHOUT.get(path.rpartition("/")[2])
    said = {name: _GIVEN[name] for name in message.DESCRIPTOR.fields_by_name if name in _GIVEN and name != without}
    if task_id and path in FOLLOWING:
        said["task_id"] = task_id
    return message(**said)
