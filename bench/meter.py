"""CPU time of each process over a stretch of time, and what everything else on the machine used meanwhile."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

OTHERS_CORES = 0.3
"""A run in which other programs used more than this is not believed."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used between `start` and `stop`."""

    cpu: Mapping[str, float]
    """CPU seconds, user and system, by the process's name; with those of the processes that it started."""
    others: float
    """Cores kept busy, on average, by programs that are not ours, or taken by other guests of the same host."""


class Meter:
    """Reads the clocks of named processes, those of one name together.

    Ours counts as well, so that it isn't taken for somebody else's.
    """

    def __init__(self, pids: Iterable[tuple[str, int]] = ()) -> None:
        self._processes = [(name, psutil.Process(pid)) for name, pid in pids]
        self._self = psutil.Process()
        self._before: tuple[float, float, float, dict[str, float]] | None = None

    def start(self) -> None:
        self._before = self._read()

    def born(self, name: str, pid: int) -> None:
        """Counts a process that has begun since `start`, and all of its time."""
        self._processes.append((name, psutil.Process(pid)))

    def stop(self) -> Usage:
        """What was used since `start`. Raises psutil.NoSuchProcess if a process has died."""
        assert self._before, "not started"
        began, machine_before, self_before, before = self._before
        ended, machine, own, after = self._read()
        cpu = {name: after[name] - before.get(name, 0.0) for name in after}
        others = machine - machine_before - (own - self_before) - sum(cpu.values())
        # The machine's clocks are coarser than the processes' own, so an idle machine may come out below zero.
        return Usage(cpu, max(0.0, others / (ended - began)))

    def _read(self) -> tuple[float, float, float, dict[str, float]]:
        machine = psutil.cpu_times()
        # Absent outside Linux. Time in soft interrupts is left out: it is the loopback's, which is ours.
        taken = machine.user + getattr(machine, "nice", 0.0) + machine.system + getattr(machine, "steal", 0.0)
        used: defaultdict[str, float] = defaultdict(float)
        named = {process.pid for _, process in self._processes}
        for name, process in self._processes:
            used[name] += _seconds(process, gone=True)
            for child in process.children(recursive=True):
                if child.pid not in named:
                    with suppress(psutil.NoSuchProcess):  # it has just ended
                        used[name] += _seconds(child, gone=True)
        return time.perf_counter(), taken, _seconds(self._self, gone=False), used


def memory(pid: int) -> float:
    """Bytes that the process takes: of a page that several share, its part (PSS); where no system tells, all of it."""
    info = psutil.Process(pid).memory_full_info()
    return float(getattr(info, "pss", info.rss))


def _seconds(process: psutil.Process, *, gone: bool) -> float:
    """CPU seconds of the process; `gone` with those of its children that have ended, where the system tells."""
    times = process.cpu_times()
    children = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0) if gone else 0.0
    return float(times.user + times.system + children)
