"""The least that a grpc.aio server can do: takes a SubmitTaskRequest, answers with a TaskSummary, keeps nothing.

`python -m bench.peers.echo HOST:PORT`
"""

import asyncio
import sys
import uuid

import grpc
import uvloop
from google.protobuf.timestamp_pb2 import Timestamp

from openmcp.chain.v1 import tasks_pb2


async def echo(_: tasks_pb2.SubmitTaskRequest, __: object) -> tasks_pb2.TaskSummary:
    """An answer of the right size."""
    at = Timestamp()
    at.GetCurrentTime()
    return tasks_pb2.TaskSummary(task_id=str(uuid.uuid4()), status=tasks_pb2.TASK_STATUS_PENDING, submitted_at=at)


async def main(address: str) -> None:
    server = grpc.aio.server()
    # What the generated code would register, of one method.
    method = grpc.unary_unary_rpc_method_handler(
        echo, tasks_pb2.SubmitTaskRequest.FromString, tasks_pb2.TaskSummary.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("openmcp.chain.v1.TaskService", {"SubmitTask": method}),)
    )
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    # The same event loop as our server's.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
