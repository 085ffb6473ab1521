"""Tables, and the places for them in pages that are otherwise written by hand."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
DOCS = RESULTS.parents[1] / "docs"

_PLACE = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Sequence[str]:
    """The lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def filled(text: str, tables: Mapping[str, Sequence[str]]) -> str:
    """The text with each place `<!-- name -->` … `<!-- end -->` filled with the table of that name."""
    return _PLACE.sub(lambda place: place[1] + "\n".join(tables[place[2]]) + "\n" + place[3], text)
