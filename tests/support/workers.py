"""Workers of the SDK in this process, for a served `App`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from support.service import PATIENCE, Caller, Service

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.worker import Worker


def worker(
    service: Service, caller: Caller, function: Callable[..., Any], *, port: int | None = None, **options: Any
) -> Worker:
    """One that runs `function` for tasks of the type `echo`; it reaches the server by another port, if one is given."""
    target = f"127.0.0.1:{port or service.port}"
    made = Worker(target, workspace_id=caller.workspace_id, workspace_secret=caller.secret, **options)
    made.task("echo")(function)
    return made


@asynccontextmanager
async def working(
    service: Service, caller: Caller, function: Callable[..., Any], **options: Any
) -> AsyncIterator[Worker]:
    """A worker for `echo` for the length of the block, at whose end it must stop by itself."""
    made = worker(service, caller, function, **options)
    running = asyncio.create_task(made.serve())
    try:
        yield made
        made.stop()
        async with asyncio.timeout(PATIENCE):
            await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def ended(service: Service, caller: Caller, task_id: str) -> tasks_pb2.TaskDetail:
    """The task's state once it has ended."""
    await service.events(caller, task_id)
    return await service.get(caller, task_id)
