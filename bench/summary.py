"""What was wanted and what was measured, of all pages of results, as one table for docs/performance.md."""

from collections.abc import Iterator

from bench import markdown, report
from bench.cases import TABLES
from bench.markdown import DOCS, RESULTS

PAGE = DOCS / "performance.md"


def write() -> None:
    """Writes the page anew, of what the pages of results say now."""
    PAGE.write_text(filled(PAGE.read_text()))


def filled(text: str) -> str:
    """The text with the table at its place."""
    rows = [
        (f"[{name}](../bench/results/{name}.md): {what}", measured, wanted, word)
        for name, what, measured, wanted, word in _rows()
    ]
    return markdown.filled(text, {"wanted": markdown.table(("what", "measured", "wanted", "reached"), rows)})


def _rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Name of the page, what it is, measured, wanted, reached; of whatever has something that is wanted."""
    for table in TABLES:
        path = RESULTS / f"{table.name}.md"
        text = path.read_text() if path.exists() else ""
        doubt = ", with doubts" if report.DOUBT in text else ""
        for line in text.splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if len(cells) == 3 and cells[2].startswith(("≥", "≤")):
                yield table.name, cells[0], cells[1], cells[2], _word(cells[1], cells[2]) + doubt


def _word(measured: str, wanted: str) -> str:
    """Whether it is reached, as far as the digits go that are shown."""
    sign, bound = wanted[0], float(wanted[1:].split(maxsplit=1)[0].replace(",", ""))
    figure = float(measured.split(maxsplit=1)[0].replace(",", ""))
    return "yes" if (figure >= bound if sign == "≥" else figure <= bound) else "**no**"
