"""Three servers, six workers and their database, killed at random for a minute: everything ends, once."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults.conftest import FIGURES
from faults.load import Load, Story, request_id
from faults.test_kill import whole
from support.database import Database
from support.echo import EchoWorker
from support.fleet import Fleet, ServerProcess, running_fleet

from openmcp.chain.v1 import tasks_pb2

pytestmark = pytest.mark.slow

SERVERS, WORKERS = 3, 6
SECONDS = 60.0
"""With ten seeds or more; a tenth of that with fewer."""
TASKS_PER_SECOND = 20
TASK_SECONDS = 0.3
LIVES = (0.5, 2.5)
"""Between two kills by the same one."""
KILLERS = 2
"""So two processes may be dead at a time, be they servers, workers, or a server and the database."""


@pytest.mark.timeout(420)
def test_fleet(tmp_path: Path, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]) -> None:
    """Every acknowledged task ends exactly once; each attempt beyond the first follows an event that says why."""
    chance = random.Random("fleet")  # noqa: S311 - a seed to repeat it by
    seconds = SECONDS * min(1.0, pytestconfig.getoption("seeds") / 10)
    tasks = round(seconds * TASKS_PER_SECOND)
    with running_fleet(tmp_path, SERVERS) as fleet, ExitStack() as ends:
        credentials = fleet.workspace()
        workers = [
            EchoWorker(fleet.target(number % SERVERS), tmp_path / f"worker-{number}.log", credentials)
            for number in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
            ends.callback(worker.kill)
        load = Load(fleet.target(), credentials, _requests(chance, tasks), seconds)
        killed = asyncio.run(_run(load, chance, fleet, workers, seconds))
    for story in load.stories:
        whole(story)
        assert story.detail.result == story.request.payload
    assert len({story.task_id for story in load.stories}) == tasks
    reasons = Counter(reason for story in load.stories for reason in _reasons(story))
    record_property(FIGURES, f"fleet: {tasks} tasks, killed {killed}; attempts beyond the first: {dict(reasons)}")


def _requests(chance: random.Random, tasks: int) -> list[tasks_pb2.SubmitTaskRequest]:
    requests = []
    for number in range(tasks):
        requests.append(tasks_pb2.SubmitTaskRequest(type="echo", request_id=request_id(chance)))
        requests[-1].payload.update({"number": number, "seconds": chance.random() * 2 * TASK_SECONDS})
        # Enough attempts to outlive a minute of kills.
        requests[-1].retry_policy.maximum_attempts = 100
    return requests


async def _run(load: Load, chance: random.Random, fleet: Fleet, workers: list[EchoWorker], seconds: float) -> str:
    killed = Counter[str]()
    dead = set[int]()

    async def kill_one() -> None:
        kinds: list[Sequence[Database | ServerProcess | EchoWorker]] = [fleet.servers, workers, [fleet.database]]
        victim = chance.choice([one for one in chance.choice(kinds) if id(one) not in dead] or workers)
        if id(victim) in dead:
            return
        dead.add(id(victim))
        killed[type(victim).__name__] += 1
        victim.kill()
        await asyncio.sleep(chance.random())
        await asyncio.to_thread(victim.start)
        dead.remove(id(victim))

    async def kill_on() -> None:
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            await kill_one()
            await asyncio.sleep(chance.uniform(*LIVES))

    async def kill() -> None:
        await asyncio.gather(*(kill_on() for _ in range(KILLERS)))

    await load.run(chance, kill)
    return ", ".join(f"{name} {count} times" for name, count in sorted(killed.items()))


def _reasons(story: Story) -> tuple[str, ...]:
    """Why it was tried again, each time. Fails for an attempt that nothing explains."""
    reasons = []
    for before, event in zip(story.events, story.events[1:], strict=False):
        if event.status == tasks_pb2.TASK_STATUS_RUNNING and before.sequence > 1:
            assert before.status == tasks_pb2.TASK_STATUS_PENDING, story.events
            assert before.context["code"], story.events
            reasons.append(str(before.context["code"]))
    return tuple(reasons)
