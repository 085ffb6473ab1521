"""Rounds: every case once in each, so that a slow hour of the machine is slow for all of them."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench import lab
from bench.case import Case, Goal, Ratio, Size
from bench.figures import Figure
from bench.meter import OTHERS_CORES
from bench.sample import Sample

TRIES = 3
"""How often a run is made anew because others used the machine."""


@dataclass(frozen=True, slots=True)
class Results:
    """Every case's samples, one a round."""

    samples: Mapping[str, Sequence[Sample]]
    size: Size

    def of(self, case: Case) -> Sequence[Sample]:
        """The samples to go by: those that are believed; all of them if none is."""
        samples = self.samples[case.name]
        return [sample for sample in samples if sample.believed] or samples

    def disbelieved(self, case: Case) -> int:
        """How many of its samples were taken while others used the machine."""
        return sum(not sample.believed for sample in self.samples[case.name])

    def ratio(self, ratio: Ratio) -> float:
        """The median of the ratios within each round; of believed ones, where there are any."""
        return median(of / to for of, to in self._pairs(ratio.figure, ratio.of, ratio.to))

    def goal(self, goal: Goal) -> float:
        """The median of the figure, or of the differences within each round; of believed ones, where there are any."""
        if goal.beyond is None:
            return median(_value(goal.figure, sample) for sample in self.of(goal.of))
        return median(of - than for of, than in self._pairs(goal.figure, goal.of, goal.beyond))

    def _pairs(self, figure: Figure, one: Case, other: Case) -> Sequence[tuple[float, float]]:
        pairs = list(zip(self.samples[one.name], self.samples[other.name], strict=True))
        sound = [(of, to) for of, to in pairs if of.believed and to.believed]
        return [(_value(figure, of), _value(figure, to)) for of, to in sound or pairs]


def at_least_one(text: str) -> int:
    """A number of the command line. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 1 or more")
    return int(text)


async def run(cases: Sequence[Case], size: Size, rounds: int) -> Results:
    """Measures; tells what it does."""
    samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
    for number in range(rounds):
        # Each round begins with another case: none always runs after the same neighbour, on the same warm machine.
        first = number % len(cases)
        for case in (*cases[first:], *cases[:first]):
            sample = await _measure(case, size)
            samples[case.name].append(sample)
            print(f"round {number + 1}/{rounds}  {case.name:<10} {_line(sample)}", flush=True)
    return Results(samples, size)


def _value(figure: Figure, sample: Sample) -> float:
    value = figure(sample)
    assert value is not None, "the case does not tell it"
    return value


async def _measure(case: Case, size: Size) -> Sample:
    for left in reversed(range(TRIES)):
        async with lab.opened() as place:
            sample = await case.run(place, size)
        if sample.believed or not left:
            break
        print(f"          {case.name:<10} others used {sample.usage.others:.2f} cores, again", flush=True)
    return sample


def _line(sample: Sample) -> str:
    cpu = "  ".join(f"{name} {sample.cpu_ms(name):.3f}" for name in sorted(sample.usage.cpu))
    doubt = "" if sample.believed else f"  others used {sample.usage.others:.2f} cores, more than {OTHERS_CORES}"
    return f"{sample.rate:7,.0f}/s  CPU ms: {cpu}{doubt}"
