"""Workers as processes: docs/worker.md's first program, signals, and what the environment says."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from support.service import PATIENCE, Caller, Service, serving, until
from support.workers import ended

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.worker import SettingsError, Worker

DOCS = Path(__file__).parents[2] / "docs/worker.md"
FIRST, *_, TEST = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)

DEAF = """
import pathlib, sys, time
from openmcp_chain.worker import Context, Worker

worker = Worker.from_environment(drain=0.05)

@worker.task("greet")
def deaf(payload, context: Context):
    context.log("started")
    while True:
        time.sleep(0.1)

worker.run()
"""


@asynccontextmanager
async def process(service: Service, caller: Caller, program: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program, with an environment for this caller; it must have ended by the end of the block."""
    environment = {
        "PATH": os.environ["PATH"],
        "OPENMCP_SERVER": f"127.0.0.1:{service.port}",
        "OPENMCP_WORKSPACE_ID": caller.workspace_id,
        "OPENMCP_WORKSPACE_SECRET": caller.secret,
    }
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def output(running: asyncio.subprocess.Process) -> str:
    """What it has printed when it has ended by itself."""
    async with asyncio.timeout(PATIENCE):
        printed, _ = await running.communicate()
    return printed.decode()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_the_first_program_works_until_a_signal(name: str) -> None:
    """The program of the documentation greets for its workspace, ends well on a signal, and prints nothing."""
    async with serving() as service:
        tenant = await service.workspace()
        async with process(service, tenant, FIRST) as running:
            task_id = await service.submit(tenant, "greet", payload={"name": "Ada", "times": 2})
            detail = await ended(service, tenant, task_id)
            running.send_signal(signal.Signals[name])
            printed = await output(running)
    assert MessageToDict(detail.result) == {"text": "Hello Ada! Hello Ada! "}
    assert (detail.progress.fraction, detail.progress.message) == (0.5, "greeting Ada")
    assert (running.returncode, printed) == (0, "")


def test_the_documentations_test_passes() -> None:
    """What the documentation says of testing a function is so."""
    names: dict[str, object] = {"__name__": "example"}
    program = FIRST.replace("Worker.from_environment()", 'Worker("x:1", workspace_id="x", workspace_secret="x")')
    exec(program.replace("worker.run()", "") + TEST + "test_greets()", names)  # noqa: S102 - our own documentation


async def test_a_function_that_hangs_does_not_keep_the_process() -> None:
    """A plain function that never asks is left behind when the drain is over; the process ends, and well."""
    async with serving() as service:
        tenant = await service.workspace()
        async with process(service, tenant, DEAF) as running:
            task_id = await service.submit(tenant, "greet")
            request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
            stream = service.tasks.StreamTaskEvents(request, metadata=tenant.metadata, timeout=PATIENCE)
            for _ in range(3):
                await stream.read()
            running.send_signal(signal.SIGTERM)
            printed = await output(running)
            stream.cancel()
    assert running.returncode == 0
    assert "stopping tasks that have not ended" in printed
    assert tenant.secret not in printed


async def test_a_program_that_is_refused_says_why() -> None:
    """A worker that may not take its type ends with the server's words."""
    async with serving() as service:
        operator = await service.operator("other")
        async with process(service, operator, FIRST) as running:
            printed = await output(running)
    assert running.returncode == 1
    assert "WorkerRefused: " in printed
    assert "does not cover" in printed
    assert operator.secret not in printed


ENVIRONMENT = {
    "OPENMCP_SERVER": "127.0.0.1:1",
    "OPENMCP_WORKSPACE_ID": "ws-1",
    "OPENMCP_WORKSPACE_SECRET": "S3CRET",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENMCP_SERVER", ""),
        ("OPENMCP_WORKSPACE_ID", ""),
        ("OPENMCP_WORKSPACE_SECRET", ""),
        ("OPENMCP_WORKSPACE_SECRET_FILE", "/nowhere"),
        ("OPENMCP_WORKER_CONCURRENCY", "0"),
        ("OPENMCP_WORKER_CONCURRENCY", "1001"),
        ("OPENMCP_WORKER_CONCURRENCY", "many"),
        ("OPENMCP_SECURE", "maybe"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    """What is missing or wrong in the environment is told by its name, without the secret."""
    with pytest.raises(SettingsError, match=f"{name}: ") as caught:
        Worker.from_environment(ENVIRONMENT | {name: value})
    assert "S3CRET" not in str(caught.value)


async def test_the_ready_file_is_there_while_a_server_gives_tasks(tmp_path: Path) -> None:
    """What a killed worker left is removed; the file is there while a stream is, for as many tasks as were said."""
    ready = tmp_path / "ready"
    ready.touch()
    async with serving() as service:
        tenant = await service.workspace()
        variables = {
            "OPENMCP_SERVER": f"127.0.0.1:{service.port}",
            "OPENMCP_WORKSPACE_ID": tenant.workspace_id,
            "OPENMCP_WORKSPACE_SECRET": tenant.secret,
            "OPENMCP_WORKER_READY_FILE": str(ready),
            "OPENMCP_WORKER_CONCURRENCY": "7",
        }
        worker = Worker.from_environment(variables)
        worker.task("echo")(lambda payload: payload)
        running = asyncio.create_task(worker.serve())
        await asyncio.sleep(0)
        assert not ready.exists()
        await until(ready.exists)
        (stream,) = service.app.workers._streams
        assert stream._session is not None
        assert stream._session.credits == 7
        worker.stop()
        async with asyncio.timeout(PATIENCE):
            await running
        assert not ready.exists()
