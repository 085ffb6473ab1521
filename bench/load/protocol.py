"""How a load generator talks to the bench, and what it does with a plan.

It reads its plan, one line of JSON, from its input; makes ready, warms up, and prints `ready`; waits for the line
`go`, which bears the time; does the measured part, and prints what came of it as one line of JSON. It ends when it is
ended.
"""

import asyncio
import gc
import json
import math
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import uvloop

Call = Callable[[int], Awaitable[None]]
"""Makes the n-th call and returns when it is answered. Raises if it failed: a benchmark has no failed calls."""

Trip = Callable[[], Awaitable[float | None]]
"""Submits one thing and returns when its result is there: when it was started by `time.monotonic`, or None if it
doesn't tell."""

Way = Callable[[], Awaitable[tuple[float, float, float]]]
"""Tells somebody something: when it was begun, when it was acknowledged, and when it was there, by `time.time`."""

PAUSE_SECONDS = (0.01, 0.03)


def plan() -> dict[str, Any]:
    """What to do."""
    read: dict[str, Any] = json.loads(sys.stdin.readline())
    return read


async def wait_for_go() -> float:
    """Says that all is ready, and returns on the word: when it was given, by `time.monotonic`, the same for all."""
    # What was made until here is not looked through again while we measure.
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    _, at = (await asyncio.to_thread(sys.stdin.readline)).split()
    return float(at)


async def wait_for_end() -> None:
    """Stays: a load generator is still there when CPU times and memory are read."""
    await asyncio.to_thread(sys.stdin.readline)


async def drive(
    call: Call, *, calls: int, callers: int, warm_up: int, operations: int = 1, rate: float = math.inf
) -> None:
    """Makes `calls` calls of so many operations, and tells what came of it.

    `callers` of them at any time; at a `rate`, in calls a second, as many as it takes, if so many are enough: then what
    one takes counts from when it was due.
    """
    await _make(call, range(warm_up), callers, rate)
    await wait_for_go()
    began = time.perf_counter()
    latencies = await _make(call, range(warm_up, warm_up + calls), callers, rate)
    tell(calls * operations, time.perf_counter() - began, percentiles(latencies))


async def round_trips(trip: Trip, *, calls: int, warm_up: int) -> None:
    """Makes trips one at a time, the system at rest before each, and tells how long to the starts and the results."""
    starts: list[float] = []
    results: list[float] = []

    async def make(count: int) -> None:
        for _ in range(count):
            await pause()
            began = time.monotonic()
            started = await trip()
            results.append(time.monotonic() - began)
            if started is not None:
                starts.append(started - began)

    await make(warm_up)
    starts.clear()
    results.clear()
    await wait_for_go()
    began = time.perf_counter()
    await make(calls)
    told = {**(percentiles(starts, "start_") if starts else {}), **percentiles(results, "result_")}
    tell(calls, time.perf_counter() - began, **told)


async def delays(way: Way, *, calls: int, warm_up: int) -> None:
    """Makes ways one at a time, and tells how long each took since it was begun, and since it was acknowledged."""
    begun: list[float] = []
    acknowledged: list[float] = []

    async def make(count: int) -> None:
        for _ in range(count):
            began, done, at = await way()
            begun.append(at - began)
            acknowledged.append(at - done)

    await make(warm_up)
    begun.clear()
    acknowledged.clear()
    await wait_for_go()
    began = time.perf_counter()
    await make(calls)
    told = {**percentiles(begun, "begun_"), **percentiles(acknowledged, "acknowledged_")}
    tell(calls, time.perf_counter() - began, **told)


async def pause() -> None:
    """Lets the system come to rest; not in step with anything that it does at intervals."""
    await asyncio.sleep(random.uniform(*PAUSE_SECONDS))


def percentiles(seconds: Sequence[float], name: str = "") -> Mapping[str, float]:
    """The median and what only one in a hundred exceeds, in milliseconds, under their names."""
    ordered = sorted(seconds)
    return {f"{name}p{part}_ms": ordered[len(ordered) * part // 100] * 1000 for part in (50, 99)}


def tell(
    operations: int, seconds: float, latencies: Mapping[str, float] = MappingProxyType({}), /, **more: float
) -> None:
    """Reports the measured part as a `bench.sample.Sample`: `latencies` by its names, `more` as its `more`."""
    print(json.dumps({"operations": operations, "seconds": seconds, **latencies, "more": more}), flush=True)


def run(main: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """A load generator's whole life."""

    async def live() -> None:
        await main(plan())
        await wait_for_end()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())


async def _make(call: Call, numbers: range, callers: int, rate: float) -> list[float]:
    """Seconds that each call took."""
    left = iter(numbers)
    latencies: list[float] = []
    first = time.perf_counter()

    async def caller() -> None:
        for number in left:
            began = time.perf_counter()
            if math.isfinite(rate):
                due = first + (number - numbers.start) / rate
                await asyncio.sleep(due - began)
                began = due
            await call(number)
            latencies.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return latencies
