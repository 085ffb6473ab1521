"""`kill -9` in the middle of the work: nothing acknowledged is lost, nothing ends twice, everything ends."""

import asyncio
import hashlib
import json
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from faults.conftest import FIGURES
from faults.load import TERMINAL, Load, Story, request_id
from google.protobuf.json_format import MessageToDict
from support.echo import EchoWorker
from support.stack import StackInfo
from support.workspaces import Credentials

from openmcp.chain.v1 import tasks_pb2

pytestmark = pytest.mark.slow

TASKS = 200
PIPELINE_TASKS = 30
TASK_SECONDS = 0.02
"""How long an echo takes: with sixteen at a time, the work goes on about as long as the submits do."""
Kill = Callable[[], Awaitable[None]]


@pytest.mark.parametrize("victim", ["server", "database", "worker"])
async def test_kill(
    stack: StackInfo,
    credentials: Credentials,
    echo: EchoWorker,
    victim: str,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    """200 tasks, submitted and worked on while one process is killed: each ends once, with its own result."""
    chance = random.Random(f"{victim} {seed}")  # noqa: S311 - a seed to repeat it by
    requests = []
    for number in range(TASKS):
        requests.append(tasks_pb2.SubmitTaskRequest(type="echo", request_id=request_id(chance)))
        requests[-1].payload.update({"number": number, "seconds": chance.random() * 2 * TASK_SECONDS})
    load = Load(stack.envoy_grpc_target, credentials, requests)
    await load.run(chance, _worker_dies(echo) if victim == "worker" else _part_dies(stack, victim))
    record_property(FIGURES, _figures(f"{victim}, seed {seed}", load))
    for story in load.stories:
        whole(story)
        assert story.detail.result == story.request.payload
    assert len({story.task_id for story in load.stories}) == TASKS


async def test_kill_pipeline_worker(
    stack: StackInfo, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """The stack's own worker is killed amid real `data_pipeline` tasks: every artifact is whole, and its task's."""
    chance = random.Random(f"pipeline {seed}")  # noqa: S311
    folder = stack.files_dir / f"seed-{seed}"
    folder.mkdir()
    requests = []
    for number in range(PIPELINE_TASKS):
        source = folder / f"{number}.json"
        source.write_text(json.dumps([{"task": number, "row": row} for row in range(50)]))
        requests.append(tasks_pb2.SubmitTaskRequest(type="data_pipeline", request_id=request_id(chance)))
        output = (folder / f"{number}.out.json").as_uri()
        requests[-1].payload.update({"input_uri": source.as_uri(), "output_uri": output})
    load = Load(stack.envoy_grpc_target, Credentials(stack.workspace_id, stack.workspace_secret), requests)
    await load.run(chance, _part_dies(stack, "worker"))
    record_property(FIGURES, _figures(f"pipeline worker, seed {seed}", load))
    for number, story in enumerate(load.stories):
        whole(story)
        result = MessageToDict(story.detail.result)
        artifact = _read(result["artifact_uri"])
        assert result["checksum"] == f"sha256:{hashlib.sha256(artifact).hexdigest()}"
        assert json.loads(artifact) == [{"task": number, "row": row} for row in range(50)]
    expected = {f"{number}{end}" for number in range(PIPELINE_TASKS) for end in (".json", ".out.json")}
    assert {path.name for path in folder.iterdir()} == expected, "a killed worker left something behind"


def whole(story: Story) -> None:
    """Its events are numbered 1, 2, 3, …; the last, and only the last, is terminal; and it succeeded."""
    assert [event.sequence for event in story.events] == list(range(1, len(story.events) + 1)), story.events
    assert [event.status in TERMINAL for event in story.events] == [False] * (len(story.events) - 1) + [True]
    assert {event.task_id for event in story.events} == {story.task_id}
    assert story.detail.status == tasks_pb2.TASK_STATUS_SUCCEEDED, story.detail.error
    assert story.events[-1].status == story.detail.status


def _read(uri: str) -> bytes:
    return Path(unquote(urlsplit(uri).path)).read_bytes()


def _part_dies(stack: StackInfo, name: str) -> Kill:
    async def kill() -> None:
        pid = stack.pids[name]
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(stack.until_restarted, name, pid)

    return kill


def _worker_dies(echo: EchoWorker) -> Kill:
    async def kill() -> None:
        await asyncio.to_thread(echo.kill)
        echo.start()

    return kill


def _figures(round_: str, load: Load) -> str:
    repeated = sum(story.submits - 1 for story in load.stories)
    again = sum(story.attempts - 1 for story in load.stories)
    recovery = "all had been submitted" if load.recovery is None else f"first submit after {load.recovery:.2f} s"
    return (
        f"{round_}: {len(load.stories)} acknowledged ({repeated} submits repeated), {again} attempts beyond the first, "
        f"{recovery}, all ended after {load.duration:.2f} s"
    )
