"""docs/performance.md shows what the pages of results say: its table is not copied by hand."""

import re

import pytest

from bench import against, summary
from bench.meter import OTHERS_CORES, Usage
from bench.sample import Sample


def test_the_table_is_that_of_the_results() -> None:
    """If this fails after a measurement: `python -m bench.scale --render`."""
    text = summary.PAGE.read_text()
    assert text == summary.filled(text)
    assert len(re.findall(r"\| (?:yes|\*\*no\*\*) \|", text)) > 20


@pytest.mark.parametrize(
    ("measured", "wanted", "reached"),
    [
        ("0.55 ×", "≥ 0.55 ×", "yes"),
        ("0.54 ×", "≥ 0.55 ×", "**no**"),
        ("1.5 ×", "≤ 1.5 ×", "yes"),
        ("1,200.5 ms", "≤ 1,200 ms", "**no**"),
    ],
)
def test_what_is_reached(measured: str, wanted: str, reached: str) -> None:
    """By the sign, and by what is shown."""
    assert summary._word(measured, wanted) == reached


def test_only_rounds_that_are_believed_are_judged() -> None:
    """Both runs of one; by the median."""

    def sample(server: float, others: float = 0.0) -> Sample:
        return Sample(1000, 1, Usage(cpu={"server": server, "database": 1.0}, others=others))

    busy = 2 * OTHERS_CORES
    assert against.judged([(sample(9, busy), sample(1)), (sample(1), sample(9, busy))]) is None
    pairs = [(sample(2), sample(1)), (sample(1), sample(1)), (sample(3), sample(1)), (sample(99), sample(1, busy))]
    assert against.judged(pairs) == 1.5
