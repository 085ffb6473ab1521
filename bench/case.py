"""What a case is, and what is made of several: tables, with the ratios and goals that matter in them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from bench import figures
from bench.figures import Column, Figure, Plot
from bench.lab import Lab
from bench.sample import Sample


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done in a run. The same for every case, so that collections have the same size."""

    calls: int
    """Measured."""
    warm_up: int
    """Before, unmeasured."""
    callers: int
    """At a time."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is measured, each time in a lab of its own."""

    name: str
    """Short, for the command line."""
    title: str
    """For the tables."""
    run: Callable[[Lab, Size], Awaitable[Sample]]
    peer: bool = False
    """Whether it needs the peers' own environment."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One case's figure as a multiple of another's, taken within each round."""

    title: str
    of: Case
    to: Case
    figure: Figure
    at_least: float | None = None
    at_most: float | None = None
    """What we want to reach."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of one case that we want to keep small."""

    title: str
    of: Case
    figure: Figure
    unit: str
    at_most: float | None = None
    """What we want to reach, if anything."""
    beyond: Case | None = None
    """If given, by how much the figure is more than this case's, taken within each round."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cases that are shown side by side."""

    name: str
    """Its files' name."""
    title: str
    cases: Sequence[Case]
    ratios: Sequence[Ratio] = ()
    goals: Sequence[Goal] = ()
    columns: Sequence[Column] = figures.CALLS
    plot: Plot = figures.CPU
    method: str = ""
    """What a run does and what is told of it. Default: so many operations by so many callers, and CPU times for one."""

    @property
    def has_peers(self) -> bool:
        """Whether a case of it needs the peers' own environment."""
        return any(case.peer for case in self.cases)

    def without_peers(self) -> "Table":
        """The same, of what runs in our own environment."""
        return replace(
            self,
            cases=[case for case in self.cases if not case.peer],
            ratios=[ratio for ratio in self.ratios if not (ratio.of.peer or ratio.to.peer)],
        )
