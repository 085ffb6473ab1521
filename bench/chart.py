"""A table as an SVG: for each case a bar of what its plot says, part after part.

No plotting library for a few rectangles.
"""

from collections.abc import Sequence
from html import escape
from statistics import median

from bench.case import Case, Table
from bench.figures import Part
from bench.rounds import Results

WIDTH, BAR, ROW, TOP, LEFT, RIGHT = 860, 20, 52, 56, 16, 150


def svg(table: Table, results: Results) -> str:
    """The table's chart."""
    plot = table.plot
    bars = {case.name: [_value(part, case, results) for part in plot.parts] for case in table.cases}
    scale = (WIDTH - LEFT - RIGHT) / max(*map(sum, bars.values()), 1e-9)
    height = TOP + ROW * len(table.cases) + 12
    size = f'width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        f'<rect {size} fill="white"/>',
        _text(LEFT, 20, f"{table.title}: {plot.title}", weight="bold"),
        *_legend([part for index, part in enumerate(plot.parts) if any(bar[index] for bar in bars.values())]),
    ]
    for index, case in enumerate(table.cases):
        y = TOP + ROW * index
        parts.append(_text(LEFT, y + 12, f"{case.title}"))
        x = float(LEFT)
        for part, value in zip(plot.parts, bars[case.name], strict=True):
            if value:
                told = f"{part.title}: {plot.form.format(value)} {plot.unit}"
                parts.append(_bar(x, y + 18, value * scale, part.colour, told))
                x += value * scale
        told = f"{plot.form.format(sum(bars[case.name]))} {plot.unit}"
        if plot.rate:
            told += f" · {median(sample.rate for sample in results.of(case)):,.0f}/s"
        parts.append(_text(x + 8, y + 33, told))
    return "\n".join([*parts, "</svg>", ""])


def _value(part: Part, case: Case, results: Results) -> float:
    """The median; 0 where there is nothing to show."""
    return median(part.figure(sample) or 0.0 for sample in results.of(case))


def _legend(shown: Sequence[Part]) -> list[str]:
    parts, x = [], LEFT
    for part in shown:
        parts += [_bar(x, 31, 12, part.colour, part.title, height=12), _text(x + 18, 42, part.title)]
        x += 40 + 7 * len(part.title)
    return parts


def _bar(x: float, y: float, width: float, colour: str, title: str, height: int = BAR) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" fill="{colour}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}" fill="#222">{escape(text)}</text>'
