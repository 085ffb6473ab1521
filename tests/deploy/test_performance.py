"""docs/performance.md shows what the pages of results say: its table is not copied by hand."""

import argparse
import re
from pathlib import Path

import pytest

from bench import against, report, rounds, summary
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


def test_doubts_of_a_page_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each of its figures; of another page nothing."""
    monkeypatch.setattr(summary, "RESULTS", tmp_path)
    for name, doubt in (("get", f"{report.DOUBT} in 1 of it.\n"), ("stack", "")):
        (tmp_path / f"{name}.md").write_text(f"| ratio | measured | wanted |\n| a | 1.2 × | ≤ 2 × |\n{doubt}")
    filled = summary.filled("<!-- wanted -->\n<!-- end -->\n")
    assert re.findall(r"(\w+)\.md.*\| (\S.*) \|\n", filled) == [("get", "yes, with doubts"), ("stack", "yes")]


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many", ""])
def test_a_number_of_the_command_line_is_one_at_least(number: str) -> None:
    """Else nothing would be measured."""
    assert rounds.at_least_one("12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match="not a number of 1 or more"):
        rounds.at_least_one(number)


def test_only_rounds_that_are_believed_are_judged() -> None:
    """Both runs of one; by the median."""

    def sample(server: float, others: float = 0.0) -> Sample:
        return Sample(1000, 1, Usage(cpu={"server": server, "database": 1.0}, others=others))

    busy = 2 * OTHERS_CORES
    assert against.judged([(sample(9, busy), sample(1)), (sample(1), sample(9, busy))]) is None
    pairs = [(sample(2), sample(1)), (sample(1), sample(1)), (sample(3), sample(1)), (sample(99), sample(1, busy))]
    assert against.judged(pairs) == 1.5
