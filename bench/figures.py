"""Figures that are read from samples, and how they are shown: as columns of a page, as parts of a chart's bars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.sample import Sample

Figure = Callable[[Sample], float | None]
"""None if the sample has none, such as the CPU time of a process that there isn't."""


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of each case, on the page."""

    title: str
    figure: Figure
    form: str = "{:.2f}"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of each case's bar, in the chart."""

    title: str
    colour: str
    figure: Figure


@dataclass(frozen=True, slots=True)
class Plot:
    """What the chart shows."""

    title: str
    unit: str
    parts: Sequence[Part]
    form: str = "{:.2f}"
    rate: bool = False
    """Whether each bar has the operations a second beside it."""


def rate(sample: Sample) -> float:
    """Operations a second."""
    return sample.rate


def seconds(sample: Sample) -> float:
    """What all of it took."""
    return sample.seconds


def p50(sample: Sample) -> float | None:
    """Milliseconds of the median operation."""
    return sample.p50_ms


def p99(sample: Sample) -> float | None:
    """Milliseconds that one operation in a hundred exceeds."""
    return sample.p99_ms


def cpu(*processes: str) -> Figure:
    """CPU milliseconds of these processes together, for one operation."""
    return lambda sample: sample.cpu_ms(*processes) if sample.usage.cpu.keys() & set(processes) else None


def cpu_a_second(*processes: str) -> Figure:
    """CPU milliseconds of these processes together, for one second."""
    return lambda sample: sum(sample.usage.cpu.get(name, 0.0) for name in processes) * 1000 / sample.seconds


def more(*names: str) -> Figure:
    """What the case tells under these names, together."""
    return lambda sample: sum(sample.more[name] for name in names) if sample.more.keys() >= set(names) else None


def less(figure: Figure, other: Figure) -> Figure:
    """By how much one is more than the other; nothing, where it isn't."""
    return lambda sample: max(0.0, (figure(sample) or 0.0) - (other(sample) or 0.0))


SERVER, DATABASE, BEHIND, ENVOY, LOAD = (
    cpu("server"),
    cpu("database"),
    cpu("server", "database"),
    cpu("envoy"),
    cpu("load"),
)
BLUE, GREEN, AMBER, PLUM, GREY = "#3465a4", "#75a76b", "#d9a441", "#8c6bb1", "#c8c8c8"

CALLS = (
    Column("ops/s", rate, "{:,.0f}"),
    Column("server CPU ms", SERVER),
    Column("database CPU ms", DATABASE),
    Column("load CPU ms", LOAD),
    Column("p50 ms", p50, "{:.1f}"),
    Column("p99 ms", p99, "{:.1f}"),
)
"""What is told of calls, unless a table says otherwise."""

CPU = Plot(
    "CPU milliseconds for one",
    "ms",
    (
        Part("server", BLUE, SERVER),
        Part("Envoy", AMBER, ENVOY),
        Part("database", GREEN, DATABASE),
        Part("load generator", GREY, LOAD),
    ),
    rate=True,
)
"""The chart of calls."""
