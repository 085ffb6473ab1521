"""What it costs a server to hear of others' tasks, which concern nobody there: the price of being many.

A real server on a real database hears a process that only tells. Its CPU time beyond that of silence, with few and with
many signals, and with few and many tasks in each, gives the price of a signal and of a task in it.
"""

from dataclasses import astuple, dataclass
from statistics import median

from bench import lab, openmcp
from bench.sample import Sample
from bench.scale.spread import RUNS

SECONDS = 8.0
FEW, MANY = 10.0, 150.0
"""Signals a second."""
TASKS = 500
"""In one of many."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """CPU milliseconds of one server."""

    signal: float
    """For a signal that names one task."""
    changed: float
    """For one task more in it that was claimed or has ended."""
    waiting: float
    """For one task more in it that is new and waits."""
    database: float
    """Of the database, for a signal written and handed to one server."""


async def measure() -> Hearing:
    """Of each figure the middle one of RUNS."""
    runs = [await _measure() for _ in range(RUNS)]
    return Hearing(*map(median, zip(*map(astuple, runs), strict=True)))


async def _measure() -> Hearing:
    async def run(rate: float, tasks: int, *, waiting: bool) -> Sample:
        async with lab.opened() as place:
            served = await openmcp.serve(place)
            plan = {
                "uri": served.environment["OPENMCP_MONGODB_URI"],
                "database": "openmcp",
                "rate": rate,
                "tasks": tasks,
                "waiting": waiting,
                "seconds": SECONDS,
            }
            async with openmcp.listening(served):  # else it wants to be told nothing, and hears nothing
                return await place.measure("bench.load.other_process", plan)

    few, many = await run(FEW, 1, waiting=False), await run(MANY, 1, waiting=False)
    changed, waiting = [await run(FEW, TASKS, waiting=waiting) for waiting in (False, True)]
    return Hearing(
        signal=_slope("server", few, many),
        changed=(changed.cpu_ms("server") - few.cpu_ms("server")) / (TASKS - 1),
        waiting=(waiting.cpu_ms("server") - few.cpu_ms("server")) / (TASKS - 1),
        database=_slope("database", few, many),
    )


def _slope(process: str, few: Sample, many: Sample) -> float:
    """CPU milliseconds for a signal more: what a process does in any case is in both."""
    used = [sample.usage.cpu[process] * 1000 / sample.seconds for sample in (few, many)]
    return (used[1] - used[0]) / (many.rate - few.rate)
