"""Many calls at once, by gRPC, at the server itself and through Envoy: slow at worst, never refused."""

import asyncio
from collections import Counter

import grpc
import pytest
from support.rest import Rest
from support.stack import StackInfo

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc

CLIENTS, CALLS = 30, 100


@pytest.mark.slow
@pytest.mark.parametrize("way", ["direct", "envoy"])
async def test_everyone_is_served(stack: StackInfo, rest: Rest, way: str) -> None:
    """Three thousand calls that begin in one moment, on thirty connections, are all answered."""
    target = stack.grpc_target if way == "direct" else stack.envoy_grpc_target
    # Without a pool of its own, each channel would share one connection with the others.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(CLIENTS)]
    metadata = (("authorization", f"Bearer {rest.token}"),)
    told: Counter[grpc.StatusCode] = Counter()

    async def call(channel: grpc.aio.Channel) -> None:
        try:
            await tasks_pb2_grpc.TaskServiceStub(channel).GetTask(
                tasks_pb2.GetTaskRequest(task_id="task-1f7f"), metadata=metadata, timeout=30
            )
        except grpc.aio.AioRpcError as error:
            told[error.code()] += 1

    await asyncio.gather(*(call(channel) for channel in channels for _ in range(CALLS)))
    for channel in channels:
        await channel.close()
    assert told == {grpc.StatusCode.NOT_FOUND: CLIENTS * CALLS}
